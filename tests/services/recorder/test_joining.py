"""The recorder is ready once nothing can be missed."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicebus.bus.endpoints import Endpoints
from voicebus.client.testing import FakeCell
from voicebus.config.settings import CellSettings, RecorderSettings
from voicebus.services.recorder import recorder
from voicebus.services.recorder.recorder import Recorder
from voicebus.services.runtime import Runtime


@pytest.fixture
def run_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def begun(run_dir: Path) -> tuple[Runtime[RecorderSettings], Recorder]:
    folder = run_dir / "recordings"
    folder.mkdir()
    settings = RecorderSettings(folder=str(folder))
    cell = CellSettings(run=str(run_dir))
    runtime = Runtime("recorder", 0, cell, settings, Endpoints(run_dir))
    return runtime, Recorder(runtime, folder)


async def test_it_has_joined_when_events_and_sound_are_confirmed(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "JOIN_S", 60.0)
    runtime, hearing = begun(run_dir)
    await hearing.begin()
    joining = asyncio.create_task(hearing.joined())
    early, _ = await asyncio.wait([joining], timeout=0.1)

    with FakeCell(str(run_dir)) as cell:
        async with asyncio.timeout(20):
            await joining
        session_id = cell.begin()

        assert not early
        assert cell.listens(session_id)
    await hearing.stop()
    runtime.sockets.close()


async def test_who_confirms_nothing_is_not_waited_for_for_ever(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "JOIN_S", 0.05)
    runtime, hearing = begun(run_dir)
    await hearing.begin()

    async with asyncio.timeout(20):
        await hearing.joined()

    await hearing.stop()
    runtime.sockets.close()


async def test_a_recorder_that_is_stopped_waits_for_nobody(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "JOIN_S", 60.0)
    runtime, hearing = begun(run_dir)
    await hearing.begin()
    runtime.stopping.set()

    async with asyncio.timeout(20):
        await hearing.joined()

    await hearing.stop()
    runtime.sockets.close()
