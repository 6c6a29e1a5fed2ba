"""A disk that takes its time is found, and what must be quick does not wait for it."""

import asyncio
import sqlite3
from collections.abc import Iterator

import pytest

from tests.end_to_end.cells import SCENARIO
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, Header, Scene, scene
from voicebus.bus.messages.sound import RATE_HZ
from voicebus.cli.testing import Stack

FOUND_S = 3.0


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(scenario=SCENARIO)


@pytest.fixture
def disk(cell: Stack) -> Iterator[sqlite3.Connection]:
    """Whoever holds its lock keeps every commit of the journal waiting."""
    (path,) = cell.run_dir.rglob("session-0.db")
    with sqlite3.connect(path, isolation_level=None) as other:
        yield other
    other.close()


def _samples(caller: Caller) -> int:
    return sum(piece.count for _, piece in caller.pieces())


def _states(on: Scene) -> list[Header]:
    return [one for one in on.tape.system if one.get("role") == "session"]


async def test_a_slow_disk_is_told_in_time_and_stops_neither_sound_nor_an_interrupt(
    cell: Stack, disk: sqlite3.Connection
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.session.send_text("A long tone, please.")
        await caller.until(lambda: len(caller.pieces()) > 5, "the beginning of the tone")
        turn = caller.pieces()[0][1].turn_id
        before = _samples(caller)
        disk.execute("begin immediate")
        try:
            asking = asyncio.create_task(
                caller.session.add_item(
                    {
                        "type": "message",
                        "role": "user",
                        "content": [{"type": "input_text", "text": "This waits for the disk."}],
                    }
                )
            )
            told = await on.tape.until(
                lambda: next((one for one in _states(on) if one["state"] == "failing"), None),
                "the slow disk to be told",
                within_s=FOUND_S,
            )
            during = _samples(caller)
            stopping = asyncio.create_task(caller.session.interrupt())
            await caller.flushed(turn)
            answered = asking.done() or stopping.done()
        finally:
            disk.execute("rollback")
        await asyncio.gather(asking, stopping)
        await caller.event("interrupted")
        await on.tape.until(lambda: _states(on)[-1]["state"] == "ready", "all well again")

    assert (told["role"], told["instance"], told["pid"]) == ("session", 0, cell.pids()["session-0"])
    assert "the disk is slow" in told["why"]
    assert during > before + RATE_HZ["pcm16"] // 2, "the sound has waited for the disk"
    assert not answered, "the disk was not slow: this test has shown nothing"
