"""supervisord killed, the machine switched off: no second owner, and nothing half alive."""

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
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


async def leave_open(folder: Path, *, lease_s: float) -> str:
    """A conversation whose caller goes without a word."""
    async with RealtimeClient(folder) as client:
        session = await client.connect({"lease_s": lease_s})
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
    session = asyncio.run(leave_open(folder, lease_s=1.0))

    family = processes.family([psutil.Process(first.supervisor)])
    os.kill(first.supervisor, signal.SIGKILL)
    with pytest.raises(
        Problem, match=r"in use by .*\(process \d+\).*, but no supervisord is there"
    ):
        stack.start(wish)
    switch_off(family)
    second = stack.start(wish)

    asyncio.run(ended(folder, session))
    assert second.is_ready
    stack.stop(folder)
    with Archive(folder / "data" / "session-0.db") as archive:
        events = archive.events(session)
    assert events[-1]["data"]["reason"] == "abandoned"
    assert conversation(events) == []


def test_a_cell_that_was_away_for_an_hour_closes_what_was_open_and_dials_nobody(
    wish: Wish,
) -> None:
    folder = folder_of(wish)
    first = stack.start(wish)
    assert first.supervisor is not None
    session = asyncio.run(leave_open(folder, lease_s=60.0))
    switch_off(processes.family([psutil.Process(first.supervisor)]))
    an_hour_ago(folder / "data" / "session-0.db")
    (folder / "simulator-0.log").unlink()
    stack.start(wish)

    asyncio.run(ended(folder, session))
    simulated = (folder / "simulator-0.log").read_text()
    stack.stop(folder)
    with Archive(folder / "data" / "session-0.db") as archive:
        events = archive.events(session)
    assert events[-1]["data"]["reason"] == "abandoned"
    assert "nothing of Voicebus ran" in events[-1]["data"]["message"]
    assert "simulator.listening" in simulated
    assert "conversation.opened" not in simulated
    assert conversation(events) == []


def switch_off(family: list[psutil.Process]) -> None:
    """Kill them all; some end by themselves when the first does."""
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    assert all(processes.wait(one, 20) for one in family)


def an_hour_ago(journal: Path) -> None:
    """All that it holds happened so much earlier. Recovery folds it from the first input."""
    with contextlib.closing(sqlite3.connect(journal)) as sql, sql:
        sql.execute("delete from snapshots")
        for session, number, body in sql.execute("select * from inputs").fetchall():
            event = msgspec.json.decode(body)
            event["now_us"] -= 3_600_000_000
            sql.execute(
                "update inputs set body = ? where session_id = ? and number = ?",
                (msgspec.json.encode(event), session, number),
            )
        sql.execute("update sessions set created_us = created_us - 3600000000")


async def ended(folder: Path, session: str) -> None:
    """Until the session process that took it over has closed it."""
    async with RealtimeClient(folder) as client:
        left = await calm.until(client.endpoints, lambda found: not found, 20.0, lambda found: None)
        assert session not in [one["session_id"] for one in left]
