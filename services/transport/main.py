"""The transport: owns the providers' sockets and the sound."""

import asyncio
from typing import NoReturn

from voicebus.config.settings import TransportSettings
from voicebus.services.runtime import Runtime, run
from voicebus.services.transport.switchboard import Switchboard


async def serve(runtime: Runtime[TransportSettings]) -> None:
    """Until told to stop."""
    switchboard = Switchboard(runtime)
    runtime.ready()
    keeping_house = asyncio.create_task(switchboard.keep_house())
    keeping_house.add_done_callback(
        lambda task: None if task.cancelled() else runtime.fail(task.exception() or RuntimeError())
    )
    await runtime.stopping.wait()
    runtime.draining("closing the providers' connections")
    await switchboard.drain()
    keeping_house.cancel()


def main() -> NoReturn:
    """Run it as a process."""
    run(serve, TransportSettings, role="transport")
