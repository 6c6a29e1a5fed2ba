import asyncio
import socket
import sys

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway.server import Server, listen, server
from voicebus.services.runtime import CannotStart


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """As the gateway: it answers without reading the body."""
    await PlainTextResponse("hello")(scope, receive, send)


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
