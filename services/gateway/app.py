"""The web application: the page, the WebSocket, health and metrics. Thin: it asks `doors` and
hands over."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from voicebus.client import RealtimeClient
from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway import doors, protocol
from voicebus.services.gateway.connection import Connection
from voicebus.services.gateway.states import States
from voicebus.services.limits import Buckets
from voicebus.services.runtime import Runtime

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/voicebus.mjs": ("voicebus.mjs", "text/javascript; charset=utf-8"),
    "/worklet.js": ("worklet.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "media-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Gateway:
    """What all connections share."""

    def __init__(
        self,
        runtime: Runtime[GatewaySettings],
        client: RealtimeClient,
        *,
        policy: doors.Policy,
        allowed: protocol.Allowed,
        secret: bytes,
    ) -> None:
        self.runtime = runtime
        self.client = client
        self.policy = policy
        self.allowed = allowed
        self.secret = secret
        self.talking: dict[str, Connection] = {}
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._comers = Buckets(runtime.settings.connections_per_s)
        self._states = States(runtime, client)
        self._files = {
            path: ((PAGE / name).read_bytes(), kind) for path, (name, kind) in FILES.items()
        }

    def app(self) -> ASGIApp:
        """For the server."""
        routes = [
            *(Route(path, self._file) for path in self._files),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/ws", self._no_websocket),
            WebSocketRoute("/ws", self._talk),
        ]
        return _Guarded(Starlette(routes=routes), self)

    async def leave(self, within_s: float) -> None:
        """Tell every caller to come back to the next gateway."""
        for one in list(self._connections):
            one.leave(protocol.RESTARTING)
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._empty.wait()

    async def _file(self, request: Request) -> Response:
        body, kind = self._files[request.url.path]
        return Response(body, media_type=kind)

    async def _health(self, request: Request) -> Response:
        leaving = self.runtime.stopping.is_set() or self.runtime.is_leaving
        why = "the gateway is stopping" if leaving else self._states.missing()
        told: dict[str, object] = {"ok": why is None, "why": why}
        if self._may_look(request):
            told |= {
                "connections": len(self._connections),
                "processes": self._states.processes(),
            }
        return JSONResponse(told, 200 if why is None else 503)

    async def _metrics(self, request: Request) -> Response:
        if not self._may_look(request):
            return PlainTextResponse(
                "metrics are for this machine, or for who shows the key: Authorization: Bearer …\n",
                401,
                {"www-authenticate": "Bearer"},
            )
        text = await self._states.metrics(len(self._connections))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _no_websocket(self, request: Request) -> Response:
        return PlainTextResponse(
            "this is a WebSocket: connect to it with ws:// or wss:// (docs/gateway.md)\n",
            426,
            {"upgrade": "websocket"},
        )

    def _may_look(self, request: Request) -> bool:
        if request.client is not None and doors.is_loopback(request.client.host):
            return True
        key = doors.bearer(request.headers.get("authorization"))
        return self.policy.key is not None and doors.is_key(self.policy, key)

    async def _talk(self, socket: WebSocket) -> None:
        if len(self._connections) >= self.runtime.settings.max_connections:
            self.runtime.count("connections_too_many")
            await socket.accept()
            await socket.close(protocol.FULL.code, protocol.FULL.reason)
            return
        one = Connection(self, socket)
        self._connections.add(one)
        self._empty.clear()
        self.runtime.count("connections")
        try:
            await one.run()
        finally:
            self._connections.discard(one)
            if not self._connections:
                self._empty.set()

    def why_not(self, asked: HTTPConnection) -> tuple[int, str] | None:
        """Status and reason when a request may not come in."""
        headers: Mapping[str, str] = asked.headers
        why = doors.why_not(self.policy, headers.get("host"), headers.get("origin"))
        if why is not None:
            self.runtime.count("origins_refused")
            return 403, why
        address = asked.client.host if asked.client is not None else ""
        loop = asyncio.get_running_loop()
        if asked.scope["type"] == "websocket" and self._comers.take(address, 1, loop.time()):
            self.runtime.count("connections_too_fast")
            limit = self.runtime.settings.connections_per_s
            return 429, f"more than [gateway] connections_per_s={limit} from {address}: wait"
        return None


class _Guarded:
    """Before everything: who asks, and the headers of every answer."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        why = self._gateway.why_not(HTTPConnection(scope))
        if why is None:
            await self._app(scope, receive, _with_headers(send))
            return
        answer = PlainTextResponse(f"{why[1]}\n", why[0])
        if scope["type"] == "http":
            await answer(scope, receive, _with_headers(send))
        else:
            await WebSocket(scope, receive, send).send_denial_response(answer)


def _with_headers(send: Send) -> Send:
    more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sending
