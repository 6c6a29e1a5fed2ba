# ruff: noqa: T201, ASYNC251 - that is what these are for
"""Tools that do what tools should not."""

import asyncio
import ctypes
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

from voicebus import Cancelled, ToolContext, tool


@tool
def echo(text: str) -> str:
    """Say it again."""
    return text


@tool
def fails() -> None:
    """Raise."""
    print("looking up", file=sys.stderr)
    raise ValueError("no such city")


@tool
def logs_and_fails(ctx: ToolContext) -> None:
    """Log, and raise."""
    ctx.log.info("page %d of the directory", 7)
    raise ValueError("no such name")


@tool(name="tally")
class Tally:
    """Count its own calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> list[int]:
        self.calls += 1
        return [os.getpid(), self.calls]


@tool(timeout_s=30, grace_s=0.1)
def spin_python() -> int:
    """Loop in Python, without looking."""
    number = 0
    while True:
        number += 1


@tool(timeout_s=30, grace_s=0.1)
def sleep_long() -> None:
    """Sleep, without looking."""
    time.sleep(60)


@tool(timeout_s=30, grace_s=0.1)
def hold_gil() -> int:
    """One C call that never releases the GIL."""
    return sum(range(10**12))


@tool(timeout_s=30, grace_s=0.1)
def backtrack() -> bool:
    """A regular expression that never ends."""
    return re.match(r"(a+)+$", "a" * 60 + "b") is not None


@tool(timeout_s=30, grace_s=0.1)
def read_socket() -> bytes:
    """Wait for a byte that does not come."""
    one, _other = socket.socketpair()
    return one.recv(1)


@tool(timeout_s=30, grace_s=0.1)
def ignores_everything(ctx: ToolContext) -> None:
    """Ignore cancels and signals."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctx.progress("deaf")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


@tool(timeout_s=30, grace_s=0.1)
def fork_tree(pids: str, count: int) -> None:
    """Start many processes, some in sessions of their own, and wait for them."""
    children = [
        subprocess.Popen(["sleep", "60"], start_new_session=number % 2 == 0)
        for number in range(count)
    ]
    pathlib.Path(pids).write_text(" ".join(str(one.pid) for one in children))
    for child in children:
        child.wait()


@tool(timeout_s=30, grace_s=20)  # however long it waits for the processor
def polite(ctx: ToolContext) -> str:
    """Look often, and clean up."""
    try:
        while True:
            ctx.check()
    except Cancelled as cancelled:
        print(f"cleaning up: {cancelled.reason}")
        raise


@tool(timeout_s=30, grace_s=20)
def sleeps_politely(ctx: ToolContext) -> None:
    """Sleep, but listen."""
    ctx.sleep(60)


@tool(timeout_s=30, grace_s=20)
def finishes_anyway(ctx: ToolContext) -> str:
    """Answer although it was asked to stop."""
    while not ctx.cancelled:
        pass
    return "all the same"


@tool
def exits(code: int) -> None:
    """End the process without a word."""
    print("last words", file=sys.stderr, flush=True)
    os._exit(code)


@tool
def sys_exits() -> None:
    """Call sys.exit."""
    sys.exit(3)


@tool
def segfault() -> None:
    """Read address zero."""
    print("about to fall", file=sys.stderr)
    ctypes.string_at(0)


@tool
def floods() -> None:
    """Write 20 MB to standard error and fail."""
    for number in range(200_000):
        os.write(
            2, b"line %d of very many that nobody will read, and so on and on and on\n" % number
        )
    os.write(2, b"the very last line\n")
    os.abort()


@tool
def returns_a_socket() -> object:
    """Return what is not JSON."""
    return socket.socket()


@tool
def returns_much(size: int) -> str:
    """Return a long text."""
    return "x" * size


@tool
def eats_memory() -> int:
    """Ask for more memory than there is."""
    return len(bytearray(8 * 1024**3))


@tool
def environment() -> dict[str, str]:
    """Everything this process can read of secrets."""
    found = dict(os.environ)
    found["PROC"] = pathlib.Path("/proc/self/environ").read_text(errors="replace")
    found["PARENT"] = pathlib.Path(f"/proc/{os.getppid()}/environ").read_text(errors="replace")
    return found


@tool
def priority() -> dict[str, int]:
    """How the kernel sees this process."""
    session = pathlib.Path("/proc/self/autogroup")
    return {
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "session_nice": int(session.read_text().split()[-1]) if session.is_file() else 19,
        "session_leader": int(os.getsid(0) == os.getpid()),
        "sigterm_is_default": int(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL),
        "stdin_bytes": len(os.read(0, 10)),
    }


@tool
def closes_its_link() -> None:
    """Close every descriptor there is."""
    os.closerange(3, 256)


@tool
def counts(up_to: int = 3, ctx: ToolContext | None = None) -> int:
    """Count and tell.

    Args:
        up_to: how far
    """
    assert ctx is not None
    for number in range(up_to):
        ctx.progress(f"at {number}")
        ctx.sleep(0.06)
    return up_to


@tool(effects="none", timeout_s=30)
def reads_slowly(ctx: ToolContext) -> int:
    """Take a while the first time, and tell the attempt."""
    if ctx.attempt == 1:
        ctx.sleep(60)
    return ctx.attempt


@tool
def forks() -> str:
    """Fork, and return twice."""
    return "child" if os.fork() == 0 else "parent"


@tool
def identity(ctx: ToolContext) -> dict[str, object]:
    """What the call knows of itself."""
    return {"key": ctx.idempotency_key, "attempt": ctx.attempt, "pid": os.getpid()}


@tool(timeout_s=30, grace_s=20)  # however long it waits for the processor
async def async_sleep(seconds: float) -> str:
    """Sleep on the loop."""
    await asyncio.sleep(seconds)
    return f"slept {seconds}"


@tool
async def async_prints(text: str) -> None:
    """Print something."""
    print(text)


@tool(timeout_s=30, grace_s=0.1)
async def async_blocks() -> None:
    """Block the loop that others share."""
    time.sleep(60)


@tool(timeout_s=0.3, grace_s=0.1)
def too_slow() -> None:
    """Take longer than allowed."""
    time.sleep(60)


@tool(timeout_s=0.3, grace_s=20)
def too_slow_but_polite(ctx: ToolContext) -> None:
    """Take longer than allowed, and stop when asked."""
    ctx.sleep(60)
