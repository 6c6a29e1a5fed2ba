import asyncio
import contextlib
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway.server import Server, listen, server
from voicebus.services.runtime import CannotStart

PATIENCE_S = 0.2
HEAD = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """As the gateway: it answers without reading the body."""
    await PlainTextResponse("hello")(scope, receive, send)


@dataclass
class Caller:
    """A connection that is read as it comes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        return head + await self.reader.readexactly(len(b"hello"))

    async def drip(self, byte: bytes) -> None:
        """Until it is cut off."""
        with contextlib.suppress(OSError):
            while not self.reader.at_eof():
                self.writer.write(byte)
                await self.writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_S / 10):
                        await self.reader.read()


@dataclass
class Shop:
    """A server of its own."""

    port: int
    counted: Counter[str] = field(default_factory=Counter)

    @contextlib.asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Caller(reader, writer)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Shop]:
    settings = GatewaySettings(bind="127.0.0.1", port=0, open_timeout_s=PATIENCE_S)
    with listen(settings) as listening:
        shop = Shop(listening.getsockname()[1])

        def count(what: str) -> None:
            shop.counted[what] += 1

        one = server(hello, settings, count)
        task = await one.begin(listening)
        yield shop
        one.should_exit = True
        await task


@pytest.mark.parametrize(
    ("said", "byte"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nX-Long: ", b"a", id="a slow head"),
        pytest.param(HEAD + b"\r\n", b"a", id="a slow body"),
        pytest.param(
            HEAD.replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked") + b"\r\n",
            b"1\r\na\r\n",
            id="slow chunks",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: here\r\n\r\nGET / HTTP/1.1\r\nX-Long: ",
            b"a",
            id="a slow head behind a quick request",
        ),
    ],
)
async def test_who_sends_a_request_byte_by_byte_is_cut_off(said: bytes, byte: bytes) -> None:
    async with serving() as shop, asyncio.timeout(10), shop.caller() as slow:
        slow.writer.write(said)
        await slow.drip(byte)

        assert shop.counted == {"requests_too_slow": 1}


async def test_who_asks_again_and_again_is_answered_each_time() -> None:
    async with serving() as shop, asyncio.timeout(10), shop.caller() as regular:
        whole = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
        body = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nabc"
        for asked in (whole, body, whole):
            regular.writer.write(asked)
            assert (await regular.answer()).startswith(b"HTTP/1.1 200 OK")
            await asyncio.sleep(2 * PATIENCE_S)  # nothing is under way, so nothing is late

        assert shop.counted == {}


class Refusing(Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        raise OSError("no more ports")


class Exiting(Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        sys.exit(3)


class Ending(Server):
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        return


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Refusing, "OSError: no more ports"),
        (Exiting, "RuntimeError: it wanted to exit with status 3"),
        (Ending, "it ended at once"),
    ],
)
async def test_a_server_that_does_not_start_is_one_sentence(kind: type[Server], why: str) -> None:
    settings = GatewaySettings(bind="127.0.0.1", port=0)
    with listen(settings) as listening:
        one = kind(server(hello, settings).config)
        async with asyncio.timeout(10):
            with pytest.raises(CannotStart, match=f"did not start: {why}; ") as refused:
                await one.begin(listening)

    assert "\n" not in str(refused.value)


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(CannotStart, match=f"port={port}: .*choose another port"):
            listen(GatewaySettings(bind="127.0.0.1", port=port))


def test_an_address_that_is_not_this_machines_is_named() -> None:
    with pytest.raises(CannotStart, match=r"bind='192\.0\.2\.1'"):
        listen(GatewaySettings(bind="192.0.2.1"))


def test_version_six_is_spoken_in_brackets_or_without() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
            port = other.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listen(GatewaySettings(bind="[::1]", port=port)) as listening:
        assert listening.getsockname()[:2] == ("::1", port)
