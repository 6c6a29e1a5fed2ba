"""Those who listen: the welcome of each subscription, heads, raw frames and cancels."""

import contextlib
from collections.abc import Callable, Iterable

import msgspec
import orjson

from voicebus.bus import topics
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.events import Cancel, EventHeader, Head, Welcome
from voicebus.bus.sockets import Sockets
from voicebus.services.session.conversation import Conversation
from voicebus.services.session.core import effects as fx
from voicebus.services.session.ledger import Numbered


class Audience:
    """The publisher of one shard."""

    def __init__(
        self,
        sockets: Sockets,
        endpoints: Endpoints,
        shard: int,
        inc: str,
        *,
        conversations: Callable[[], Iterable[Conversation]],
        now_us: Callable[[], int],
    ) -> None:
        self._inc = inc
        self._conversations = conversations
        self._now_us = now_us
        self._publisher = sockets.publisher(endpoints.events(shard), self._welcome)

    def publish(self, event: Numbered) -> None:
        """An event, encoded when it was decided."""
        self._publisher.publish(event.topic, [event.header])

    def cancel(self, session_id: str, broadcast: fx.Broadcast, at_us: int) -> None:
        """The broadcast that workers poll."""
        cancel = Cancel(
            session_id=session_id,
            epoch=broadcast.epoch,
            call_ids=list(broadcast.call_ids),
            reason=broadcast.reason,
            at_us=at_us,
        )
        self._publisher.publish(topics.cancel(session_id, broadcast.what), [encode(cancel)])

    def head(self, conversation: Conversation) -> None:
        """Where the event lane of a session stands, so that a lost tail is seen."""
        state = "open" if conversation.ended_us is None else "closed"
        head = Head(seq=conversation.head, topics=conversation.heads, state=state)
        epoch = conversation.state.epoch
        header = conversation.ledger.unnumbered(head, epoch=epoch, at_us=self._now_us())
        self._publisher.publish(topics.event(conversation.session_id, "head"), [header])

    def raw(self, session_id: str, direction: str, frame: bytes) -> None:
        """A provider's frame as it is, while somebody listens."""
        if not self._publisher.wants_lane("raw"):
            return
        kind = "unknown"
        with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
            kind = str(orjson.loads(frame).get("type", kind))
        header = {
            "v": 1,
            "kind": kind,
            "session_id": session_id,
            "dir": direction,
            "at_us": self._now_us(),
        }
        self._publisher.publish(topics.raw(session_id, kind), [encode(header), frame])

    def _welcome(self, topic: bytes) -> None:
        """On the very string subscribed: whoever reads it knows that its filter works."""
        heads = {
            one.session_id: one.head
            for one in self._conversations()
            if _covers(topic, f"event/{one.session_id}/".encode())
        }
        header = EventHeader(
            kind="welcome",
            session_id=topics.owner(topic),
            inc=self._inc,
            at_us=self._now_us(),
            data=msgspec.Raw(encode(Welcome(heads=heads))),
        )
        self._publisher.publish(topic, [encode(header)])


def _covers(topic: bytes, prefix: bytes) -> bool:
    """Whether a subscription can match anything under this prefix."""
    return prefix.startswith(topic) or topic.startswith(prefix)
