"""Events on their way up: numbered, kept until acknowledged, bounded."""

from collections.abc import Iterator, Sequence

_OVERHEAD_BYTES = 200
"""What an event costs beside its bytes."""


class Budget:
    """What all rings of a transport may hold together."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class Ring:
    """The events of one session that its process has not yet journaled."""

    def __init__(self, limit_bytes: int, budget: Budget, last_n: int = 0) -> None:
        """`last_n` continues an earlier numbering of the same session."""
        self.last_n = last_n
        """The newest event's number."""
        self.acknowledged_n = last_n
        self.sent_n = last_n
        """The newest event handed to the socket; a lost socket sets it back."""
        self.bytes = 0
        self._limit_bytes = limit_bytes
        self._budget = budget
        self._kept: dict[int, Sequence[bytes]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def is_full(self) -> bool:
        """Whether the bound is reached. One event may overshoot it: a frame is taken whole."""
        over_all = self._budget.used_bytes >= self._budget.limit_bytes
        return self.bytes >= self._limit_bytes or (over_all and self.bytes > 0)

    def append(self, frames: Sequence[bytes]) -> None:
        """Keep the event with number `last_n + 1`."""
        self.last_n += 1
        self._kept[self.last_n] = frames
        self._weigh(_size(frames))

    def acknowledge(self, n: int) -> None:
        """Forget what is journaled: everything up to `n`."""
        n = min(n, self.last_n)
        while self.acknowledged_n < n:
            self.acknowledged_n += 1
            self._weigh(-_size(self._kept.pop(self.acknowledged_n)))
        self.sent_n = max(self.sent_n, self.acknowledged_n)

    def go_back(self) -> None:
        """What is not acknowledged counts as not sent."""
        self.sent_n = self.acknowledged_n

    def unsent(self) -> Iterator[Sequence[bytes]]:
        """The next events to send, in order; call `sent()` after each that went out."""
        while self.sent_n < self.last_n:
            yield self._kept[self.sent_n + 1]

    def sent(self) -> None:
        """The event that `unsent` gave last has gone out."""
        self.sent_n += 1

    def clear(self) -> None:
        """Forget everything: nobody will ask for it."""
        self._weigh(-self.bytes)
        self._kept.clear()
        self.acknowledged_n = self.sent_n = self.last_n

    def _weigh(self, change: int) -> None:
        self.bytes += change
        self._budget.used_bytes += change


def _size(frames: Sequence[bytes]) -> int:
    return sum(map(len, frames)) + _OVERHEAD_BYTES
