"""What has ended is freed at once, not when a collector comes by."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from voicebus.bus.messages import link as words
from voicebus.services.transport import provider as module

Start = Callable[..., Any]


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("who", ["we", "provider", "line"])
async def test_nothing_of_an_ended_connection_is_left(start: Start, who: str) -> None:
    cell = await start()
    session, provider = await cell.on_the_phone()
    assert connections() == 1

    if who == "we":
        session.hang_up(cell.sid)
    elif who == "provider":
        await provider.close(1001, "goodbye")
    else:
        provider.transport.abort()
    await session.event(words.ProviderClosed)

    async with asyncio.timeout(10):
        while connections():  # noqa: ASYNC110 - nobody tells of what is freed
            await asyncio.sleep(0.01)


def connections() -> int:
    """How many are in memory."""
    return sum(type(one) is module._Connection for one in gc.get_objects())
