"""Processes and files of a run folder: who holds a role, what was left behind, how it is ended."""

import contextlib
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from voicebus.bus import locks

OURS = ("voicebus", "supervisord")
"""What the command line of a process that we may end contains."""
UP_LOCK = "up.lock"
"""Held by the command that starts or stops the stack, for as long as that takes."""
DOWN_LOCK = "down.lock"
"""Held by the command that ends the stack, from when it lets no new calls in."""
COMMANDS = frozenset({UP_LOCK, DOWN_LOCK})
"""Locks that are no role's."""
TERM_S = 5.0
KILL_S = 3.0


def holders(run_dir: Path) -> dict[str, int]:
    """Role and instance -> the process that holds its lock; 0 if it did not say which."""
    found: dict[str, int] = {}
    for path in sorted(run_dir.glob("*.lock")):
        if path.name in COMMANDS:
            continue
        pid = locks.holder(path)
        if pid is not None:
            found[path.stem] = pid
    return found


def find(pid: int) -> psutil.Process | None:
    """The process, if it is alive and one of ours."""
    try:
        process = psutil.Process(pid)
        line = " ".join(process.cmdline())
    except psutil.Error:
        return None
    return process if any(word in line for word in OURS) else None


def recorded_supervisor(run_dir: Path) -> psutil.Process | None:
    """The supervisord that the run folder's pid file names, if it lives and is this folder's: the
    file may be older than the machine's last start, and its number another one's by now."""
    try:
        pid = int((run_dir / "supervisord.pid").read_text("ascii"))
        process = find(pid)
        if process is None or not any("supervisord" in word for word in process.cmdline()):
            return None
        return process if os.path.samefile(process.environ()["VOICEBUS_RUN"], run_dir) else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def running_s(pid: int) -> int:
    """How long ago it was started; 0 if it is gone."""
    with contextlib.suppress(psutil.Error):
        return max(0, int(time.time() - psutil.Process(pid).create_time()))
    return 0


def family(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """These and all their descendants, as they are now."""
    found: dict[int, psutil.Process] = {}
    for process in processes:
        try:
            for one in (process, *process.children(recursive=True)):
                found.setdefault(one.pid, one)
        except psutil.Error:
            continue
    return list(found.values())


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run: a zombie does not, and neither does a pid that was given anew."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def resume(processes: Iterable[psutil.Process]) -> None:
    """Let those go on that were stopped with SIGSTOP."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                process.resume()


def describe(process: psutil.Process) -> str:
    """Pid and command line."""
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} ({' '.join(process.cmdline())})"
    return str(process.pid)


def end(processes: Iterable[psutil.Process], *, term_s: float = TERM_S) -> list[psutil.Process]:
    """TERM, then KILL. Returns those that outlived even that."""
    there = alive(processes)
    for process in there:
        with contextlib.suppress(psutil.Error):
            process.terminate()
            process.resume()  # a stopped process would never see the TERM
    there = outlive(there, term_s)
    for process in there:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return outlive(there, KILL_S)


def outlive(processes: Iterable[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Those that have not ended by themselves in that time, all together."""
    until = time.monotonic() + within_s
    return [one for one in processes if not wait(one, max(0.0, until - time.monotonic()))]


def wait(process: psutil.Process, within_s: float) -> bool:
    """Whether it ended in time. A zombie has ended: some init processes are slow to bury."""
    until = time.monotonic() + within_s
    while alive([process]):
        if time.monotonic() >= until:
            return False
        with contextlib.suppress(psutil.Error):
            process.wait(timeout=0.02)
    return True


def remains(run_dir: Path) -> list[Path]:
    """Sockets, locks and the provider's key in the run folder: what must not outlive its owner."""
    found = []
    for path in sorted(run_dir.iterdir()) if run_dir.is_dir() else ():
        try:
            is_socket = stat.S_ISSOCK(path.lstat().st_mode)
        except OSError:
            continue
        if is_socket or path.suffix == ".lock" or path.name in {"supervisord.pid", "provider.key"}:
            found.append(path)
    return found


def sweep(run_dir: Path) -> None:
    """Remove what remains of processes that are gone. Call it only when none of them lives."""
    for path in remains(run_dir):
        if path.name not in COMMANDS:
            path.unlink(missing_ok=True)
