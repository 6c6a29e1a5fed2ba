"""Helpers for tests of programs on the bus: run folders, readiness, and what was left behind."""

import asyncio
import contextlib
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import psutil

from voicebus.bus import locks
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.system import State
from voicebus.bus.sockets import Sockets

_states: Codec[State] = Codec(State, what="state")


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A private, empty run folder with a short path; gone at the end.

    Not pytest's tmp_path: its long paths do not fit into a Unix socket's address.
    """
    folder = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def next_state(
    endpoints: Endpoints,
    role: str,
    instance: int,
    fits: Callable[[State], bool],
    within_s: float = 30.0,
) -> State:
    """The first state of that role that fits, also when the role is yet to start.

    Raises TimeoutError, which tells the last state that was heard.
    """
    found: asyncio.Queue[State] = asyncio.Queue()
    last: State | None = None

    def heard(frames: list[bytes]) -> None:
        with contextlib.suppress(BadMessage):
            found.put_nowait(_states.decode(frames[1:])[0])

    with Sockets() as sockets:
        sockets.subscriber([endpoints.state(role, instance)], [b"system/"], heard)
        try:
            async with asyncio.timeout(within_s):
                while True:
                    last = await found.get()
                    if fits(last):
                        return last
        except TimeoutError:
            said = "nothing was heard of it" if last is None else f"it last said {last}"
            raise TimeoutError(f"{role}-{instance}, waited for {within_s:g} s: {said}") from None


def left_behind(run_dir: Path, known: Collection[psutil.Process] = ()) -> list[str]:
    """What a stopped cell must not leave: processes, sockets, held or forgotten locks, the key.

    Looks at the processes named and at all whose command line or environment names the run
    folder. One line each, for a test's message; empty when all is clean.
    """
    found: dict[int, str] = {}
    me = psutil.Process()
    mine = {me.pid, *(one.pid for one in me.parents())}
    for process in (*known, *psutil.process_iter()):
        if process.pid in mine or process.pid in found:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            line = " ".join(process.cmdline())
            is_ours = any(process == one for one in known) or str(run_dir) in line
            if is_ours or process.environ().get("VOICEBUS_RUN") == str(run_dir):
                found[process.pid] = f"process {process.pid}: {line}"
    files = []
    for path in sorted(run_dir.rglob("*")) if run_dir.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                files.append(f"socket {path}")
            elif path.suffix == ".lock":
                pid = locks.holder(path)
                files.append(f"lock {path}" + (f", held by process {pid}" if pid else ""))
            elif path.name in {"provider.key", "supervisord.pid"}:
                files.append(f"file {path}")
    return [*found.values(), *files]
