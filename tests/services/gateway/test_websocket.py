"""What a browser may send that no conversation ever sees."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway import protocol, websocket
from voicebus.services.gateway.server import listen, server
from voicebus.services.gateway.websocket import bounded


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """As the gateway: it reads on; and it says again what it hears."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        with contextlib.suppress(OSError):
            await send({"type": "websocket.send", "text": message.get("text") or ""})


@pytest.fixture
async def counted() -> Counter[str]:
    return Counter()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """So few frames a second that no machine is too slow to be flooded."""
    monkeypatch.setattr(websocket, "FRAMES_PER_S", 100)
    return 100


@pytest.fixture
async def caller(counted: Counter[str]) -> AsyncIterator[ClientConnection]:
    settings = GatewaySettings(bind="127.0.0.1", port=0)
    with listen(settings) as listening:
        one = server(echo, settings, lambda what: counted.update([what]))
        task = await one.begin(listening)
        async with connect(f"ws://127.0.0.1:{listening.getsockname()[1]}/") as caller:
            yield caller
        one.should_exit = True
        await task


def frames(opcode: Opcode, times: int) -> bytes:
    """Of a client's, each as small as it can be."""
    return Frame(opcode, b"").serialize(mask=True) * times


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG, Opcode.TEXT, Opcode.BINARY])
async def test_a_flood_of_small_frames_ends_the_connection(
    few: int, caller: ClientConnection, counted: Counter[str], opcode: Opcode
) -> None:
    caller.transport.write(frames(opcode, 200 * few))
    with contextlib.suppress(ConnectionClosed):
        while True:
            await caller.recv()

    assert caller.close_code in (protocol.FLOOD.code, 1006)  # reset while it was still sending
    assert counted == {"floods": 1}


async def test_who_pings_as_people_do_is_answered(
    caller: ClientConnection, counted: Counter[str]
) -> None:
    for _ in range(3):
        await (await caller.ping())
    await caller.send("x" * 100_000)  # more than is taken apart in one go

    assert await caller.recv() == "x" * 100_000
    assert not counted


class Full(asyncio.Transport):
    """The way to a caller who reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[WebSocketsSansIOProtocol, Full]]:
    """A connection without a network, after its handshake."""
    config = uvicorn.Config(echo, ws=bounded(lambda what: None), lifespan="off", log_config=None)
    config.load()
    kind = config.ws_protocol_class
    assert kind is not None
    assert issubclass(kind, WebSocketsSansIOProtocol)
    one = kind(config=config, server_state=ServerState(), app_state={})
    way = Full()
    one.connection_made(way)
    one.data_received(
        b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    while not way.written:  # noqa: ASYNC110 - the answer to the handshake
        await asyncio.sleep(0)
    way.written = b""
    yield one, way
    one.connection_lost(None)


async def test_who_reads_nothing_gets_no_pongs_that_would_fill_the_memory() -> None:
    async with connected() as (one, way):
        one.pause_writing()
        one.data_received(frames(Opcode.PING, 100))
        while_full = way.written
        one.resume_writing()
        one.data_received(frames(Opcode.PING, 1))

        assert while_full == b""
        assert way.written == Frame(Opcode.PONG, b"").serialize(mask=False)


async def test_what_is_said_to_who_has_sent_a_broken_frame_is_no_bug() -> None:
    async with connected() as (one, _):
        one.data_received(b"\xff\xff\xff\xff")

        with pytest.raises(ClientDisconnected):  # Starlette's WebSocketDisconnect
            await one.send({"type": "websocket.send", "text": "too late"})
