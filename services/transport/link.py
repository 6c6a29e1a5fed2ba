"""The link to the session processes: who owns what, what is sent, what must be sent again."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from voicebus.bus.sockets import Route, Sent
from voicebus.services.pace import Pace
from voicebus.services.patience import Patience
from voicebus.services.transport.ring import Ring

RETRY_S = 0.05
"""After a full queue."""
AGAIN_S = 0.1
BURST = 256
"""Events of one session sent in one go; the others get their turn between."""


class Line(Protocol):
    """What the link needs of a conversation."""

    session_id: str
    ring: Ring


C = TypeVar("C", bound=Line)


class _Shard:
    """A session process, by its number."""

    def __init__(self, number: int, route: Route, inc: str, now_s: float) -> None:
        self.number = number
        self.route = route
        self.inc = inc
        self.heard_s = now_s
        self.is_gone = False
        self.is_full = False


class _Owned(Generic[C]):
    """A conversation and where it stands with its process."""

    def __init__(self, conversation: C, shard: int) -> None:
        self.conversation = conversation
        self.shard = shard
        self.unowned_s: float | None = None
        """Since when its shard's process no longer names it."""
        self.patience = Patience()


class Link(Generic[C]):
    """All session processes of a transport. Sends through `send`, waits through `later`."""

    def __init__(
        self,
        send: Callable[[Route, Sequence[bytes]], Sent],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._send = send
        self._later = later
        self._shards: dict[int, _Shard] = {}
        self._routes: dict[Route, _Shard] = {}
        self._owned: dict[str, _Owned[C]] = {}
        self._again = Pace(AGAIN_S)

    # --- who is there -----------------------------------------------------------------------

    def hello(self, route: Route, number: int, inc: str, now_s: float) -> None:
        """A session process is here; it takes the place of an older one of its shard."""
        older = self._shards.get(number)
        if older is not None:
            self._routes.pop(older.route, None)
        self._drop_route(route)
        shard = _Shard(number, route, inc, now_s)
        self._shards[number] = self._routes[route] = shard

    def owns(self, sessions: dict[str, int], shard: int, now_s: float) -> None:
        """Which sessions it has, and what of them is journaled: the rest is sent again."""
        inc = self._shards[shard].inc
        for one in self.of_shard(shard):
            owned = self._owned[one.session_id]
            n = sessions.get(one.session_id)
            if n is None:
                owned.unowned_s = now_s if owned.unowned_s is None else owned.unowned_s
                continue
            owned.unowned_s = None
            one.ring.acknowledge(n)
            # A process that sees a gap may say Hello for each event behind it: once is enough.
            if self._again.is_due((inc, one.session_id, n), now_s):
                one.ring.go_back()
            self.pump(one)

    def heard(self, route: Route, now_s: float) -> int | None:
        """A sign of life. Returns its shard, or None: it must say Hello first."""
        shard = self._routes.get(route)
        if shard is None:
            return None
        shard.heard_s = now_s
        if shard.is_gone:
            # It was away for a moment; what was under way to it is lost.
            shard.is_gone = False
            for one in self.of_shard(shard.number):
                one.ring.go_back()
                self.pump(one)
        return shard.number

    def to_shard(self, number: int, frames: Sequence[bytes]) -> Sent:
        """A message that is not an event."""
        shard = self._shards.get(number)
        if shard is None or shard.is_gone:
            return Sent.GONE
        sent = self._send(shard.route, frames)
        if sent is Sent.GONE:
            shard.is_gone = True
        return sent

    def probe(self, frames: Sequence[bytes]) -> None:
        """Send everybody something harmless: whoever is gone is noticed by that."""
        for number in self._shards:
            self.to_shard(number, frames)

    # --- conversations ----------------------------------------------------------------------

    def add(self, conversation: C, shard: int) -> None:
        """A conversation that this shard's process owns."""
        self._owned[conversation.session_id] = _Owned(conversation, shard)

    def remove(self, session_id: str) -> None:
        """It is over."""
        self._owned.pop(session_id, None)

    def claim(self, session_id: str) -> None:
        """Its process has named it."""
        owned = self._owned.get(session_id)
        if owned is not None:
            owned.unowned_s = None

    def of_shard(self, number: int) -> list[C]:
        """The conversations of a shard."""
        return [one.conversation for one in self._owned.values() if one.shard == number]

    def orphans(self, now_s: float, after_s: float) -> list[C]:
        """Conversations that no process has owned for so long."""
        found = []
        for owned in self._owned.values():
            shard = self._shards.get(owned.shard)
            silent = shard is None or now_s - shard.heard_s > after_s
            unnamed = owned.unowned_s is not None and now_s - owned.unowned_s > after_s
            if silent or unnamed:
                found.append(owned.conversation)
        return found

    def is_settled(self) -> bool:
        """Whether nothing waits for an acknowledgement that could still come."""
        return not any(
            len(owned.conversation.ring)
            for owned in self._owned.values()
            if owned.unowned_s is None and self._is_there(owned.shard)
        )

    # --- sending ----------------------------------------------------------------------------

    def pump(self, conversation: C) -> None:
        """Send what is not sent, as far as it goes."""
        owned = self._owned.get(conversation.session_id)
        shard = None if owned is None else self._shards.get(owned.shard)
        if owned is None or shard is None or shard.is_gone or shard.is_full:
            return
        if owned.unowned_s is not None:
            return
        ring = conversation.ring
        for count, frames in enumerate(ring.unsent()):
            if count == BURST:
                self._later(0.0, lambda: self.pump(conversation))
                return
            sent = self._send(shard.route, frames)
            if sent is Sent.OK:
                ring.sent()
                continue
            if sent is Sent.GONE:
                shard.is_gone = True
            else:
                shard.is_full = True
                self._later(RETRY_S, lambda: self._resume(shard))
            return

    def resend_lost(self, now_s: float) -> int:
        """What was sent long ago and is still not acknowledged may have been lost on the way: a
        frozen process is disconnected and comes back without a word. Call once a second; returns
        how many sessions are sent again."""
        count = 0
        for owned in self._owned.values():
            ring = owned.conversation.ring
            oldest = ring.acknowledged_n + 1 if ring.sent_n > ring.acknowledged_n else 0
            if owned.patience.is_over(oldest, now_s, is_there=self._is_there(owned.shard)):
                ring.go_back()
                self.pump(owned.conversation)
                count += 1
        return count

    def _resume(self, shard: _Shard) -> None:
        shard.is_full = False
        if self._shards.get(shard.number) is shard:
            self._pump_all(self.of_shard(shard.number))

    def _pump_all(self, conversations: Iterable[C]) -> None:
        for one in conversations:
            self.pump(one)

    def _is_there(self, number: int) -> bool:
        shard = self._shards.get(number)
        return shard is not None and not shard.is_gone

    def _drop_route(self, route: Route) -> None:
        shard = self._routes.pop(route, None)
        if shard is not None and self._shards.get(shard.number) is shard:
            del self._shards[shard.number]
