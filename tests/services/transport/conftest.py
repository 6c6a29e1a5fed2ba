"""A transport over loopback: a provider, a session process, a caller and a listener, all real."""

import asyncio
import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import structlog
from websockets.asyncio.server import Server, ServerConnection, serve

from voicebus.bus import ids
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages import link as words
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.sound import SoundIn
from voicebus.bus.sockets import Dealer, Sockets
from voicebus.config.settings import CellSettings, TransportSettings
from voicebus.services.runtime import Runtime
from voicebus.services.transport import main

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

T = TypeVar("T")
PATIENCE_S = 10.0


class Inbox(asyncio.Queue[T]):
    """What has come, waited for with patience."""

    async def next(self) -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await self.get()

    async def until(self, wanted: Callable[[T], bool]) -> list[T]:
        """Everything up to and with the first that is wanted."""
        found = [await self.next()]
        while not wanted(found[-1]):
            found.append(await self.next())
        return found


class Provider:
    """The in-test provider: keeps what it hears, says what the test wants."""

    def __init__(self) -> None:
        self.connections: Inbox[ServerConnection] = Inbox()
        self.heard: Inbox[dict[str, Any]] = Inbox()
        self.paths: list[str] = []
        self.authorizations: list[str | None] = []
        self.refuse_with: tuple[int, str] | None = None
        self._server: Server | None = None

    async def start(self) -> None:
        self._server = await serve(
            self._talk,
            "127.0.0.1",
            0,
            process_request=self._greet,
            max_size=None,
            compression=None,
        )

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = next(iter(self._server.sockets)).getsockname()[:2]
        return f"ws://{host}:{port}/v1/realtime"

    def _greet(self, connection: ServerConnection, request: Any) -> Any:
        self.paths.append(request.path)
        self.authorizations.append(request.headers.get("Authorization"))
        if self.refuse_with is not None:
            return connection.respond(*self.refuse_with)
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        self.connections.put_nowait(connection)
        with contextlib.suppress(Exception):
            async for message in connection:
                self.heard.put_nowait(json.loads(message))
        await connection.wait_closed()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


@dataclass
class Told:
    """An event or another message up."""

    message: Any
    payload: bytes | None


class SessionProcess:
    """The session's end of the link. It acknowledges only what a test asks it to."""

    def __init__(self, sockets: Sockets, endpoint: str, shard: int = 0) -> None:
        self.shard = shard
        self.told: Inbox[Told] = Inbox()
        self._decoder: Any = msgspec.json.Decoder(words.ANY_UP)
        self._down: dict[str, int] = {}
        self._dealer: Dealer = sockets.dealer(endpoint, self._receive, name=f"session-{shard}")

    def _receive(self, frames: Sequence[bytes]) -> None:
        payload = frames[1] if len(frames) > 1 else None
        self.told.put_nowait(Told(self._decoder.decode(frames[0]), payload))

    def close(self) -> None:
        """As if killed."""
        self._dealer.close()

    def say(self, message: words.Down, payload: bytes | None = None) -> None:
        self._dealer.send([encode(message)] if payload is None else [encode(message), payload])

    def say_raw(self, frames: Sequence[bytes]) -> None:
        self._dealer.send(frames)

    def n(self, session_id: str) -> int:
        """The next number down."""
        self._down[session_id] = self._down.get(session_id, 0) + 1
        return self._down[session_id]

    async def hello(self, sessions: dict[str, int] | None = None) -> words.LinkWelcome:
        self.say(words.Hello(shard=self.shard, inc="test", sessions=sessions or {}))
        found = await self.told.until(lambda told: isinstance(told.message, words.LinkWelcome))
        welcome: words.LinkWelcome = found[-1].message
        return welcome

    async def event(self, kind: type[T]) -> T:
        """The next event of that kind; others before it are skipped."""
        found = await self.told.until(lambda told: isinstance(told.message, kind))
        event: T = found[-1].message
        return event

    async def frame(self, type_name: str) -> tuple[words.ProviderFrame, dict[str, Any]]:
        """The next provider frame of that type; others before it are skipped."""

        def fits(told: Told) -> bool:
            return (
                isinstance(told.message, words.ProviderFrame)
                and told.payload is not None
                and f'"{type_name}"'.encode() in told.payload
            )

        told = (await self.told.until(fits))[-1]
        assert told.payload is not None
        return told.message, json.loads(told.payload)

    def dial(self, session_id: str, generation: int = 1, **more: Any) -> None:
        self.say(
            words.Dial(
                session_id=session_id,
                n=self.n(session_id),
                generation=generation,
                vendor="openai",
                **more,
            )
        )

    def grant(self, session_id: str, token: str, *, talk: bool = True) -> None:
        self.say(
            words.GrantToken(
                session_id=session_id, n=self.n(session_id), generation=1, token=token, talk=talk
            )
        )

    def release(self, session_id: str, generation: int = 1, **more: Any) -> None:
        self.say(
            words.ReleaseSound(
                session_id=session_id, n=self.n(session_id), generation=generation, **more
            )
        )

    def send(
        self, session_id: str, frame: dict[str, Any], generation: int = 1, **more: Any
    ) -> None:
        self.say(
            words.SendFrame(
                session_id=session_id, n=self.n(session_id), generation=generation, **more
            ),
            json.dumps(frame).encode(),
        )

    def hang_up(self, session_id: str, generation: int = 1, **more: Any) -> None:
        self.say(
            words.HangUp(session_id=session_id, n=self.n(session_id), generation=generation, **more)
        )


