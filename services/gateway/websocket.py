"""uvicorn's WebSocket under limits of ours: what costs work before anybody has asked for it.

Pings and empty frames reach no conversation, so that no limit there counts them; and each costs the
loop that all callers share ten times what it costs its sender.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from voicebus.services.gateway.protocol import FLOOD
from voicebus.services.limits import Bucket

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

FRAMES_PER_S = 5000
"""Of any kind, by one connection: a minute of sound that is sent at once, say."""
PIECE_BYTES = 4096
"""So much is taken apart before it is looked whether it was too much: 700 frames at most."""


def bounded(count: Callable[[str], None]) -> type[asyncio.Protocol]:
    """The protocol of a connection; `count` is told of those that are ended."""

    class Bounded(WebSocketsSansIOProtocol):
        _is_flooding = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._frames = Bucket(FRAMES_PER_S)

        def data_received(self, data: bytes) -> None:
            for at in range(0, len(data), PIECE_BYTES):
                if not self._is_flooding:
                    super().data_received(data[at : at + PIECE_BYTES])

        def handle_events(self) -> None:
            if self._frames.take(len(self.conn.events), self.loop.time()):
                self._end()
            else:
                super().handle_events()

        def handle_ping(self) -> None:
            # Who reads nothing is owed the newest pong alone (RFC 6455, 5.5.3): the others would
            # fill the memory as fast as pings come.
            if self.writable.is_set():
                super().handle_ping()
            else:
                self.conn.data_to_send()

        async def send(self, message: "ASGISendEvent") -> None:
            # uvicorn has closed it by itself, after a broken frame or for want of a pong. It takes
            # what is sent then for a bug of ours; but the caller is gone, and no more.
            await self.writable.wait()
            if self.close_sent and message["type"] == "websocket.send":
                raise ClientDisconnected
            await super().send(message)

        def _end(self) -> None:
            self._is_flooding = True
            count("floods")
            self.conn.fail(FLOOD.code, FLOOD.reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": FLOOD.code})
            self.transport.close()

    return Bounded
