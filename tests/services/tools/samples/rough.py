"""Tools that treat the process they run in badly, and return what is hardly an answer."""

import asyncio
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voicebus import Cancelled, ToolContext, tool

LEFT: list[asyncio.Task[None]] = []
LOOKED: list[str] = []
BAD = "\ud800"
"""Half of a character: Python has it, no encoding does."""


class Mute(Exception):
    """Cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Own(BaseException):
    """No Exception."""


def _deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def _round() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _numbers() -> Iterator[int]:
    yield 1


VALUES: dict[str, Any] = {
    "nan": lambda: [float("nan"), float("inf")],
    "huge_int": lambda: 10**30,
    "endless_int": lambda: 10**5000,
    "bytes": lambda: b"\xff\x00",
    "generator": _numbers,
    "recursive": _round,
    "deepest": lambda: _deep(99),
    "deep": lambda: _deep(100),
    "half_character": lambda: BAD,
    "half_key": lambda: {BAD: 1},
    "class": lambda: Mute,
    "coroutine": lambda: asyncio.sleep(0),
}


@tool
def returns(what: str) -> object:
    """Return one of the VALUES."""
    return VALUES[what]()


@tool
def returns_deeper() -> object:
    """Return what only a changed interpreter could write."""
    sys.setrecursionlimit(200_000)
    threading.stack_size(64 * 1024 * 1024)
    return _deep(5_000)


@tool
def raises(what: str) -> None:
    """Raise."""
    errors: dict[str, BaseException] = {
        "half_character": ValueError(f"no {BAD}"),
        "mute": Mute(),
        "own": Own("not an Exception"),
        "keyboard": KeyboardInterrupt(),
        "exit": SystemExit("bye"),
        "generator_exit": GeneratorExit(),
        "cancelled": Cancelled(),
        "long": ValueError("x" * 10_000_000),
    }
    raise errors[what]


@tool
async def raises_async(what: str) -> None:
    """Raise."""
    if what == "cancelled":
        raise asyncio.CancelledError
    raises(what)


@tool
def says_half_a_character(ctx: ToolContext) -> str:
    """Tell progress that no encoding has."""
    ctx.progress(f"at {BAD}")
    return "done"


@tool
def closes_its_outputs() -> None:
    """Leave nothing to write to."""
    sys.stdout.close()
    sys.stderr.close()
    raise ValueError("no such city")


@tool
def replaces_its_outputs() -> None:
    """Leave nothing that could be written to."""
    sys.stdout = sys.stderr = None
    raise ValueError("no such city")


@tool
def recurses() -> int:
    """Never come back."""
    return recurses() + 1


@tool
def eats_slowly() -> int:
    """Take memory until there is no more."""
    kept = []
    while True:
        kept.append(bytearray(1_000_000))


@tool(timeout_s=30, grace_s=0.5)
def stops_itself(ctx: ToolContext) -> None:
    """Freeze."""
    ctx.progress("deaf")
    os.kill(os.getpid(), signal.SIGSTOP)


@tool(timeout_s=30, grace_s=0.5)
def blocks_all_signals(ctx: ToolContext) -> None:
    """Listen to nothing."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    ctx.progress("deaf")
    time.sleep(60)


@tool(timeout_s=30, grace_s=0.5)
def forgets_the_dump(ctx: ToolContext) -> None:
    """Let the signal that asks for a stack end the process."""
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    ctypes.CDLL(None).signal(signal.SIGUSR1, 0)
    ctx.progress("deaf")
    time.sleep(60)


@tool
def writes_to_every_descriptor() -> str:
    """Write nonsense wherever it can be written."""
    for number in range(3, 64):
        try:
            os.write(number, b"nonsense " * 10)
        except OSError:
            continue
    return "done"


@tool
def floods_standard_output() -> str:
    """Print 20 MB without an end of line, and answer."""
    for _ in range(300):
        sys.stdout.write("x" * 65_536)
    return "done"


@tool
def breaks_the_modules() -> str:
    """Replace what everything is built on."""
    time.monotonic = time.perf_counter = lambda: "never"  # type: ignore[assignment,return-value]
    os.getpid = lambda: -1
    return "done"


DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def _daemon(pids: str) -> None:
    subprocess.run([sys.executable, "-c", DAEMON, pids], check=True)
    while not Path(pids).exists():
        time.sleep(0.01)


@tool(timeout_s=30, grace_s=0.1)
def leaves_a_daemon_and_sleeps(pids: str) -> None:
    """Start what has no parent and no group any more, and be stopped."""
    _daemon(pids)
    time.sleep(60)


