"""uvicorn as a guest of ours: signals are the runtime's, and nobody may keep a socket for ever."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from voicebus.config import extras
from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway.websocket import bounded
from voicebus.services.runtime import CannotStart

PING_S = 10.0
"""A caller whose network is gone is noticed within two of these."""
UNREAD_MS = 30_000
"""Who takes nothing of what was sent for so long is cut off."""
UNSENT_BYTES = 128 * 1024
"""So much the kernel may hold of a slow caller's sound: what it holds no flush can call back."""
SPARE_CONNECTIONS = 50
"""Beside the WebSockets: for the page, health and metrics."""


class Server(uvicorn.Server):
    """Leaves signals alone, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def begin(self, listening: socket.socket) -> asyncio.Task[None]:
        """The serving, once it listens. Raises CannotStart when it ends before."""
        serving = asyncio.create_task(_without_exit(self.serve(sockets=[listening])))
        up = asyncio.create_task(self._up.wait())
        await asyncio.wait([serving, up], return_when=asyncio.FIRST_COMPLETED)
        if self._up.is_set():
            return serving
        up.cancel()
        error = serving.exception()
        why = "it ended at once" if error is None else f"{type(error).__name__}: {error}"
        raise CannotStart(
            f"the web server (uvicorn {uvicorn.__version__}) did not start: {why}; look whether "
            f"another version of it does: {extras.how_to_get('web')} --upgrade"
        ) from error


async def _without_exit(serving: Awaitable[None]) -> None:
    """uvicorn ends the process where it cannot start, and an event loop lets that through."""
    try:
        await serving
    except SystemExit as error:
        raise RuntimeError(f"it wanted to exit with status {error.code}") from None


def server(
    app: ASGIApp, settings: GatewaySettings, count: Callable[[str], None] = lambda what: None
) -> Server:
    """Raises CannotStart when the certificate cannot be read."""
    # Its warnings are what strangers send: nobody may fill the log with that.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        http=_patient(settings, count),
        ws=bounded(count),
        ws_max_size=2 * settings.max_message_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,  # sound does not shrink, and it would cost every frame
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=1,
    )
    try:
        config.load()
    except OSError as error:
        raise CannotStart(
            f"[gateway] tls_cert={settings.tls_cert!r}, tls_key={settings.tls_key!r}: {error}"
        ) from None
    return Server(config)


def listen(settings: GatewaySettings) -> socket.socket:
    """Raises CannotStart when the address cannot be had."""
    host = settings.bind.strip("[]")
    where = f"[gateway] bind={settings.bind!r}, port={settings.port}"
    try:
        found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)
        family, kind, number, _, address = found[0]
        listening = socket.socket(family, kind, number)
    except OSError as error:
        raise CannotStart(f"{where}: {error.strerror}") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    try:
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise CannotStart(
            f"{where}: {error.strerror}; choose another port, or end what listens there"
        ) from None
    listening.setblocking(False)
    return listening


def _patient(settings: GatewaySettings, count: Callable[[str], None]) -> type[asyncio.Protocol]:
    """HTTP that waits for a request only so long, and for so many at once.

    A request is timed as a whole, from its first byte to the last of its body (the first one from
    the beginning of the connection), so that a byte now and then keeps nothing open. Between two
    requests uvicorn's own five seconds hold.
    """

    class Patient(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections + SPARE_CONNECTIONS:
                count("connections_too_many")
                transport.close()
            else:
                self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._all_came()

        def _look(self) -> None:
            # A WebSocket has been taken over by another protocol and left `connections`.
            is_there = self in self.connections
            if not is_there or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._all_came()
            elif self._late is None:
                self._late = self.loop.call_later(settings.open_timeout_s, self._give_up)

        def _all_came(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _give_up(self) -> None:
            count("requests_too_slow")
            self.transport.abort()

    return Patient
