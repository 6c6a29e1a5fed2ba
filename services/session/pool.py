"""The session process's end of the tool pool: the catalogue, and calls with their outcomes."""

from collections.abc import Callable

import structlog

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages import work
from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.sockets import Frames, Sockets

log = structlog.get_logger("session.pool")

_from: Codec[work.ANY_FROM_DISPATCHER] = Codec(
    work.ANY_FROM_DISPATCHER, what="message from the dispatcher"
)


class ToolPool:
    """One dispatcher."""

    def __init__(
        self,
        sockets: Sockets,
        endpoints: Endpoints,
        shard: int,
        inc: str,
        *,
        changed: Callable[[bool], None],
        received: Callable[[work.ANY_FROM_DISPATCHER], None],
    ) -> None:
        """`changed(restarted)` is called for each catalogue."""
        self.catalogue: dict[str, work.ToolSpec] = {}
        self.known = False
        self._peer_inc = ""
        self._shard = shard
        self._inc = inc
        self._changed = changed
        self._received = received
        self._dealer = sockets.dealer(
            endpoints.calls, self._frames, name=f"session-{shard}", queue=2000
        )

    def follow(self) -> None:
        """Ask for the catalogue, now and at each change."""
        self.send(work.Follow(shard=self._shard, inc=self._inc))

    def caught_up(self) -> None:
        """Tell this dispatcher that all open calls have been submitted to it again."""
        self.send(work.Follow(shard=self._shard, inc=self._inc, dispatcher=self._peer_inc))

    def send(self, message: work.ToDispatcher) -> None:
        """Queued until the dispatcher is there."""
        self._dealer.send([encode(message)])

    def _frames(self, frames: Frames) -> None:
        try:
            message, _ = _from.decode(frames)
        except BadMessage as error:
            log.warning("pool.refused", why=str(error))
            return
        if isinstance(message, work.ToolCatalogue):
            is_new = message.inc != self._peer_inc
            restarted = self.known and is_new
            self._peer_inc, self.known = message.inc, True
            self.catalogue = {tool.name: tool for tool in message.tools}
            self._changed(restarted)
            if is_new:
                self.caught_up()
        else:
            self._received(message)
