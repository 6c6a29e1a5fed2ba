"""Several faults at once, or one upon the other: no more is lost than by the worst of them."""

import asyncio
import os
import signal

import pytest

from tests.end_to_end.cells import Acts
from tests.end_to_end.support import Caller, scene
from tests.end_to_end.test_restart import restart, speaking
from voicebus.cli.testing import Stack

BACK_S = 40.0


async def _begun(cell: Stack, name: str, *, after: int) -> int:
    """The next process of that name has been started, no more. supervisord is asked again."""
    async with asyncio.timeout(BACK_S):
        while (pid := cell.pids().get(name, after)) == after:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return pid


async def _tallying(caller: Caller, acts: Acts) -> str:
    """A tool runs now, for three seconds. Its call."""
    await caller.session.send_text("tally slowly")
    call: str = (await caller.event("tool_call_dispatched")).data.call_id
    await acts.ran(call)
    return call


@pytest.mark.parametrize("times", [2, 5])
async def test_a_session_process_killed_again_while_it_comes_back(
    cell: Stack, acts: Acts, times: int
) -> None:
    async with scene(cell) as on:
        on.session_was_killed = True
        caller = await on.caller()
        call = await _tallying(caller, acts)
        pid = cell.pids()["session-0"]
        for _ in range(times):
            os.kill(pid, signal.SIGKILL)
            pid = await _begun(cell, "session-0", after=pid)
        await caller.event("tool_batch_submitted", within_s=BACK_S)
        await caller.turn("short tone", within_s=BACK_S)

        assert acts.done(call) == ["tally", "tallied"]
        assert not caller.found("session_closed")
        assert not caller.found("error")


async def test_a_transport_killed_again_while_it_comes_back(cell: Stack) -> None:
    async with scene(cell) as on:
        on.transport_was_killed = True
        caller = await on.caller()
        turn = await speaking(caller)
        pid = await _begun(cell, "transport-0", after=cell.kill("transport-0"))
        os.kill(pid, signal.SIGKILL)
        await caller.event("session_resumed", within_s=BACK_S)
        await caller.event("assistant_turn_completed", status="completed", within_s=BACK_S)
        await caller.turn("short tone", within_s=BACK_S)

        (cut,) = caller.found("assistant_turn_completed", status="incomplete")
        assert (cut.data.turn_id, cut.data.reason) == (turn, "transport_lost")


async def test_a_session_process_killed_while_the_transport_is_being_restarted(
    cell: Stack,
) -> None:
    async with scene(cell) as on:
        on.session_was_killed = on.transport_was_killed = True
        caller = await on.caller()
        turn = await speaking(caller)
        before = cell.pids()["transport-0"]
        changing = asyncio.create_task(restart(cell, "transport", silence_s=0.1))
        await _begun(cell, "transport-0", after=before)
        pid = cell.kill("session-0")
        await changing
        await cell.ready("session-0", after=pid)
        await caller.event("session_resumed", within_s=BACK_S)
        await caller.event("assistant_turn_completed", turn_id=turn, within_s=BACK_S)
        await caller.turn("short tone", within_s=BACK_S)

        assert not caller.found("session_closed")


async def test_every_process_killed_at_once(cell: Stack, acts: Acts) -> None:
    async with scene(cell) as on:
        on.session_was_killed = on.transport_was_killed = True
        caller = await on.caller()
        call = await _tallying(caller, acts)
        pids = cell.pids()
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        for name, pid in pids.items():
            await cell.ready(name, after=pid, within_s=BACK_S)
        await caller.event("session_resumed", within_s=BACK_S)
        await caller.event("tool_batch_submitted", within_s=BACK_S)
        await caller.turn("short tone", within_s=BACK_S)

        (failed,) = caller.found("tool_call_failed")
        assert (failed.data.call_id, failed.data.reason) == (call, "unknown")
        assert acts.done(call) == ["tally"], "it ran twice, or went on without its host"


async def test_session_tools_and_dispatcher_restarted_at_once_during_a_call(
    cell: Stack, acts: Acts
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        call = await _tallying(caller, acts)
        await asyncio.gather(*(restart(cell, role) for role in ("session", "dispatcher", "tools")))
        await caller.event("tool_call_completed", call_id=call, within_s=BACK_S)
        await caller.event("assistant_turn_completed", nth=2, within_s=BACK_S)

        assert acts.done(call) == ["tally", "tallied"]
        assert not caller.found("error")


async def test_an_interrupt_while_the_transport_is_away(cell: Stack) -> None:
    async with scene(cell) as on:
        on.transport_was_killed = True
        caller = await on.caller()
        turn = await speaking(caller)
        cell.kill("transport-0")
        await caller.session.interrupt()
        await caller.event("session_resumed", within_s=BACK_S)
        await caller.turn("short tone", within_s=BACK_S)

        # It is not given again: the caller did not want it any more.
        assert caller.words().count("A tone as fast as it is played.") <= 1
        assert len(caller.found("assistant_turn_completed", turn_id=turn)) == 1


async def test_a_caller_who_hangs_up_while_session_and_transport_are_away(cell: Stack) -> None:
    async with scene(cell) as on:
        on.session_was_killed = on.transport_was_killed = True
        caller = await on.caller()
        await speaking(caller)
        pids = {name: cell.kill(name) for name in ("transport-0", "session-0")}
        await caller.close()
        for name, pid in pids.items():
            await cell.ready(name, after=pid)

        (closed,) = caller.found("session_closed")
        assert closed.data.reason == "client"
        assert closed is caller.events[-1]
