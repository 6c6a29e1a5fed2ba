"""The session process's end of the link: one dealer per transport, and what to say on it."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages import link
from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.sockets import Frames, Sent, Sockets

log = structlog.get_logger("session.link")

QUEUE = 5000
REGREET_S = 0.2
_up: Codec[link.ANY_UP] = Codec(link.ANY_UP, what="link from the transport")


class TransportLink:
    """One transport. Says hello whenever either side is new; the rest is numbers."""

    def __init__(
        self,
        sockets: Sockets,
        endpoints: Endpoints,
        transport: int,
        shard: int,
        inc: str,
        *,
        heads: Callable[[int], Mapping[str, int]],
        received: Callable[[int, link.ANY_UP, Frames], None],
    ) -> None:
        """`heads(transport)`: session id -> last `n` up that is journaled."""
        self.transport = transport
        self.audio_in = endpoints.audio_in(transport)
        self.audio_out = endpoints.audio_out(transport)
        self._loop = asyncio.get_running_loop()
        self._greeted_at = 0.0
        self._shard = shard
        self._inc = inc
        self._heads = heads
        self._received = received
        self._dealer = sockets.dealer(
            endpoints.link(transport),
            self._frames,
            name=f"session-{shard}",
            queue=QUEUE,
        )

    def hello(self) -> None:
        """Introduce this process and what it has journaled."""
        self._greeted_at = self._loop.time()
        heads = dict(self._heads(self.transport))
        self.send(link.Hello(shard=self._shard, inc=self._inc, sessions=heads))

    def hello_in(self, seconds: float) -> None:
        """Not before that, whatever is sent meanwhile."""
        self._greeted_at = self._loop.time() + seconds
        self._loop.call_later(seconds, self.hello)

    def send(self, message: link.ANY_DOWN, payload: bytes | None = None) -> None:
        """A message that is encoded here."""
        self.send_raw(encode(message), payload)

    def send_raw(self, header: bytes, payload: bytes | None) -> None:
        """A message that was encoded when it was decided."""
        sent = self._dealer.send([header] if payload is None else [header, payload])
        if sent is not Sent.OK:
            # Numbered frames stay in the outbox and are sent again after the next welcome.
            log.warning("link.full", transport=self.transport)

    def _frames(self, frames: Frames) -> None:
        try:
            message, payload = _up.decode(frames)
        except BadMessage as error:
            log.warning("link.refused", transport=self.transport, why=str(error))
            return
        if isinstance(message, link.LinkReset):
            # Each message that was queued for a restarted transport draws one of these.
            if self._loop.time() - self._greeted_at > REGREET_S:
                self.hello()
            return
        self._received(self.transport, message, payload)
