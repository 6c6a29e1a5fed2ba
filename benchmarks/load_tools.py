"""The tools of the benchmarks, as Voicebus runs them: `--tools benchmarks/load_tools.py`."""

import os
import time

from voicebus import Cancelled, ToolContext, tool
from voicebus.benchmarks.shared import work


@tool(effects="none", timeout_s=30)
def sleeps(seconds: float = 2.0) -> str:
    """Waits."""
    work.sleeps(seconds)
    return "slept"


@tool(effects="none", timeout_s=30)
def spins(seconds: float = 2.0) -> str:
    """Burns Python."""
    work.spins(seconds)
    return "spun"


@tool(effects="none", timeout_s=30)
def holds(seconds: float = 2.0) -> str:
    """Burns C and holds the interpreter's lock."""
    work.holds(seconds)
    return "held"


@tool(effects="idempotent", timeout_s=30)
def empty() -> str:
    """Does nothing."""
    return "done"


@tool(effects="none", timeout_s=30, grace_s=10)  # killed, it could not tell
def watches(ctx: ToolContext, note: str) -> str:
    """Works until it is cancelled, and notes when it saw that."""
    _note(note, "begun")
    try:
        while True:
            ctx.check()
            sum(range(100))
    except Cancelled:
        _note(note, "seen")
        raise


@tool(effects="none", timeout_s=30, grace_s=10)  # killed, it could not tell
def waits(ctx: ToolContext, note: str) -> str:
    """Sleeps until it is cancelled, and notes when it saw that."""
    _note(note, "begun")
    try:
        ctx.sleep(30)
    except Cancelled:
        _note(note, "seen")
        raise
    return "waited"


@tool(effects="none", timeout_s=30, grace_s=0.1)
def stuck(note: str) -> str:
    """Is stuck in C: only a kill helps."""
    _note(note, "begun")
    work.holds(20.0)
    return "came loose"


@tool(effects="none", timeout_s=30)
def begins(note: str) -> str:
    """Notes when it began."""
    _note(note, "begun")
    return "done"


def _note(path: str, what: str) -> None:
    line = f"{what} {time.monotonic_ns()} {os.getpid()}\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
