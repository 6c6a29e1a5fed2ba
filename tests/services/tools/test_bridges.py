"""The processes that bridge MCP servers: whatever becomes of one, it is started again."""

import asyncio
from typing import Any

import pytest
import structlog

from tests.services.tools.conftest import PATIENCE_S
from voicebus.services.tools import bridges

pytest.importorskip("mcp", reason="the MCP SDK is not installed: pip install 'voicebus[mcp]'")


class Endless:
    """A process that runs until it is told to end."""

    pid = 4711

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    def terminate(self) -> None:
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        return 0


async def test_a_bridge_that_the_system_has_no_process_for_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = asyncio.Event()
    refusals = [BlockingIOError(11, "Resource temporarily unavailable")]

    async def begin(*_words: str, **_options: Any) -> Endless:
        if refusals:
            raise refusals.pop()
        began.set()
        return Endless()

    monkeypatch.setattr("asyncio.create_subprocess_exec", begin)
    monkeypatch.setattr(bridges, "AGAIN_S", (0.0,))
    kept = bridges.Bridges(["little"], structlog.get_logger())

    async with asyncio.timeout(PATIENCE_S):
        await began.wait()
    await kept.stop()

    assert not refusals
    assert kept.pids() == []
