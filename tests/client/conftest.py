"""A run folder short enough for sockets, and stand-ins for the processes in it."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from voicebus.client import RealtimeClient, commands, playback, shards
from voicebus.client.testing import FakeCell


@pytest.fixture
def run_dir() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="vb", dir="/tmp")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest_asyncio.fixture
async def cell(run_dir: str) -> AsyncIterator[FakeCell]:
    with FakeCell(run_dir) as cell:
        yield cell
        assert cell.error is None


@pytest_asyncio.fixture
async def client(run_dir: str) -> AsyncIterator[RealtimeClient]:
    async with RealtimeClient(run_dir) as client:
        yield client


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is no silence: no command is said again, no shard and no sound given up."""
    monkeypatch.setattr(commands, "FIRST_RETRY_S", 30.0)
    monkeypatch.setattr(shards, "ANSWER_S", 30.0)
    monkeypatch.setattr(playback, "GRACE_S", 30.0)
