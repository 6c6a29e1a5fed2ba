"""Each process, at each moment of a conversation, killed and frozen; each ends with the auditor.

Here every process meets every fault, at moments that differ from process to process.
`make matrix` goes through all of it.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, Scene, scene
from tests.end_to_end.support_gateway import free_port
from voicebus.cli.testing import Stack

PROCESSES = (
    "session-0",
    "transport-0",
    "dispatcher-0",
    "toolhost-0",
    "simulator-0",
    "recorder-0",
    "gateway-0",
    "health-0",
    "runner",
)
"""`runner`: all that the tool host has at that moment."""
MOMENTS = ("silence", "speaking", "tool", "interrupt", "question")
FAULTS = ("kill", "freeze")
CUTS_TURNS = {("transport-0", "kill"), ("simulator-0", "kill")}
BACK_S = 30.0

WHOLE = [
    (process, moment, fault) for process in PROCESSES for moment in MOMENTS for fault in FAULTS
]
SHORT = [
    (process, moment, fault)
    for process, moment, fault in WHOLE
    if (PROCESSES.index(process) + 2 * FAULTS.index(fault) - MOMENTS.index(moment)) % 5 == 0
]
CHOSEN = WHOLE if os.environ.get("MATRIX") == "whole" else SHORT


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack, acts: Acts) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as folder:
        yield start_shared_stack(
            scenario=SCENARIO,
            tools=acts.specs,
            settings={
                "VOICEBUS_RECORDER_FOLDER": str(Path(folder) / "recordings"),
                "VOICEBUS_RECORDER_KEEP_FREE_MB": "0",
                "VOICEBUS_GATEWAY_BIND": "127.0.0.1",
                "VOICEBUS_GATEWAY_PORT": str(free_port()),
            },
        )


class Story:
    """One conversation, one fault in it, and what must have come of it."""

    def __init__(self, on: Scene, acts: Acts, process: str, fault: str) -> None:
        self.on, self.acts = on, acts
        self.process, self.fault = process, fault
        self.is_cut = (process, fault) in CUTS_TURNS
        """Then the answer under way ends incomplete and is given once more."""
        self.may_cost_a_call = process == "toolhost-0" or (process, fault) == ("runner", "kill")
        on.session_was_killed = (process, fault) == ("session-0", "kill")
        on.transport_was_killed = (process, fault) == ("transport-0", "kill")

    def strike(self) -> asyncio.Task[object]:
        """Do it. Ends when the process is there again; a frozen one is woken by who watches it."""
        is_kill = self.fault == "kill"
        if self.process == "runner":
            for pid in _runners(self.on.cell):
                os.kill(pid, signal.SIGKILL if is_kill else signal.SIGSTOP)
            return asyncio.create_task(self.on.cell.ready("toolhost-0", within_s=BACK_S))
        pid = self.on.cell.kill(self.process, signal.SIGKILL if is_kill else signal.SIGSTOP)
        back = self.on.cell.ready(self.process, after=pid if is_kill else None, within_s=BACK_S)
        return asyncio.create_task(back)

    async def silence(self, caller: Caller) -> None:
        await self.strike()
        await caller.turn("short tone", within_s=BACK_S)

    async def speaking(self, caller: Caller) -> None:
        done = len(caller.found("assistant_turn_completed", status="completed"))
        turn = await self._tone(caller)
        back = self.strike()
        ended = await caller.event("assistant_turn_completed", turn_id=turn, within_s=BACK_S)
        await back
        if self.is_cut and ended.data.status == "incomplete":
            await caller.event("assistant_turn_completed", status="completed", nth=done + 1)
        else:
            assert ended.data.status == "completed"
            heard = sum(piece.count for _, piece in caller.pieces(turn))
            assert heard == 3000 * 24 or self.on.transport_was_killed

    async def tool(self, caller: Caller) -> None:
        await caller.session.send_text("tally slowly")
        call = (await caller.event("tool_call_dispatched")).data.call_id
        await self.acts.ran(call)
        back = self.strike()
        await caller.event("tool_batch_submitted", within_s=BACK_S)
        await back
        ends = [*caller.found("tool_call_completed"), *caller.found("tool_call_failed")]

        assert [one.data.call_id for one in ends] == [call]
        assert self.acts.done(call).count("tally") == 1, "it ran twice"
        if not self.may_cost_a_call:
            assert ends[0].kind == "tool_call_completed"

    async def interrupt(self, caller: Caller) -> None:
        turn = await self._tone(caller)
        back = self.strike()
        await caller.session.interrupt()
        await caller.event("assistant_turn_completed", turn_id=turn, within_s=BACK_S)
        await back

    async def question(self, caller: Caller) -> None:
        back = self.strike()
        await caller.turn("tally", within_s=BACK_S)
        await back
        failed = [one.data.reason for one in caller.found("tool_call_failed")]
        if self.may_cost_a_call:
            # It may have gone to the one that fell: nobody knows whether it ran.
            assert set(failed) <= {"unknown", "lost", "crashed"}
            await caller.turn("tally", within_s=BACK_S)
        else:
            assert not failed

        marks = [self.acts.done(one.data.call_id) for one in caller.found("tool_call_dispatched")]
        assert all(done.count("tally") <= 1 for done in marks), "a call ran twice"
        assert marks[-1] == ["tally", "tallied"]

    async def _tone(self, caller: Caller) -> str:
        before = len(caller.pieces())
        await caller.session.send_text("slow tone")
        await caller.until(lambda: len(caller.pieces()) > before + 5, "the beginning of the tone")
        return caller.pieces()[-1][1].turn_id


def _runners(cell: Stack) -> list[int]:
    host = psutil.Process(cell.pids()["toolhost-0"])
    return [one.pid for one in host.children(recursive=True) if one.name() == "vb-runner"]


@pytest.mark.parametrize(("process", "moment", "fault"), CHOSEN)
async def test_whoever_falls_whenever_nothing_is_lost_and_nothing_happens_twice(
    cell: Stack, acts: Acts, process: str, moment: str, fault: str
) -> None:
    async with scene(cell) as on:
        story = Story(on, acts, process, fault)
        caller = await on.caller()
        await caller.turn("short tone")
        await getattr(story, moment)(caller)
        await caller.turn("short tone", within_s=BACK_S)

        assert not caller.found("session_closed")
        assert [one.data.code for one in caller.found("error")] == []


def test_the_short_form_has_each_process_each_moment_and_each_fault() -> None:
    assert {(process, fault) for process, _, fault in SHORT} == {
        (process, fault) for process, _, fault in WHOLE
    }
    assert {(moment, fault) for _, moment, fault in SHORT} == {
        (moment, fault) for moment in MOMENTS for fault in FAULTS
    }
