"""The relay service's main."""

import asyncio
import ipaddress
from pathlib import Path
from typing import NoReturn

from voicebus.config.clients import server_key
from voicebus.config.loader import BadSettings
from voicebus.config.settings import RelaySettings
from voicebus.services.relay.relay import Relay
from voicebus.services.runtime import CannotStart, Runtime, run


def check(settings: RelaySettings) -> str | None:
    """The relay's secret key; None without CURVE, which only a loopback address may be.

    Raises CannotStart."""
    if not settings.bind:
        raise CannotStart("[relay] bind is not set: name the address to listen on")
    if settings.curve:
        try:
            return server_key(Path(settings.keys))
        except BadSettings as error:
            raise CannotStart(str(error)) from None
    if not is_loopback(settings.bind):
        raise CannotStart(
            f"[relay] bind={settings.bind!r} is not this machine alone, and curve is off: "
            "everybody who can reach it could listen and talk. Set curve = true (and make keys "
            'with `voicebus keys`), or bind = "127.0.0.1"'
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether nobody elsewhere can reach it. A name is looked at, not looked up."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(runtime: Runtime[RelaySettings]) -> None:
    """Until told to stop."""
    secret = check(runtime.settings)
    try:
        relay = Relay(runtime, secret)
    except (BadSettings, OSError) as error:
        raise CannotStart(str(error)) from None
    runtime.ready()
    seconds = asyncio.create_task(relay.every_second())
    await runtime.stopping.wait()
    runtime.draining("closing the door")
    seconds.cancel()


def main() -> NoReturn:
    """Run it as a process."""
    run(serve, RelaySettings, role="relay")
