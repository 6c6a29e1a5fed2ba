"""A connection whose other side is gone without a word: no close, no answer to a ping."""

from collections.abc import Callable
from typing import Any

import pytest

from voicebus.bus.messages import link as words
from voicebus.services.transport import provider as module

Start = Callable[..., Any]


async def test_a_provider_that_answers_no_ping_is_given_up_as_lost(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_S", 0.2)
    cell = await start()
    session, provider = await cell.on_the_phone()

    provider.transport.pause_reading()
    closed = await session.event(words.ProviderClosed)

    assert closed.code in (1006, 1011)
    assert not closed.by_us
