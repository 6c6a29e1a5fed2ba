"""A patience: when what was sent and is not acknowledged may have been lost."""

AGAIN_AFTER_S = 2.0
AGAIN_AT_MOST_S = 60.0


class Patience:
    """Of one side of a link with one session. Pure; times are the caller's, in seconds."""

    __slots__ = ("_oldest", "_since_s", "_wait_s")

    def __init__(self) -> None:
        self._oldest = 0
        """The number that is waited for since then."""
        self._since_s = 0.0
        self._wait_s = AGAIN_AFTER_S

    def is_over(self, oldest: int, now_s: float, *, is_there: bool = True) -> bool:
        """Whether all from the `oldest` unacknowledged number on (0: there is none) is to be sent
        again now. The waits double, since the other side may only be slow; who is not there is
        sent nothing."""
        if oldest != self._oldest or oldest == 0:
            self._oldest, self._since_s, self._wait_s = oldest, now_s, AGAIN_AFTER_S
            return False
        if not is_there or now_s - self._since_s < self._wait_s:
            return False
        self._since_s = now_s
        self._wait_s = min(2 * self._wait_s, AGAIN_AT_MOST_S)
        return True
