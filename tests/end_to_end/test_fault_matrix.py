"""Each process, at each moment of a conversation, killed and frozen; each ends with the auditor.

Here every process meets every fault, at moments that differ from process to process.
`make matrix` goes through all of it.
"""

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, Scene, scene
from tests.ports import free_port, free_ports
from voicebus.cli.chaos_faults import Fault
from voicebus.cli.chaos_recordings import Recordings, examine
from voicebus.cli.testing import Stack
from voicebus.client import RealtimeClient
from voicebus.client.remote import Elsewhere
from voicebus.services.session.archive import Archive

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
    "relay-0",
)
"""`runner`: all that the tool host has then. Where the relay falls, the caller has come by it."""
MOMENTS = ("silence", "speaking", "tool", "interrupt", "question")
FAULTS = ("kill", "freeze")
CUTS_TURNS = {("transport-0", "kill"), ("simulator-0", "kill")}
BACK_S = 30.0
HOST = "127.0.0.1"

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
def recordings() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as folder:
        yield Path(folder) / "recordings"


@pytest.fixture(scope="module")
def relay_port() -> int:
    return free_ports(3)


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack, acts: Acts, recordings: Path, relay_port: int) -> Stack:
    return start_shared_stack(
        scenario=SCENARIO,
        tools=acts.specs,
        settings={
            "VOICEBUS_RECORDER_FOLDER": str(recordings),
            "VOICEBUS_RECORDER_KEEP_FREE_MB": "0",
            "VOICEBUS_GATEWAY_BIND": HOST,
            "VOICEBUS_GATEWAY_PORT": str(free_port()),
            "VOICEBUS_RELAY_BIND": HOST,
            "VOICEBUS_RELAY_PORT": str(relay_port),
            "VOICEBUS_RELAY_CURVE": "false",
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
        self.may_cost_sound = on.transport_was_killed or process == "relay-0"

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
            assert heard == 3000 * 24 or self.may_cost_sound

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


@contextlib.asynccontextmanager
async def _scene(cell: Stack, process: str, relay_port: int) -> AsyncIterator[Scene]:
    if process != "relay-0":
        async with scene(cell) as on:
            yield on
        return
    async with RealtimeClient(Elsewhere(HOST, relay_port)) as elsewhere, scene(cell) as on:
        on.client = elsewhere
        yield on


@pytest.mark.parametrize(("process", "moment", "fault"), CHOSEN)
async def test_whoever_falls_whenever_nothing_is_lost_and_nothing_happens_twice(
    cell: Stack,
    acts: Acts,
    recordings: Path,
    relay_port: int,
    process: str,
    moment: str,
    fault: str,
) -> None:
    begun = time.monotonic()
    async with _scene(cell, process, relay_port) as on:
        story = Story(on, acts, process, fault)
        caller = await on.caller()
        await caller.turn("short tone")
        await getattr(story, moment)(caller)
        await caller.turn("short tone", within_s=BACK_S)

        assert not caller.found("session_closed")
        assert [one.data.code for one in caller.found("error")] == []

    if process == "recorder-0":
        found = await asyncio.to_thread(_recorded, cell, recordings, caller.id, fault, begun)
        assert found.faults == []
        assert found.whole + found.with_gaps == 1


def _recorded(
    cell: Stack, recordings: Path, session_id: str, fault: str, begun: float
) -> Recordings:
    """What the recorder has of it, beside the journal."""
    with Archive(cell.run_dir / "data" / "session-0.db") as archive:
        kept = {session_id: archive.events(session_id)}
    span = {session_id: (begun, time.monotonic())}
    return examine(recordings, kept, span, [Fault(f"{fault} recorder", "recorder-0", 0, begun)])


def test_the_short_form_has_each_process_each_moment_and_each_fault() -> None:
    assert {(process, fault) for process, _, fault in SHORT} == {
        (process, fault) for process, _, fault in WHOLE
    }
    assert {(moment, fault) for _, moment, fault in SHORT} == {
        (moment, fault) for moment in MOMENTS for fault in FAULTS
    }
