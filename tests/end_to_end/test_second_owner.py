"""supervisord killed, the machine switched off: no second owner, and nothing half alive."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.cells import SCENARIO
from voicebus.bus import testing
from voicebus.cli import calm, processes, stack
from voicebus.cli.plan import Wish
from voicebus.cli.problems import Problem
from voicebus.client import RealtimeClient
from voicebus.client.audit import conversation
from voicebus.services.session.archive import Archive


@pytest.fixture
def wish() -> Iterator[Wish]:
    with testing.run_folder() as folder:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("VOICEBUS_") and name != "OPENAI_API_KEY"
        }
        settings = {
            "VOICEBUS_SIMULATOR_SCENARIO": str(SCENARIO),
            "VOICEBUS_SIMULATOR_SPEECH": "off",
        }
        yield Wish(run_dir=folder, environment=environment, settings=settings)
        stack.stop(folder)


def folder_of(wish: Wish) -> Path:
    assert isinstance(wish.run_dir, Path)
    return wish.run_dir


async def leave_open(folder: Path) -> str:
    """A conversation whose caller goes without a word. Its lease is one second."""
    async with RealtimeClient(folder) as client:
        session = await client.connect({"lease_s": 1.0})
        await session.send_text("short tone")
        async for event in session.events():
            if event.kind == "assistant_turn_completed":
                break
        await session.detach()
        return session.id


def test_a_machine_that_was_switched_off_leaves_no_second_owner_and_nothing_half_alive(
    wish: Wish,
) -> None:
    folder = folder_of(wish)
    first = stack.start(wish)
    assert first.supervisor is not None
    session = asyncio.run(leave_open(folder))

    family = processes.family([psutil.Process(first.supervisor)])
    os.kill(first.supervisor, signal.SIGKILL)
    with pytest.raises(
        Problem, match=r"in use by .*\(process \d+\).*, but no supervisord is there"
    ):
        stack.start(wish)
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    assert all(processes.wait(one, 20) for one in family)
    second = stack.start(wish)

    asyncio.run(ended(folder, session))
    assert second.is_ready
    stack.stop(folder)
    with Archive(folder / "data" / "session-0.db") as archive:
        events = archive.events(session)
    assert events[-1]["data"]["reason"] == "abandoned"
    assert conversation(events) == []


async def ended(folder: Path, session: str) -> None:
    """Until the session process that took it over has closed it."""
    async with RealtimeClient(folder) as client:
        left = await calm.until(client.endpoints, lambda found: not found, 20.0, lambda found: None)
        assert session not in [one["session_id"] for one in left]
