"""How a call is stopped: ask, wait, dump the stack, terminate, kill. Pure.

running ──cancel, deadline──► asked ──grace──► dumped ──20 ms──► terminated ──200 ms──► killed
"""

from dataclasses import dataclass, replace
from typing import Literal

Stage = Literal["running", "asked", "dumped", "terminated", "killed"]
Action = Literal["ask", "dump", "terminate", "kill"]

DUMP_S = 0.02
"""A terminated process writes no stack any more, so it gets this long to write it."""
TERMINATE_S = 0.2
"""SIGTERM keeps its default action in runners and works at once, unless the tool changed it."""
TIMEOUT = "timeout"


@dataclass(frozen=True)
class Ladder:
    """Where one call stands. Times are monotonic seconds."""

    deadline_at: float
    grace_s: float
    stage: Stage = "running"
    since: float = 0.0
    cause: str | None = None
    """Why it is being stopped: `timeout`, or the reason of the cancel."""

    @property
    def is_forced(self) -> bool:
        """Whether its process has been sent a signal: its end is our doing from then on. The one
        that asks for a stack ends a process whose tool has changed what signals do."""
        return self.stage in ("dumped", "terminated", "killed")


def cancel(ladder: Ladder, at: float, reason: str) -> tuple[Ladder, tuple[Action, ...]]:
    """Somebody wants it stopped. The first reason stands."""
    if ladder.stage != "running":
        return ladder, ()
    return replace(ladder, stage="asked", since=at, cause=reason), ("ask",)


def tick(ladder: Ladder, at: float) -> tuple[Ladder, tuple[Action, ...]]:
    """Time has come to `at`: one step up at most, so that each has its effect."""
    if at < due(ladder):
        return ladder, ()
    match ladder.stage:
        case "running":
            return cancel(ladder, at, TIMEOUT)
        case "asked":
            return replace(ladder, stage="dumped", since=at), ("dump",)
        case "dumped":
            return replace(ladder, stage="terminated", since=at), ("terminate",)
        case "terminated" | "killed":
            return replace(ladder, stage="killed", since=at), ("kill",)


def due(ladder: Ladder) -> float:
    """When to tick; infinity when nothing more can be done."""
    match ladder.stage:
        case "running":
            return ladder.deadline_at
        case "asked":
            return ladder.since + ladder.grace_s
        case "dumped":
            return ladder.since + DUMP_S
        case "terminated":
            return ladder.since + TERMINATE_S
        case "killed":
            return float("inf")
