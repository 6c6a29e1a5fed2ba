"""What tools do, well and badly. Those that come to an end wait for the file `go` before they do.

A second attempt does not wait. Each begin is a line in the file `begun`.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from voicebus import ToolContext, tool
from voicebus.services.tools.api import Effects

P = ParamSpec("P")
R = TypeVar("R")
FOLDER = Path(os.environ["DEEDS_FOLDER"])
EFFECTS = cast(Effects, os.environ["DEEDS_EFFECTS"])
PATIENCE_S = float(os.environ["DEEDS_PATIENCE_S"])
"""What those have that come to an end."""


def marked(function: Callable[P, R]) -> Callable[P, R]:
    """A tool with the effects that the test wants."""
    return tool(effects=EFFECTS, grace_s=0.2)(function)


def ending(function: Callable[P, R]) -> Callable[P, R]:
    """As marked, of one that comes to an end: no deadline is meant for it."""
    return tool(effects=EFFECTS, grace_s=0.2, timeout_s=PATIENCE_S)(function)


def _note(what: str, file: str = "begun") -> None:
    where = os.open(FOLDER / file, os.O_APPEND | os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(where, f"{what}\n".encode())
    os.close(where)


def _go(ctx: ToolContext) -> None:
    _note(ctx.call_id)
    while ctx.attempt == 1 and not (FOLDER / "go").exists():
        time.sleep(0.01)


@ending
def returns(ctx: ToolContext) -> str:
    """Answer."""
    _go(ctx)
    return "done"


@ending
def raises(ctx: ToolContext) -> None:
    """Raise."""
    _go(ctx)
    raise ValueError("no such city")


@ending
def gets_wrong_arguments(ctx: ToolContext, number: int) -> int:
    """Never run, as nobody gives it a number."""
    _go(ctx)
    return number


@marked
def looks_whether_it_should_stop(ctx: ToolContext) -> None:
    """Look."""
    _note(ctx.call_id)
    while True:
        ctx.check()


@marked
def answers_when_asked_to_stop(ctx: ToolContext) -> str:
    """Look, and answer all the same."""
    _note(ctx.call_id)
    while not ctx.cancelled:
        time.sleep(0.001)
    return "all the same"


@marked
def sleeps(ctx: ToolContext) -> None:
    """Sleep."""
    _note(ctx.call_id)
    time.sleep(600)


@marked
def loops_in_python(ctx: ToolContext) -> None:
    """Loop."""
    _note(ctx.call_id)
    while True:
        pass


@marked
def holds_the_gil_in_c(ctx: ToolContext) -> int:
    """One C call."""
    _note(ctx.call_id)
    return len(re.findall(r"(a+)+$", "a" * 60 + "b"))


@marked
def reads_a_silent_socket(ctx: ToolContext) -> bytes:
    """Wait for a byte."""
    _note(ctx.call_id)
    one, _other = socket.socketpair()
    return one.recv(1)


@marked
def starts_fifty_processes(ctx: ToolContext) -> None:
    """Start many, half of them in sessions of their own."""
    for number in range(50):
        child = subprocess.Popen(["sleep", "600"], start_new_session=number % 2 == 0)
        _note(str(child.pid), "children")
    _note(ctx.call_id)
    time.sleep(600)


@marked
def ignores_everything(ctx: ToolContext) -> None:
    """Ignore cancels and signals."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _note(ctx.call_id)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


@marked
def floods_standard_error(ctx: ToolContext) -> None:
    """Write and write."""
    _note(ctx.call_id)
    while True:
        os.write(2, b"nobody will ever read this line, and it is not the last one\n" * 100)


@ending
def returns_100_mb(ctx: ToolContext) -> str:
    """Return a long text."""
    _go(ctx)
    return "x" * 100_000_000


@ending
def returns_what_is_not_json(ctx: ToolContext) -> object:
    """Return a socket."""
    _go(ctx)
    return socket.socket()


@ending
def asks_for_too_much_memory(ctx: ToolContext) -> int:
    """Ask for more than there is."""
    _go(ctx)
    return len(bytearray(64 * 1024**3))


@ending
def calls_os_exit(ctx: ToolContext) -> None:
    """Leave."""
    _go(ctx)
    os._exit(7)


@ending
def segfaults(ctx: ToolContext) -> None:
    """Read address zero."""
    _go(ctx)
    ctypes.string_at(0)


@ending
def is_killed_for_memory(ctx: ToolContext) -> None:
    """What the kernel does to who has taken all."""
    _go(ctx)
    os.kill(os.getpid(), signal.SIGKILL)