class Caller:
    """Somebody with a microphone."""

    def __init__(self, sockets: Sockets, endpoint: str, session_id: str, token: str) -> None:
        self._dealer = sockets.dealer(endpoint, lambda frames: None, name="caller")
        self._session_id = session_id
        self._token = token

    def speak(self, n: int, sound: bytes) -> None:
        header = SoundIn(session_id=self._session_id, token=self._token, n=n)
        self._dealer.send([encode(header), sound])

    def send(self, frames: Sequence[bytes]) -> None:
        self._dealer.send(frames)


@dataclass
class Heard:
    """A message of the audio lane, or another one published."""

    header: dict[str, Any]
    payload: bytes | None


@dataclass
class Cell:
    """A running transport and everybody around it."""

    run: Path
    runtime: Runtime[TransportSettings]
    provider: Provider
    sockets: Sockets
    endpoints: Endpoints
    serving: "asyncio.Task[None]"
    sid: str = field(default_factory=lambda: ids.session_id(0))

    def session_process(self, shard: int = 0) -> SessionProcess:
        return SessionProcess(self.sockets, self.endpoints.link(self.runtime.instance), shard)

    def caller(self, token: str = "tok", session_id: str | None = None) -> Caller:
        return Caller(self.sockets, self.endpoints.audio_in(0), session_id or self.sid, token)

    def listen(
        self, topic: str, endpoint: str | None = None, *, welcomes: bool = False
    ) -> Inbox[Heard]:
        """What is published there; with `welcomes`, these as well."""
        heard: Inbox[Heard] = Inbox()

        def note(frames: list[bytes]) -> None:
            payload = frames[2] if len(frames) > 2 else None
            header = json.loads(frames[1])
            if welcomes or header.get("kind") != "welcome":
                heard.put_nowait(Heard(header, payload))

        self.sockets.subscriber([endpoint or self.endpoints.audio_out(0)], [topic.encode()], note)
        return heard

    async def on_the_phone(self, **dial: Any) -> tuple[SessionProcess, ServerConnection]:
        """A session process with one open session and the caller's token `tok`."""
        session = self.session_process()
        await session.hello()
        session.grant(self.sid, "tok")
        session.dial(self.sid, **dial)
        await session.event(words.ProviderOpened)
        return session, await self.provider.connections.next()

    async def stop(self) -> None:
        self.runtime.stopping.set()
        await self.serving


def delta(
    sound: bytes, response: str = "r1", item: str = "i1", kind: str = "response.output_audio.delta"
) -> str:
    return json.dumps(
        {
            "type": kind,
            "event_id": "e",
            "response_id": response,
            "item_id": item,
            "output_index": 0,
            "content_index": 0,
            "delta": base64.b64encode(sound).decode(),
        }
    )


@pytest.fixture
def sound_delta() -> Callable[..., str]:
    """A provider's frame with sound."""
    return delta


Start = Callable[..., Any]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts a transport with these settings; ends it, and says if it had failed."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    provider = Provider()
    await provider.start()
    cells: list[Cell] = []

    async def begin(instance: int = 0, **settings: Any) -> Cell:
        endpoints = Endpoints(run)
        own = TransportSettings(**{"provider_url": provider.url, **settings})
        runtime = Runtime("transport", instance, CellSettings(run=str(run)), own, endpoints)
        serving = asyncio.create_task(main.serve(runtime))
        cell = Cell(run, runtime, provider, Sockets(), endpoints, serving)
        cells.append(cell)
        return cell

    yield begin
    failed = [cell for cell in cells if cell.serving.done() and cell.serving.exception()]
    for cell in cells:
        cell.sockets.close()
        await cell.stop()
        cell.runtime.sockets.close()
    await provider.stop()
    shutil.rmtree(run, ignore_errors=True)
    assert not failed
    assert not any(cell.runtime._failure for cell in cells)
