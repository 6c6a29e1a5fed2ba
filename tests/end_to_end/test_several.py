"""Two transports, two session processes: conversations are spread, and a death is felt by few."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, Scene, scene, voicebus
from tests.ports import free_ports
from voicebus.bus import ids
from voicebus.cli.restart import Restart
from voicebus.cli.tail import follow
from voicebus.cli.testing import Stack
from voicebus.client import CommandRefused, Event, RealtimeClient
from voicebus.client.remote import Elsewhere
from voicebus.client.watch import Seen

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def relay_port() -> int:
    return free_ports(3)


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack, acts: Acts, relay_port: int) -> Stack:
    return start_shared_stack(
        scenario=SCENARIO,
        tools=acts.specs,
        settings={
            "VOICEBUS_TRANSPORTS": "2",
            "VOICEBUS_SHARDS": "2",
            "VOICEBUS_SESSION_MAX_SESSIONS": "4",
            "VOICEBUS_RELAY_BIND": HOST,
            "VOICEBUS_RELAY_PORT": str(relay_port),
            "VOICEBUS_RELAY_CURVE": "false",
        },
    )


def shard(caller: Caller) -> int:
    return ids.shard_of(caller.id) or 0


async def transports(on: Scene) -> dict[str, str]:
    """Session -> transport, as all shards tell it."""
    return {one["session_id"]: one["transport"] for one in await on.client.sessions()}


@asynccontextmanager
async def four(cell: Stack) -> AsyncIterator[tuple[Scene, list[Caller]]]:
    """Two conversations on each shard, and so on each transport."""
    async with scene(cell) as on:
        callers = [await on.caller() for _ in range(4)]
        yield on, callers


async def speaking(caller: Caller, text: str = "slow tone") -> str:
    """The assistant speaks now, for three seconds unless it is another tone. Its turn."""
    before = len(caller.pieces())
    await caller.session.send_text(text)
    await caller.until(lambda: len(caller.pieces()) > before + 5, "the beginning of the tone")
    return caller.pieces()[-1][1].turn_id


async def test_conversations_are_spread_and_all_of_them_are_seen(cell: Stack) -> None:
    seen: list[Seen] = []

    async with four(cell) as (on, callers):
        watching = asyncio.create_task(follow(cell.endpoints, None, False, seen.append))
        homes = await transports(on)
        async with asyncio.timeout(60):
            # Who watches hears what happens once it has joined: it may miss the first turns.
            while not {one.id for one in callers} <= _answered(seen):
                for caller in callers:
                    await caller.turn("short tone")
        watching.cancel()
        _, status, _ = await voicebus("status", "--run-dir", str(cell.run_dir))
        _, top, _ = await voicebus("top", "--count", "1", "--run-dir", str(cell.run_dir))

        assert Counter(shard(one) for one in callers) == {0: 2, 1: 2}
        for number in (0, 1):
            mine = [homes[one.id] for one in callers if shard(one) == number]
            assert sorted(mine) == ["transport-0", "transport-1"]
        for name in ("transport-0", "transport-1", "session-0", "session-1"):
            assert f"{name} " in status
            assert name in cell.names
        assert "conversations: 4" in top


def _answered(seen: list[Seen]) -> set[str]:
    return {
        one.session_id
        for one in seen
        if isinstance(one, Event) and one.kind == "assistant_turn_completed"
    }


async def test_tools_and_interrupts_find_their_conversation_on_each_shard(
    cell: Stack, acts: Acts
) -> None:
    async with four(cell) as (_, callers):
        stopped, others = callers[:2], callers[2:]
        for caller in callers:
            await caller.session.send_text("tally slowly" if caller in others else "patient")
        calls = {}
        for caller in callers:
            calls[caller.id] = (await caller.event("tool_call_dispatched")).data.call_id
            await acts.ran(calls[caller.id])
        for caller in stopped:
            await caller.session.interrupt()
        for caller in stopped:
            failed = await caller.event("tool_call_failed", call_id=calls[caller.id])
            assert failed.data.reason == "cancelled"
        cell.kill("dispatcher-0")
        for caller in others:
            await caller.event("tool_call_completed", call_id=calls[caller.id])

        assert {shard(one) for one in stopped} == {shard(one) for one in others} == {0, 1}
        for caller in stopped:
            assert acts.done(calls[caller.id]) == ["patient", "stopped"]
        for caller in others:
            assert acts.done(calls[caller.id]) == ["tally", "tallied"]
            assert len(caller.found("tool_call_completed")) == 1
    await cell.ready("dispatcher-0")


async def test_a_shard_that_is_full_leaves_the_next_to_the_other_and_then_all_are(
    cell: Stack, relay_port: int
) -> None:
    """`max_sessions` holds for each shard: four on each are eight."""
    async with scene(cell) as on, AsyncExitStack() as calls:
        for _ in range(4):
            only = RealtimeClient(cell.run_dir, shard=1)
            await calls.enter_async_context(only)
            await calls.enter_async_context(only.connect())
        elsewhere = await calls.enter_async_context(RealtimeClient(Elsewhere(HOST, relay_port)))
        far = [await calls.enter_async_context(elsewhere.connect()) for _ in range(2)]
        near = [await on.caller() for _ in range(2)]
        listed = await elsewhere.sessions()
        for client in (
            RealtimeClient(cell.run_dir, deadline_s=0.5),
            RealtimeClient(Elsewhere(HOST, relay_port), deadline_s=0.5),
        ):
            async with client:
                with pytest.raises(CommandRefused, match=r"session-\d holds 4 sessions.*max_ses"):
                    await client.connect()

        assert {ids.shard_of(one.id) for one in far} == {0}
        assert {shard(one) for one in near} == {0}
        assert Counter(ids.shard_of(one["session_id"]) for one in listed) == {0: 4, 1: 4}


async def test_a_killed_transport_is_felt_only_by_its_own_conversations_which_the_other_takes(
    cell: Stack,
) -> None:
    async with four(cell) as (on, callers):
        on.transport_was_killed = True
        homes = await transports(on)
        touched = [one for one in callers if homes[one.id] == "transport-1"]
        others = [one for one in callers if homes[one.id] == "transport-0"]
        turns = {one.id: await speaking(one) for one in others}
        # Long enough to be cut also where the others take their time to begin.
        await asyncio.gather(*(speaking(one, "long tone") for one in touched))
        killed = cell.kill("transport-1")
        for caller in touched:
            back = await caller.event("session_resumed")
            assert back.data.transport == "transport-0"
            assert back.data.audio_out == cell.endpoints.audio_out(0)
            await caller.turn("short tone", within_s=60)  # after what was cut is said again
        for caller in others:
            turn = turns[caller.id]
            await caller.event("assistant_turn_completed", turn_id=turn, status="completed")
            await _all_heard(caller, turn)
        await cell.ready("transport-1", after=killed)
        homes = await transports(on)
        new = [await on.caller() for _ in range(2)]
        homes = await transports(on)
        for caller in new:
            await caller.turn("short tone")

        assert len(touched) == len(others) == 2
        assert {homes[one.id] for one in callers} == {"transport-0"}
        assert {homes[one.id] for one in new} == {"transport-1"}
        for caller in touched:
            (cut,) = caller.found("assistant_turn_completed", status="incomplete")
            assert cut.data.reason == "transport_lost"
        for caller in others:
            assert not caller.found("session_reconnecting")


async def _all_heard(caller: Caller, turn: str) -> None:
    await caller.until(lambda: _ms(caller, turn) == 3000, "all sound")


def _ms(caller: Caller, turn: str) -> float:
    return sum(piece.count for _, piece in caller.pieces(turn)) / 24


async def test_a_killed_session_process_is_felt_by_nobody_on_the_other_shard(
    cell: Stack, acts: Acts
) -> None:
    async with four(cell) as (on, callers):
        on.session_was_killed = True
        touched = [one for one in callers if shard(one) == 1]
        others = [one for one in callers if shard(one) == 0]
        for caller in touched:
            await caller.session.send_text("tally slowly")
        calls = {one.id: (await one.event("tool_call_dispatched")).data.call_id for one in touched}
        turns = {one.id: await speaking(one) for one in others}
        healed = {one.id: one.session.healed for one in others}
        # Stopped first: a successor may be there before another caller has asked.
        cell.kill("session-1", signal.SIGSTOP)
        while_away = await on.caller()
        killed = cell.kill("session-1")
        for caller in others:
            turn = turns[caller.id]
            await caller.event("assistant_turn_completed", turn_id=turn, status="completed")
        for caller in touched:
            await caller.event("tool_call_completed", call_id=calls[caller.id], within_s=30)
            await caller.event("assistant_turn_completed", nth=2)
        await cell.ready("session-1", after=killed)

        assert shard(while_away) == 0
        for caller in others:
            assert len({one.header.inc for one in caller.events}) == 1
            assert caller.session.healed == healed[caller.id]  # nothing was missed meanwhile
        for caller in touched:
            assert acts.done(calls[caller.id]) == ["tally", "tallied"]
            assert not caller.found("session_reconnecting")


async def test_a_restarted_transport_is_left_by_each_conversation_in_a_silence_of_its_own(
    cell: Stack,
) -> None:
    told: list[str] = []
    async with four(cell) as (on, callers):
        on.transport_was_killed = True
        loud = callers[0]
        homes = await transports(on)
        turn = await speaking(loud)
        first = asyncio.create_task(asyncio.to_thread(_restart, cell, told))
        quiet = [one for one in callers if one is not loud and homes[one.id] == homes[loud.id]]
        for caller in quiet:
            await caller.event("session_resumed")
        in_time = not loud.found("assistant_turn_completed", turn_id=turn)
        await first
        for caller in callers:
            await caller.event("session_resumed")
            await caller.turn("short tone")

        assert in_time or homes[loud.id] == "transport-1"
        assert loud.found("assistant_turn_completed", turn_id=turn, status="completed")
        assert _ms(loud, turn) == 3000
        for caller in callers:
            assert not caller.found("assistant_turn_completed", status="incomplete")
            reasons = {one.data.reason for one in caller.found("session_reconnecting")}
            assert reasons == {"transport"}
        assert not any("are cut" in one for one in told)


def _restart(cell: Stack, told: list[str]) -> None:
    Restart(cell.run_dir, 20.0, told.append).role("transport")
