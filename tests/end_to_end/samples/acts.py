"""Tools for the end-to-end tests. What they do to the world is a line in `acts.log` beside them."""

import os
import sys
import time
from pathlib import Path

from voicebus import Cancelled, ToolContext, tool

LOG = Path(__file__).with_name("acts.log")


def _note(what: str, call_id: str) -> None:
    line = f"{what} {call_id} {os.getpid()} {time.monotonic_ns()}\n"
    with LOG.open("ab", buffering=0) as file:  # one write: lines of two processes do not mix
        file.write(line.encode())


@tool(timeout_s=30)
def tally(ctx: ToolContext, seconds: float = 0.0) -> dict[str, str]:
    """Leave one mark, at the beginning, and end after some seconds."""
    _note("tally", ctx.call_id)
    time.sleep(seconds)
    _note("tallied", ctx.call_id)
    return {"tally": "one mark"}


@tool(timeout_s=60, grace_s=15)  # what it notes is looked for: not to be killed when starved
def patient(ctx: ToolContext, seconds: float = 30.0) -> dict[str, float]:
    """Wait, and stop as soon as somebody says so."""
    _note("patient", ctx.call_id)
    ends_at = time.monotonic() + seconds
    try:
        while time.monotonic() < ends_at:
            ctx.check()
            time.sleep(0.001)
    except Cancelled:
        _note("stopped", ctx.call_id)
        raise
    return {"seconds": seconds}


@tool(timeout_s=1, grace_s=0.1)
def hang(ctx: ToolContext) -> None:
    """Never end and listen to nobody."""
    _note("hang", ctx.call_id)
    while True:
        time.sleep(1000)


@tool(timeout_s=5)
def fail() -> None:
    """Raise an error."""
    raise RuntimeError("the printer is out of paper")


@tool(timeout_s=5)
def leave() -> None:
    """End the interpreter."""
    sys.stderr.write("leaving by the back door\n")
    sys.stderr.flush()
    os._exit(7)


@tool(timeout_s=5)
def half(number: int) -> dict[str, float]:
    """Half of a whole number.

    Args:
        number: the whole number
    """
    return {"half": number / 2}