@tool
def leaves_a_daemon_and_dies(pids: str) -> None:
    """The same, and crash."""
    _daemon(pids)
    os._exit(3)


@tool
def leaves_a_daemon_and_answers(pids: str) -> str:
    """The same, and answer."""
    _daemon(pids)
    return "done"


@tool(timeout_s=30)
def leaves_a_daemon_and_listens(ctx: ToolContext, pids: str) -> None:
    """The same, and stop when asked."""
    _daemon(pids)
    ctx.sleep(60)


def _look(ctx: ToolContext, seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        ctx.progress("looking")
        ctx.check()


@tool(timeout_s=30)
def looks_in_children(ctx: ToolContext) -> str:
    """Hand the context to forked children."""
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_look, args=(ctx, 0.3)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return f"exit codes {[child.exitcode for child in children]}"


@tool(timeout_s=30)
def looks_in_threads(ctx: ToolContext) -> str:
    """Hand the context to threads, and end with a long answer while they tell."""
    threads = [threading.Thread(target=_look, args=(ctx, 0.5), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    return "x" * 250_000


@tool(timeout_s=30, grace_s=10)
def waits_in_threads(ctx: ToolContext) -> str:
    """Be cancelled in several threads at once."""
    seen: list[str] = []

    def wait() -> None:
        try:
            ctx.sleep(60)
        except Cancelled as cancelled:
            seen.append(cancelled.reason)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ",".join(seen)


@tool
def leaves_an_alarm(kind: str) -> str:
    """Have the process ended after the call, and look elsewhere."""
    if kind == "traceback":
        faulthandler.dump_traceback_later(0.3, exit=True)
    else:
        signal.setitimer(getattr(signal, f"ITIMER_{kind}"), 0.3 if kind == "REAL" else 0.1)
    return "done"


@tool(timeout_s=55)
def works() -> str:
    """Take longer than each of these timers, by any clock."""
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    time.sleep(0.5)
    return "worked"


@tool
def rests(seconds: float) -> str:
    """Take a while."""
    time.sleep(seconds)
    return "rested"


@tool
def leaves_a_signal_ignored() -> str:
    """Make the process deaf to what ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return "done"


@tool
def leaves_children() -> int:
    """Start a process that nobody waits for, once removed."""
    subprocess.run(["sh", "-c", "sleep 0.01 &"], check=True)
    return os.getpid()


@tool(timeout_s=30)
def leaves_a_thread_that_looks(ctx: ToolContext) -> str:
    """Leave a thread behind that looks at the context without pause."""
    began = threading.Event()

    def look() -> None:
        while not ctx.cancelled:
            began.set()
        LOOKED.append(str(ctx.reason))

    threading.Thread(target=look, daemon=True).start()
    began.wait()
    return "left"


@tool
def says_what_was_looked_at() -> list[str]:
    """What the threads that were left behind have seen."""
    for _ in range(1000):
        if LOOKED:
            break
        time.sleep(0.01)
    return LOOKED


@tool(timeout_s=60)
async def looks_after_a_while(ctx: ToolContext, seconds: float) -> str:
    """Hold the loop up, look, and wait for a cancel."""
    ctx.progress("holding")
    time.sleep(seconds)  # noqa: ASYNC251 - that is what it does wrong
    ctx.check()
    await asyncio.sleep(60)
    return "not cancelled"


@tool(timeout_s=60, grace_s=30)
async def has_a_thread_look(ctx: ToolContext) -> str:
    """Wait, and have a thread look meanwhile."""

    def look() -> None:
        while not ctx.cancelled:
            time.sleep(0.001)

    await asyncio.to_thread(look)
    await asyncio.sleep(60)
    return "not cancelled"


@tool
async def answers_at_once() -> str:
    """Need nothing but the loop."""
    return "here"


@tool
def goes_to_a_folder_that_goes() -> str:
    """Change to a folder that is deleted then."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
    return "gone"


@tool
def says_where_it_is() -> str:
    """The working folder."""
    return os.getcwd()


@tool
async def leaves_a_task_that_exits() -> str:
    """Leave a task behind that calls sys.exit()."""

    async def leave() -> None:
        sys.exit(4)

    LEFT.append(asyncio.create_task(leave()))
    return "left"


@tool(timeout_s=60)
async def waits_for_a_task_that_exits() -> str:
    """Wait until such a task has ended."""
    while not any(task.done() for task in LEFT):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return "still here"
