"""The recorder is ready once nothing can be missed."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from voicebus.bus.endpoints import Endpoints
from voicebus.client.testing import FakeCell
from voicebus.config.settings import CellSettings, RecorderSettings
from voicebus.services.recorder import recorder
from voicebus.services.recorder.recorder import Recorder
from voicebus.services.runtime import Runtime

AMPLE_S = 20.0


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime[RecorderSettings]]:
    run_dir = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    cell, own = CellSettings(run=str(run_dir)), RecorderSettings(folder=str(run_dir))
    found = Runtime("recorder", 0, cell, own, Endpoints(run_dir))
    yield found
    found.sockets.close()
    shutil.rmtree(run_dir, ignore_errors=True)


@pytest.fixture
async def hearing(runtime: Runtime[RecorderSettings]) -> AsyncIterator[Recorder]:
    """A recorder that listens; there is nobody yet."""
    found = Recorder(runtime, Path(runtime.settings.folder))
    await found.begin()
    yield found
    await found.stop()


async def test_it_has_joined_when_events_and_sound_are_confirmed(
    runtime: Runtime[RecorderSettings], hearing: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "JOIN_S", 3 * AMPLE_S)
    joining = asyncio.create_task(hearing.joined())
    early, _ = await asyncio.wait([joining], timeout=0.1)

    with FakeCell(runtime.cell.run) as cell:
        await asyncio.wait_for(joining, AMPLE_S)

        assert not early
        assert cell.listens(cell.begin())


async def test_who_confirms_nothing_is_not_waited_for_for_ever(
    hearing: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "JOIN_S", 0.05)

    await asyncio.wait_for(hearing.joined(), AMPLE_S)


async def test_a_recorder_that_is_stopped_waits_for_nobody(
    runtime: Runtime[RecorderSettings], hearing: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "JOIN_S", 3 * AMPLE_S)
    runtime.stopping.set()

    await asyncio.wait_for(hearing.joined(), AMPLE_S)
