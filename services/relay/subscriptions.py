"""Who has subscribed to what at the relay, and what must be subscribed to inside. Pure.

ZeroMQ tells of a peer that is gone by one unsubscription for each of its topics, without saying
whose they were, and for refused ones, too. So each topic is counted, both ways.
"""

from collections import Counter


class Subscriptions:
    """Counts; the socket inside follows."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted: dict[bytes, list[str]] = {}
        self._refused: dict[bytes, list[str]] = {}
        self._of_client: Counter[str] = Counter()

    def has_room(self, client: str) -> bool:
        """Whether one more is within its limit."""
        return self._of_client[client] < self._limit

    def admit(self, client: str, topic: bytes) -> None:
        """A subscription that holds."""
        self._admitted.setdefault(topic, []).append(client)
        self._of_client[client] += 1

    def refuse(self, client: str, topic: bytes) -> None:
        """A subscription that does not; its end will be told all the same."""
        self._refused.setdefault(topic, []).append(client)
        self._of_client[client] += 1

    def left(self, topic: bytes) -> bool:
        """One who asked for it is gone. Whether an admitted one is to be given up inside.

        When both were there it may have been either; then the refused one is counted off, and the
        other stays subscribed inside until the last is gone, which harms nobody.
        """
        return not self._take(self._refused, topic) and self._take(self._admitted, topic)

    def _take(self, asked: dict[bytes, list[str]], topic: bytes) -> bool:
        clients = asked.get(topic)
        if not clients:
            return False
        client = clients.pop(0)
        if not clients:
            del asked[topic]
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]
        return True
