"""How often the journal commits: at once, unless much is decided. Pure."""

TOGETHER_S = 0.005
"""While much is decided, so much time passes between commits, and what comes meanwhile goes
together: a commit costs two changes of thread, a transaction and an acknowledgement, whatever is in
it."""
BURST = 20
"""So many commits go out before that, each at once: an interruption or a tool call takes a few."""


class Pace:
    """Each commit owes TOGETHER_S, time pays it back, and up to BURST of them may be owed."""

    def __init__(self) -> None:
        self._paid_at_s = 0.0

    def commit(self, now_s: float) -> None:
        """One begins."""
        self._paid_at_s = max(self._paid_at_s, now_s) + TOGETHER_S

    def rest_s(self, now_s: float) -> float:
        """How long the next one waits."""
        return max(0.0, self._paid_at_s - BURST * TOGETHER_S - now_s)
