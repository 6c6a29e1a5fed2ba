"""A point in time, handed in by the shell: the pure parts have no clock."""

from typing import NamedTuple


class Moment(NamedTuple):
    """When something happened."""

    s: float
    """Monotonic seconds: for durations."""
    us: int
    """Unix microseconds: for others to read."""
