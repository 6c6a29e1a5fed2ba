"""Dropped sound, told at most once a second: a stall would otherwise flood with reports."""

TELL_EVERY_S = 1.0


class Drops:
    """Adds up what was dropped until it is time to tell."""

    def __init__(self) -> None:
        self._ms = 0.0
        self._told_s: float | None = None
        self.why = ""

    def add(self, ms: float, why: str) -> None:
        """So much sound is lost, and why."""
        self._ms += ms
        self.why = why

    def due_ms(self, now_s: float, *, at_once: bool = False) -> int:
        """Milliseconds to tell now, rounded up; 0 when there is nothing, or it is too early."""
        early = self._told_s is not None and now_s - self._told_s < TELL_EVERY_S
        if self._ms <= 0 or (early and not at_once):
            return 0
        told, self._ms, self._told_s = -int(-self._ms // 1), 0.0, now_s
        return told
