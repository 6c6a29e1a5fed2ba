"""The loopback WebSocket server: one `Conversation` per client, its ears, voice and performers."""

import asyncio
import http
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from voicebus.services.simulator import rules
from voicebus.services.simulator.conversation import Conversation
from voicebus.services.simulator.performer import ToneVoice, Voice, perform
from voicebus.services.simulator.shapes import Refused
from voicebus.services.simulator.steps import (
    Answer,
    Close,
    Effect,
    Feed,
    Hear,
    Listen,
    Question,
    Send,
    Step,
    StopAnswering,
)

PATH = "/v1/realtime"
LARGEST_FRAME_BYTES = 64 * 1024 * 1024
WAITING_FRAMES = 64
"""A performer waits while so many frames have not been written."""
KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""How a browser, which cannot set headers, hands over its key."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the simulator behaves at large."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port; `running` tells which."""
    key: str | None = None
    """The only key it accepts; None accepts any key, but not the lack of one."""
    models: Sequence[str] = ("gpt-realtime*", "gpt-4o*realtime*")
    """Patterns of the models there are."""
    pace: float = 8.0
    """Speech is sent so many times faster than it plays; 0 is at once."""
    session_s: float = 3600.0
    """The longest session."""
    voice: Voice = field(default_factory=ToneVoice)


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    url: str
    port: int


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[Running]:
    """Listen until the block ends. Raises OSError if the address cannot be had."""

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return _refusal(request, options)

    async def talk(socket: ServerConnection) -> None:
        await _Session(socket, options).run()

    async with serve(
        talk,
        options.host,
        options.port,
        process_request=refuse,
        select_subprotocol=_subprotocol,
        max_size=LARGEST_FRAME_BYTES,
        compression=None,
        server_header="voicebus-simulator",
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        yield Running(f"ws://{host}:{port}{PATH}", port)


def _refusal(request: Request, options: Options) -> Response | None:
    if urlsplit(request.path).path.rstrip("/") != PATH:
        return _http(404, "invalid_url", f"Invalid URL (GET {urlsplit(request.path).path})")
    key = _key(request.headers)
    if key is None:
        return _http(
            401,
            None,
            "Missing bearer or basic authentication in header: send 'Authorization: Bearer KEY'.",
        )
    if options.key is not None and not secrets.compare_digest(key.encode(), options.key.encode()):
        return _http(401, "invalid_api_key", "Incorrect API key provided.")
    return None


def _http(status: int, code: str | None, message: str) -> Response:
    body = orjson.dumps(
        {
            "error": {
                "type": "invalid_request_error",
                "code": code,
                "message": message,
                "param": None,
            }
        }
    )
    headers = Headers(
        {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    )
    return Response(status, http.HTTPStatus(status).phrase, headers, body)


def _key(headers: Headers) -> str | None:
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for value in headers.get_all("Sec-WebSocket-Protocol"):
        for offered in value.split(","):
            if offered.strip().startswith(KEY_SUBPROTOCOL):
                return offered.strip()[len(KEY_SUBPROTOCOL) :]
    return None


def _subprotocol(
    connection: ServerConnection, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    """`realtime` or nothing: never the one that holds the key."""
    return Subprotocol("realtime") if "realtime" in offered else None


class _Session:
    """A client's connection."""

    def __init__(self, socket: ServerConnection, options: Options) -> None:
        self._socket = socket
        self._options = options
        self._query = parse_qs(urlsplit(socket.request.path if socket.request else "").query)
        self._outbox: asyncio.Queue[bytes | Close] = asyncio.Queue()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._performers: dict[str, asyncio.Task[None]] = {}
        self._tasks = asyncio.TaskGroup()
        is_transcription = self._query.get("intent") == ["transcription"]
        self._conversation = Conversation(
            secrets.token_hex(5),
            self._query.get("model", [""])[0],
            expires_at=int(time.time() + options.session_s),
            is_transcription=is_transcription,
        )

    async def run(self) -> None:
        """Serve the client until it goes or is sent away."""
        writing = asyncio.create_task(self._write())
        try:
            refused = self._bad_query()
            if refused is not None:
                self._do(self._conversation.error(refused))
                self._outbox.put_nowait(Close(4000, f"{refused.kind}.{refused.code}"))
                await writing
                return
            self._do(self._conversation.opened())
            async for frame in self._socket:
                await self._read(frame)
        except ConnectionClosed:
            pass
        finally:
            for task in (writing, *self._performers.values()):
                task.cancel()

    def _bad_query(self) -> Refused | None:
        model = self._query.get("model", [None])[0]
        if self._query.get("intent") == ["transcription"]:
            if model is not None:
                return Refused(
                    "invalid_model",
                    "You must not provide a model parameter for transcription sessions.",
                )
            return None
        if model is None:
            return Refused("missing_model", "You must provide a model parameter.")
        if not any(fnmatchcase(model, pattern) for pattern in self._options.models):
            return Refused(
                "model_not_found",
                f"The model `{model}` does not exist or you do not have access to it.",
            )
        return None

    async def _read(self, frame: str | bytes) -> None:
        try:
            event = orjson.loads(frame)
        except orjson.JSONDecodeError as error:
            self._do(self._conversation.client_babbles(f"The frame is not valid JSON: {error}."))
            return
        self._do(self._conversation.client_says(event, time.monotonic()))

    async def _write(self) -> None:
        while True:
            frame = await self._outbox.get()
            if isinstance(frame, Close):
                await self._socket.close(frame.code, frame.reason)
                return
            await self._socket.send(frame, text=True)
            if self._outbox.qsize() < WAITING_FRAMES:
                self._has_room.set()

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(event):
                    self._outbox.put_nowait(orjson.dumps(event))
                    if self._outbox.qsize() >= WAITING_FRAMES:
                        self._has_room.clear()
                case Answer(question):
                    self._performers[question.response_id] = asyncio.create_task(
                        self._perform(question)
                    )
                case StopAnswering(response_id):
                    task = self._performers.pop(response_id, None)
                    if task is not None and task is not asyncio.current_task():
                        task.cancel()
                case Hear(item_id):
                    self._do(self._conversation.heard(item_id, None, "no ears"))
                case Listen() | Feed():
                    pass
                case Close():
                    self._outbox.put_nowait(effect)

    async def _perform(self, question: Question) -> None:
        async def report(step: Step) -> None:
            await self._has_room.wait()
            self._do(self._conversation.step(step, time.monotonic()))

        await perform(
            rules.answer(question),
            question,
            self._options.voice,
            report,
            pace=self._options.pace,
        )


Ready = Callable[[Running], Any]
