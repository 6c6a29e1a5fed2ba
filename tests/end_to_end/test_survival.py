"""What is left of a conversation when a process of the cell is killed in the middle of it."""

import asyncio
import itertools
import os
import time
from typing import Any

import psutil

from tests.end_to_end.cells import Acts
from tests.end_to_end.support import Caller, Line, Scene, measured, scene
from voicebus.bus import ids
from voicebus.cli.testing import Stack


async def kill(on: Scene, name: str) -> int:
    """SIGKILL; returns when supervisord has brought it back. Unix microseconds of the kill."""
    at_us = time.time_ns() // 1000
    on.session_was_killed |= name == "session-0"
    pid = on.cell.kill(name)
    await on.cell.ready(name, after=pid)
    measured(f"kill of {name} to its being ready", time.time_ns() / 1e6 - at_us / 1000)
    return at_us


async def running_call(caller: Caller, acts: Acts, text: str) -> str:
    """A tool runs now. Its call."""
    nth = len(caller.found("tool_call_dispatched")) + 1
    await caller.session.send_text(text)
    call: str = (await caller.event("tool_call_dispatched", nth=nth)).data.call_id
    await acts.ran(call)
    return call


async def test_a_killed_session_process_interrupts_neither_sound_nor_turn(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        id = on.line.command("send_text", {"text": "slow tone"}, session_id=caller.id)
        first = await on.line.reply(id)
        await caller.until(lambda: len(caller.pieces()) > 10, "the beginning of the tone")
        turn = caller.pieces()[0][1].turn_id

        killed_us = await kill(on, "session-0")
        await caller.event("assistant_turn_completed", turn_id=turn, within_s=10)
        on.line.command("send_text", {"text": "slow tone"}, session_id=caller.id, id=id)
        again = await on.line.reply(id, nth=2)

        assert again == first
        assert len(caller.found("assistant_turn_started")) == 1
        assert caller.found("assistant_turn_completed")[0].data.status == "completed"
        await caller.until(
            lambda: sum(piece.count for _, piece in caller.pieces()) == 3000 * 24, "all sound"
        )
        times = [at for at, _ in caller.pieces()]
        pause = max(b - a for a, b in itertools.pairwise(times))
        incs = [one.header.inc for one in caller.events]
        assert len(set(incs)) == 2, "the session process was not killed in mid-conversation"
        first_back = next(one.at_us for one in caller.events if one.header.inc != incs[0])
        measured("longest pause of the sound around the kill", pause * 1000)
        measured("kill of the session process to its first event", (first_back - killed_us) / 1000)
        assert pause < 1.0, "the sound had to wait for the session process"


async def test_a_tool_that_ran_while_the_session_process_was_killed_ran_once(
    cell: Stack, acts: Acts
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        call = await running_call(caller, acts, "tally slowly")

        await kill(on, "session-0")
        done = await caller.event("tool_call_completed", call_id=call)
        await caller.event("assistant_turn_completed", nth=2)

        assert done.data.result == {"tally": "one mark"}
        assert acts.done(call) == ["tally", "tallied"]
        assert "one mark" in caller.words()
        assert caller.found("tool_batch_submitted")[0].data.call_ids == [call]


async def test_two_kills_in_one_conversation_are_nobodys_fault(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.turn("short tone")

        await kill(on, "session-0")
        await caller.turn("tally")
        await kill(on, "session-0")
        await caller.turn("short tone")

        assert caller.words().count("A short tone.") == 2
        assert not caller.found("error")
        assert not caller.found("session_closed")


async def test_a_command_whose_reply_was_lost_with_the_process_is_done_once(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        line, id = Line(cell.endpoints, on.sockets), ids.ulid()

        line.command("send_text", {"text": "short tone"}, session_id=caller.id, id=id)
        await kill(on, "session-0")
        line.command("send_text", {"text": "short tone"}, session_id=caller.id, id=id)
        reply = await line.reply(id)
        await caller.event("assistant_turn_completed")
        await caller.session.ping()

        assert reply["ok"]
        assert len(caller.found("assistant_turn_started")) == 1


async def test_an_interrupt_still_stops_a_tool_that_was_called_before_the_kill(
    cell: Stack, acts: Acts
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        call = await running_call(caller, acts, "patient")

        await kill(on, "session-0")
        await caller.session.interrupt()
        failed = await caller.event("tool_call_failed", call_id=call)

        assert failed.data.reason == "cancelled"
        assert acts.done(call) == ["patient", "stopped"]


async def interrupted_while_away(on: Scene, caller: Caller) -> Any:
    """An interrupt is sent to a session process that is dead. What the next one made of it."""
    before = on.cell.kill("session-0")
    interrupting = asyncio.create_task(caller.session.interrupt())
    await on.cell.ready("session-0", after=before)
    cause = await interrupting
    interrupted = await caller.event("interrupted")

    assert interrupted.cause == cause
    assert interrupted.header.inc != caller.events[0].header.inc, "it was not away"
    return interrupted


async def test_an_interrupt_sent_while_the_session_process_is_away_stops_the_sound_once_it_is_back(
    cell: Stack,
) -> None:
    async with scene(cell) as on:
        on.session_was_killed = True
        caller = await on.caller(plays=True)
        await caller.session.send_text("long tone")
        await caller.until(lambda: len(caller.pieces()) > 10, "the beginning of the tone")
        turn = caller.pieces()[0][1].turn_id

        interrupted = await interrupted_while_away(on, caller)
        await caller.flushed(turn)
        heard = await caller.event("assistant_heard", turn_id=turn)
        await caller.turn("short tone")

        assert interrupted.data.responses == [turn]
        assert not heard.data.complete
        assert caller.words().count("A short tone.") == 1


async def test_an_interrupt_sent_while_the_session_process_is_away_stops_a_tool_once_it_is_back(
    cell: Stack, acts: Acts
) -> None:
    async with scene(cell) as on:
        on.session_was_killed = True
        caller = await on.caller()
        call = await running_call(caller, acts, "patient")

        interrupted = await interrupted_while_away(on, caller)
        failed = await caller.event("tool_call_failed", call_id=call)

        assert interrupted.data.calls == [call]
        assert failed.data.reason == "cancelled"
        assert acts.done(call) == ["patient", "stopped"]


async def test_a_killed_dispatcher_costs_no_call_and_runs_none_twice(
    cell: Stack, acts: Acts
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        call = await running_call(caller, acts, "tally slowly")

        await kill(on, "dispatcher-0")
        done = await caller.event("tool_call_completed", call_id=call)
        await caller.event("assistant_turn_completed", nth=2)
        await caller.turn("tally")

        assert done.data.result == {"tally": "one mark"}
        assert acts.done(call) == ["tally", "tallied"]
        assert len(caller.found("tool_call_completed")) == 2


async def test_a_killed_tool_host_ends_its_call_once_and_takes_its_runner_along(
    cell: Stack, acts: Acts
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        call = await running_call(caller, acts, "patient")
        runner = psutil.Process(acts.pid(call))

        await kill(on, "toolhost-0")
        failed = await caller.event("tool_call_failed", call_id=call)
        await caller.event("assistant_turn_completed", nth=2)
        await caller.turn("tally")

        assert failed.data.reason in ("lost", "unknown")
        assert acts.done(call) == ["patient"], "it ran to its end, or twice"
        _, alive = await asyncio.to_thread(psutil.wait_procs, [runner], 5)
        assert not alive
        assert len(caller.found("tool_call_completed")) == 1


async def test_a_killed_runner_is_a_crashed_call(cell: Stack, acts: Acts) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        call = await running_call(caller, acts, "patient")

        os.kill(acts.pid(call), 9)
        failed = await caller.event("tool_call_failed", call_id=call)
        await caller.event("assistant_turn_completed", nth=2)

        assert (failed.data.reason, failed.data.signal) == ("crashed", "SIGKILL")
        assert "crashed" in caller.words(), "the model was not told"


async def test_a_killed_transport_costs_the_turn_and_leaves_both_old_and_new_conversations(
    cell: Stack,
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.session.send_text("long tone")
        await caller.until(lambda: len(caller.pieces()) > 5, "the beginning of the tone")
        turn = caller.pieces()[0][1].turn_id

        on.transport_was_killed = True
        await kill(on, "transport-0")
        ended = await caller.event("assistant_turn_completed", turn_id=turn)
        await caller.event("session_resumed")
        other = await on.caller()
        await other.turn("short tone")
        await caller.event("assistant_turn_completed", status="completed", within_s=60)

        assert (ended.data.status, ended.data.reason) == ("incomplete", "transport_lost")
        assert other.words() == "A short tone."
