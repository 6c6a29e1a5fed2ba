"""The time of a shard: Unix microseconds at the pace of the monotonic clock.

Leases, watchdogs and waits are counted in it. The wall clock alone would end every lease when
somebody sets it forward, and none for an hour when it is set back.
"""

import time
from collections.abc import Callable

JUMP_NS = 1_000_000_000
"""What the wall clock moves by at once is followed up to here, as a clock that is kept right does;
beyond it somebody has set it, or the machine slept."""


class Clock:
    """Begins at the wall clock's time, never runs backwards, and does not jump."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._seen_ns = self._offset_ns = wall_ns() - monotonic_ns()
        self._last_us = 0

    def now_us(self) -> int:
        """Each time a later one."""
        now_us = (self._monotonic_ns() + self._offset_ns) // 1000
        self._last_us = max(self._last_us + 1, now_us)
        return self._last_us

    def not_before(self, at_us: int) -> None:
        """What has happened at `at_us` is past, whatever the wall clock said at the start."""
        self._offset_ns = max(self._offset_ns, at_us * 1000 - self._monotonic_ns())

    def follow(self) -> float:
        """Now and then: take over how the wall clock was corrected. Seconds of a jump, or 0."""
        seen_ns = self._wall_ns() - self._monotonic_ns()
        by_ns = seen_ns - self._seen_ns
        self._seen_ns = seen_ns
        if abs(by_ns) > JUMP_NS:
            return by_ns / 1e9
        self._offset_ns += by_ns
        return 0.0


def timer_s(due_us: int, now_us: int) -> float:
    """Seconds for a timer of the loop's that rings at `due_us` and not before: up to a whole
    millisecond. uvloop rounds to the nearest one; each fourth deadline was looked at too early, and
    that nothing was to be decided was written to the journal."""
    return max(0, -(-(due_us - now_us) // 1000)) / 1000
