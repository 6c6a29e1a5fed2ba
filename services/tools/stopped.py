"""Processes that were stopped (SIGSTOP): found, told, woken, at last killed. Pure.

    running ──stopped──▶ frozen, told and woken ──still stopped──▶ killed
       ▲                        │
       └───────────it runs──────┘

The health listener watches the processes of supervisord; a tool host watches its own children.
Tool host and dispatcher both watch the listener. One that is stuck in a tool's code is no business
of this: its call has a limit.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

FOUND_S = 1.5
GRACE_S = 1.0
"""Between being woken and being killed."""

What = Literal["frozen", "recovered", "killed"]


@dataclass(frozen=True)
class Seen:
    """What is to be told of a process, and done: wake the frozen, kill the killed."""

    pid: int
    what: What
    stopped_s: float


class Watch:
    """Who is stopped, and since when."""

    def __init__(self, found_s: float = FOUND_S) -> None:
        self._found_s = found_s
        self._since_s: dict[int, float] = {}
        self._told_s: dict[int, float] = {}
        self._killed: set[int] = set()

    def looked(self, stopped: Collection[int], now_s: float) -> list[Seen]:
        """These are stopped now; all others run, or are gone."""
        seen = [
            Seen(pid, "recovered", now_s - self._since_s[pid])
            for pid in self._told_s
            if pid not in stopped and pid not in self._killed
        ]
        for known in (self._since_s, self._told_s):
            for pid in [pid for pid in known if pid not in stopped]:
                del known[pid]
        self._killed.intersection_update(stopped)
        for pid in stopped:
            stopped_s = now_s - self._since_s.setdefault(pid, now_s)
            if pid not in self._told_s:
                if stopped_s >= self._found_s:
                    self._told_s[pid] = now_s
                    seen.append(Seen(pid, "frozen", stopped_s))
            elif pid not in self._killed and now_s - self._told_s[pid] >= GRACE_S:
                self._killed.add(pid)
                seen.append(Seen(pid, "killed", stopped_s))
        return seen
