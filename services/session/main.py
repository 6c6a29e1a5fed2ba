"""The session service's main."""

import asyncio
from typing import NoReturn

from voicebus.config.settings import SessionSettings
from voicebus.services.runtime import CannotStart, Runtime, run
from voicebus.services.session.failpoints import BadFailpoint
from voicebus.services.session.journal import JournalUnusable
from voicebus.services.session.shard import Shard


async def serve(runtime: Runtime[SessionSettings]) -> None:
    """Hold conversations until told to stop."""
    try:
        shard = Shard(runtime)
    except (JournalUnusable, BadFailpoint) as error:
        raise CannotStart(str(error)) from None
    shard.begin()
    seconds = asyncio.create_task(shard.every_second())
    runtime.ready()
    stopping = asyncio.create_task(runtime.stopping.wait())
    await asyncio.wait({seconds, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if seconds.done():
        await seconds
    seconds.cancel()
    runtime.draining("writing snapshots")
    await shard.stop()


def main() -> NoReturn:
    """Never returns."""
    run(serve, SessionSettings, role="session")
