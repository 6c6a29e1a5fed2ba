"""A pace: the same thing is not done again too soon."""

from collections.abc import Hashable

REMEMBERED = 1024


class Pace:
    """When each thing was done last. Pure and bounded."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._done_s: dict[Hashable, float] = {}

    def is_due(self, what: Hashable, now_s: float) -> bool:
        """Whether it may be done now; if so it counts as done."""
        done_s = self._done_s.get(what)
        if done_s is not None and now_s - done_s < self._every_s:
            return False
        self._done_s.pop(what, None)
        self._done_s[what] = now_s
        if len(self._done_s) > REMEMBERED:
            del self._done_s[next(iter(self._done_s))]
        return True
