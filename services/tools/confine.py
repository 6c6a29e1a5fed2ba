"""What a runner may not do: outlive its parent, outrun the sound, fill memory, read secrets.

Tools are kept from accidents, not from malice.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable, Mapping

LEAST = 19
"""The nice value of runners and of MCP servers."""

SECRETS = frozenset({"OPENAI_API_KEY"})
ALLOWED = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TERM",
        "PYTHONPATH",
        "PYTHONUTF8",
        "PYTHONHASHSEED",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    }
)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def is_secret(name: str) -> bool:
    """Whether tools never get this variable, whatever the settings say."""
    return name in SECRETS or name.startswith("VOICEBUS_")


def environment(full: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """The variables that tools get: a short list, and those that the settings name."""
    extra = frozenset(also)
    return {
        name: value
        for name, value in full.items()
        if (name in ALLOWED or name.startswith("LC_") or name in extra) and not is_secret(name)
    }


def die_with_parent(*, really: bool = True) -> None:
    """The kernel kills this process when its parent ends, or no longer does.

    Linux only; elsewhere the end of the pipe has to do.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if really else 0, 0, 0, 0)


def adopt_orphans() -> None:
    """What descends from this process and loses its parent becomes its child, not the child of
    process 1: a daemon that has left its group and its session is still found. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def name_process(name: str) -> None:
    """What `ps -o comm` and `top` show, at most 15 bytes. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """All processes that this one started and that still hang on it, in whatever group."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{entry.name}/stat", "rb") as file:
                    parent = int(file.read().rsplit(b")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    frontier = [pid]
    while frontier:
        frontier = [one for parent in frontier for one in children.get(parent, ())]
        found += frontier
    return found


def children() -> list[int]:
    """The processes whose parent this process is, those that it adopted included. Linux only."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def living(pids: Iterable[int]) -> list[int]:
    """Those that have not ended. A zombie has: it holds nothing but its number. Linux only."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
            if file.read().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X"):
                found.append(pid)
    return found


def yield_the_cpu() -> bool:
    """Sound comes first: this thread and all it starts get what is left. False: not quite, yet;
    Linux takes such a wish of a session only ten times a second.

    Nice 19 and not SCHED_IDLE: a core that runs idle tasks only counts as free, so Linux wakes
    others there and then lets them wait for its tick, 4 to 5 ms for one wake-up in a hundred.
    Where it weighs whole sessions against each other ("autogroup") the session is told, too.
    """
    with contextlib.suppress(OSError):
        os.nice(LEAST)
    return _weigh_session(os.getpid(), LEAST)


def make_yield(leader: int) -> bool:
    """As `yield_the_cpu`, for another: the process that leads a session, all threads of its group,
    and what they start from then on. False: not quite, yet."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, leader, LEAST)
    return _weigh_session(leader, LEAST)


def hurry(pid: int) -> None:
    """A process that is being ended gets the CPU again: else, where nothing is idle, it would take
    long even to die. Only a privileged host can give back all."""
    _weigh_session(pid, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 0)


def _weigh_session(pid: int, nice: int) -> bool:
    try:
        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
            file.write(str(nice))
    except BlockingIOError:
        return False
    except OSError:
        pass  # no such thing here
    return True


def tasks_of_user() -> int:
    """Processes and threads of this process's user; 0 where the system does not tell."""
    found = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                    found += os.stat(f"/proc/{entry.name}/task").st_nlink - 2
    return found


def limit(*, memory_mb: int, files: int, tasks: int = 0) -> None:
    """Address space, descriptors, processes of the user (not for root, says the kernel); no core
    files; first choice when memory runs out."""
    if tasks > 0:
        _lower(resource.RLIMIT_NPROC, tasks)
    _lower(resource.RLIMIT_CORE, 0)
    if memory_mb > 0:
        _lower(resource.RLIMIT_AS, memory_mb * 1024 * 1024)
    if files > 0:
        _lower(resource.RLIMIT_NOFILE, files)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _lower(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(what, (ceiling, ceiling))
