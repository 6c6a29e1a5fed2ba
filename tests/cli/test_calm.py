import asyncio
from typing import Any

import msgspec
import pytest

from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Frames, Route, Router, Sockets
from voicebus.cli import calm

CALL = {"session_id": "s0-01m83sy634vxkaw98aw21c62v1", "silent": True}
PATIENCE_S = 20


class Shard:
    """A session process that knows no command but `list`."""

    def __init__(self, sockets: Sockets, endpoints: Endpoints, number: int) -> None:
        self.sessions: list[dict[str, Any]] = []
        self._where = sockets, endpoints.commands(number)
        self._router = self._opened()

    def go(self) -> None:
        self._router.close()

    def come_back(self) -> None:
        self._router = self._opened()

    def _opened(self) -> Router:
        sockets, address = self._where
        return sockets.router(address, self._answer)

    def _answer(self, route: Route, frames: Frames) -> None:
        reply = {
            "v": 1,
            "id": msgspec.json.decode(frames[0])["id"],
            "ok": True,
            "seq": None,
            "data": {"sessions": self.sessions},
        }
        self._router.send(route, [msgspec.json.encode(reply)])


async def test_conversations_of_a_session_process_that_is_away_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calm, "ANSWER_S", 1.0)  # of the one that is away
    monkeypatch.setattr(calm, "is_supervised", lambda endpoints: True)
    with testing.run_folder() as folder, Sockets() as sockets:
        endpoints = Endpoints(folder)
        first = Shard(sockets, endpoints, 0)
        Shard(sockets, endpoints, 1)  # has none, and is always there
        first.sessions = [CALL]
        told: asyncio.Queue[int] = asyncio.Queue()

        def is_over(found: calm.Sessions) -> bool:
            told.put_nowait(len(found))
            return not found

        waiting = asyncio.create_task(calm.until(endpoints, is_over, 60.0, lambda found: None))
        while await told.get() != 1:
            pass
        first.go()
        while not told.empty():
            told.get_nowait()
        async with asyncio.timeout(PATIENCE_S):
            while_away = [await told.get() for _ in range(2)]
        first.sessions = []
        first.come_back()

        assert while_away == [1, 1]
        assert await waiting == []


async def test_nobody_waits_for_a_session_process_that_no_supervisord_brings_back() -> None:
    with testing.run_folder() as folder, Sockets() as sockets:
        endpoints = Endpoints(folder)
        first = Shard(sockets, endpoints, 0)
        first.sessions = [CALL]
        told = asyncio.Event()

        def is_over(found: calm.Sessions) -> bool:
            told.set()
            return not found

        waiting = asyncio.create_task(calm.until(endpoints, is_over, 600.0, lambda found: None))
        async with asyncio.timeout(PATIENCE_S):
            await told.wait()
            first.go()

            assert await waiting == []
