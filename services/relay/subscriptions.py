"""Who has subscribed to what at the relay, and what must be subscribed to inside. Pure.

ZeroMQ tells of a connection that is gone by one unsubscription for each of its topics, without
saying whose they were, and for refused ones, too. And whoever has a key may take back what he never
asked for. So each topic is counted by connection: nobody takes away what another has.
"""

from collections import Counter


class Subscriptions:
    """Counts; the socket inside follows."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted: dict[bytes, dict[str, str]] = {}
        """Topic -> connection -> client."""
        self._refused: dict[bytes, dict[str, str]] = {}
        self._of_client: Counter[str] = Counter()

    def has_room(self, client: str) -> bool:
        """Whether one more is within its limit."""
        return self._of_client[client] < self._limit

    def admit(self, client: str, connection: str, topic: bytes) -> bool:
        """A subscription that holds. Whether it is new, and to be made inside as well."""
        return self._add(self._admitted, client, connection, topic)

    def refuse(self, client: str, connection: str, topic: bytes) -> None:
        """A subscription that does not; its end will be told all the same."""
        self._add(self._refused, client, connection, topic)

    def was_refused(self, connection: str, topic: bytes) -> bool:
        """Whether this is one of the connection's that do not hold."""
        return connection in self._refused.get(topic, ())

    def left(self, connection: str, topic: bytes) -> bool:
        """This connection does not want it any more. Whether one is to be given up inside."""
        if self._take(self._refused, connection, topic):
            return False
        return self._take(self._admitted, connection, topic)

    def ended(self, topic: bytes) -> bool:
        """A connection that asked for it is gone. Whether one is to be given up inside.

        When a refused one was there as well it may have been either; then that one is counted off,
        and the other stays subscribed inside until the last is gone, which harms nobody.
        """
        for asked in (self._refused, self._admitted):
            if asked.get(topic):
                self._take(asked, next(iter(asked[topic])), topic)
                return asked is self._admitted
        return False

    def _add(
        self, asked: dict[bytes, dict[str, str]], client: str, connection: str, topic: bytes
    ) -> bool:
        of_topic = asked.setdefault(topic, {})
        if connection in of_topic:
            return False
        of_topic[connection] = client
        self._of_client[client] += 1
        return True

    def _take(self, asked: dict[bytes, dict[str, str]], connection: str, topic: bytes) -> bool:
        client = asked.get(topic, {}).pop(connection, None)
        if client is None:
            return False
        if not asked[topic]:
            del asked[topic]
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]
        return True
