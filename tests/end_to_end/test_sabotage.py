"""Input that the core cannot decide, the next version of the code, a clock that somebody sets."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Scene, scene
from voicebus.cli.testing import Stack

SABOTAGE = Path(__file__).parent / "samples" / "sabotage"
POISON = """
[[answer]]
when = { text = "apple" }
say = "The queen has a poisoned apple."
tone_ms = 100

"""
CLOCKS = ("session-0", "transport-0", "dispatcher-0", "health-0")


class Sabotage:
    """A cell whose processes look into a folder of the test's."""

    def __init__(self, start: StartStack, folder: Path, **files: str) -> None:
        self.folder = folder
        self.acts = Acts(folder)
        for name, text in files.items():
            self.write(name, text)
        scenario = folder / "line.toml"
        about, rest = SCENARIO.read_text("utf-8").split("\n", 1)
        scenario.write_text(f"{about}\n{POISON}{rest}", "utf-8")
        environment = {**os.environ, "PYTHONPATH": str(SABOTAGE), "SABOTAGE": str(folder)}
        self.cell: Stack = start(scenario=scenario, tools=self.acts.specs, environment=environment)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    async def next_session(self, on: Scene, number: signal.Signals) -> None:
        """Another session process, after the last one was killed or stopped."""
        on.session_was_killed = True
        pid = self.cell.kill("session-0", number)
        await self.cell.ready("session-0", after=pid)


async def sabotaged(start: StartStack, folder: Path, **files: str) -> Sabotage:
    return await asyncio.to_thread(Sabotage, start, folder, **files)


async def test_input_that_the_core_cannot_decide_ends_its_conversation_and_no_other(
    start_stack: StartStack, tmp_path: Path
) -> None:
    cell = (await sabotaged(start_stack, tmp_path, poison="raise")).cell
    pids = cell.pids()
    async with scene(cell, errors={"core.failed"}) as on:
        caller, other = await on.caller(), await on.caller()
        await caller.turn("short tone")
        await caller.session.send_text("apple")
        closed = await caller.event("session_closed")
        await other.turn("short tone")
        await (await on.caller()).turn("short tone")

        assert closed.data.reason == "error"
        assert not other.found("error")
    assert cell.pids() == pids


@pytest.mark.parametrize(
    ("where", "poison", "number"),
    [
        ("step", "die", "SIGABRT"),
        ("step", "spin", "SIGKILL"),
        ("deadline", "die", "SIGABRT"),
        ("read", "die", "SIGABRT"),
    ],
)
async def test_input_that_kills_or_blocks_the_process_ends_its_conversation_after_the_second_death(
    start_stack: StartStack, tmp_path: Path, where: str, poison: str, number: str
) -> None:
    cell = (await sabotaged(start_stack, tmp_path, where=where, poison=poison)).cell
    async with scene(cell, errors={"session.set_aside"}) as on:
        on.session_was_killed = True
        caller, other = await on.caller(), await on.caller()
        await caller.turn("short tone")
        await caller.session.send_text("apple")
        closed = await caller.event("session_closed", within_s=30)
        await other.turn("short tone", within_s=30)
        await (await on.caller()).turn("short tone")

        assert closed.data.reason == "error"
        assert "set aside" in closed.data.message
        assert not other.found("session_closed")
    deaths = [
        one for one in cell.log("supervisord", 500) if f"session-0 (terminated by {number}" in one
    ]
    assert len(deaths) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_next_version_takes_over_the_conversations_of_the_last(
    start_stack: StartStack, tmp_path: Path, number: signal.Signals
) -> None:
    sabotage = await sabotaged(start_stack, tmp_path)
    async with scene(sabotage.cell) as on:
        caller = await on.caller()
        await caller.turn("short tone")
        await caller.session.send_text("tally slowly")
        call = (await caller.event("tool_call_dispatched")).data.call_id
        await sabotage.acts.ran(call)

        sabotage.write("version", "99.0")
        await sabotage.next_session(on, number)
        await caller.event("tool_call_completed", call_id=call)
        await caller.event("assistant_turn_completed", nth=3)
        await caller.turn("short tone")

        assert sabotage.acts.done(call) == ["tally", "tallied"]
        assert len({one.header.inc for one in caller.events}) == 2
        told = caller.found("session_resumed")
        if number == signal.SIGKILL:
            assert [one.data.snapshot_required for one in told] == [True]
        else:
            assert not told, "it begins at the snapshot that the last one wrote"
        assert not caller.found("session_reconnecting")


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_clock_that_is_set_ends_no_conversation_and_stops_no_watch(
    start_stack: StartStack, tmp_path: Path, hours: int
) -> None:
    sabotage = await sabotaged(start_stack, tmp_path)
    cell = sabotage.cell
    pids = cell.pids()
    async with scene(cell) as on:
        caller = await on.caller()
        left = await on.client.connect({"lease_s": 2.0})
        await caller.session.send_text("tally slowly")
        await caller.event("tool_call_dispatched")

        sabotage.write("clock", str(hours * 3600))
        for name in CLOCKS:
            cell.kill(name, signal.SIGWINCH)
        await caller.event("tool_call_completed")
        await caller.event("assistant_turn_completed", status="completed", nth=2)
        await caller.turn("slow tone")
        await left.detach()
        await on.tape.until(lambda: on.tape.of(left.id, "session_closed"), "the lease to end")

        reason = on.tape.of(left.id, "session_closed")[0]["data"]["reason"]
        assert reason == "abandoned"
        assert not caller.found("session_closed")
        assert cell.pids() == pids
        assert any("clock.jumped" in line for line in cell.log("session-0", 200))

        on.session_was_killed = True
        pid = cell.kill("session-0")
        await cell.ready("session-0", after=pid)
        await caller.turn("short tone")
        assert not caller.found("session_closed")
