import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.commands import Command, CommandError
from voicebus.client import RealtimeClient
from voicebus.client.testing import FakeCell
from voicebus.client.voice import LARGEST_FRAME_BYTES
from voicebus.config.settings import CellSettings, GatewaySettings
from voicebus.services.gateway import doors, protocol
from voicebus.services.gateway.connection import Connection
from voicebus.services.runtime import Runtime

SECRET = b"s" * 32
POLICY = doors.Policy(bind="127.0.0.1")
ALL = protocol.Allowed()


@dataclass
class House:
    runtime: Runtime[GatewaySettings]
    client: RealtimeClient
    policy: doors.Policy = POLICY
    allowed: protocol.Allowed = ALL
    secret: bytes = SECRET
    talking: dict[str, Connection] = field(default_factory=dict)


class Caller:
    """One WebSocket: what was said to it, and how it was closed."""

    def __init__(self, house: House, *, is_slow: bool = False) -> None:
        self._is_slow = is_slow
        self.said: list[dict[str, Any]] = []
        self.code: int | None = None
        self.changed = asyncio.Event()
        self._frames: asyncio.Queue[Message] = asyncio.Queue()
        self._frames.put_nowait({"type": "websocket.connect"})
        socket = WebSocket({"type": "websocket", "headers": []}, self._frames.get, self._received)
        self.running = asyncio.create_task(Connection(house, socket).run())

    def say(self, frame: Any) -> None:
        self._frames.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})

    def attach(self, session_id: str) -> None:
        token = doors.ticket(SECRET, session_id)
        self.say({"attach": {"session_id": session_id, "token": token, "after_seq": 0}})

    def speak(self, samples: bytes) -> None:
        self._frames.put_nowait({"type": "websocket.receive", "bytes": samples})

    def leave(self) -> None:
        self._frames.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def until_attached(self) -> None:
        await self.told("attached")

    async def told(self, name: str, nth: int = 1) -> Any:
        """What the first frame with that member says there, or a later one."""
        while len(found := [one[name] for one in self.said if name in one]) < nth:
            self.changed.clear()
            await self.changed.wait()
        return found[nth - 1]

    async def _received(self, message: Message) -> None:
        if message["type"] == "websocket.close":
            self.code = message["code"]
        elif message.get("text"):
            for _ in range(20 if self._is_slow else 0):
                await asyncio.sleep(0)  # the network takes a while
            self.said.append(json.loads(message["text"]))
        self.changed.set()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@contextlib.asynccontextmanager
async def gateway(run_dir: Path, **settings: Any) -> AsyncIterator[tuple[House, FakeCell]]:
    endpoints = Endpoints(run_dir)
    runtime = Runtime("gateway", 0, CellSettings(), GatewaySettings(**settings), endpoints)
    with FakeCell(run_dir) as cell, contextlib.closing(runtime.sockets):
        async with RealtimeClient(endpoints, shards=1) as client:
            yield House(runtime, client), cell


async def test_of_two_who_come_back_at_once_one_has_the_call(run_dir: Path) -> None:
    async with gateway(run_dir) as (house, cell), asyncio.timeout(10):
        session_id = cell.begin()
        callers = [Caller(house), Caller(house)]
        for one in callers:
            one.attach(session_id)
        for one in callers:
            await one.until_attached()
        _, (there,) = await asyncio.wait(
            [one.running for one in callers], return_when=asyncio.FIRST_COMPLETED
        )

        first, last = sorted(callers, key=lambda one: one.running is there)
        assert (first.code, last.code) == (protocol.TAKEN_OVER.code, None)
        last.leave()
        await last.running
        assert house.talking == {}


async def test_a_call_that_cannot_be_told_of_is_refused_and_kept_alive_by_nobody(
    run_dir: Path,
) -> None:
    async with gateway(run_dir) as (house, cell), asyncio.timeout(10):
        session_id = cell.begin()
        asked: Iterator[Any] = iter([{}])
        no = CommandError(code="internal", message="it is ill", retry=False)

        def snapshot(command: Command) -> Any:
            return next(asked, no)

        cell.answers["snapshot"] = snapshot
        caller = Caller(house)
        caller.attach(session_id)
        await caller.running
        await asyncio.sleep(0)

        assert caller.said[-1]["error"]["message"] == "it is ill"
        assert house.runtime.counters.get("connections_failed") is None
        assert not [one for one in asyncio.all_tasks() if "_keep_lease" in repr(one.get_coro())]


@pytest.mark.parametrize(("format", "size"), [("pcm16", 48_000), ("g711_ulaw", 8_001)])
async def test_sound_that_is_dropped_is_told_in_milliseconds_of_its_own_format(
    run_dir: Path, format: str, size: int
) -> None:
    async with gateway(run_dir, sound_bytes_per_s=1_000) as (house, cell), asyncio.timeout(10):
        cell.answers["snapshot"] = lambda command: {"config": {"input_audio_format": format}}
        caller = Caller(house)
        caller.attach(cell.begin())
        attached = await caller.told("attached")
        for _ in range(3):
            caller.speak(bytes(size))  # more than a second's worth: the first one takes it all
        notice = await caller.told("notice")
        caller.speak(bytes(size))
        rest = await caller.told("notice", 2)
        caller.leave()
        await caller.running

        assert attached["audio"]["input"]["format"] == format
        assert (notice["what"], notice["direction"]) == ("audio_dropped", "in")
        assert notice["dropped_ms"] + rest["dropped_ms"] == 3000
        assert len(cell.voice) == -(-size // LARGEST_FRAME_BYTES)


async def test_the_last_word_is_said_whole_before_the_connection_is_closed(run_dir: Path) -> None:
    async with gateway(run_dir) as (house, _), asyncio.timeout(10):
        caller = Caller(house, is_slow=True)
        caller.say({"hello": {}})
        await caller.running

        assert caller.code == protocol.BAD_FIRST.code
        assert [one["error"]["code"] for one in caller.said] == ["bad_request"]
