"""What comes while somebody is away is kept for them, up to a bound."""

import asyncio
import base64
import contextlib
import signal
import struct
from collections.abc import Iterator

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, scene
from tests.end_to_end.support_provider import Call, Provider, stream
from tests.ports import free_port
from voicebus.cli.testing import Stack

PORT = free_port()
AWAY_S = 10.0
MB = 1024 * 1024
FLOOD_MB = 200
ROOM_MB = 64
"""What the flood may cost a process: a ring of 8 MB, queues, and what an allocator keeps."""


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    # Nobody wakes whom the test has stopped.
    return start_shared_stack(
        provider_url=f"ws://127.0.0.1:{PORT}", settings={"VOICEBUS_HEALTH_SILENT_S": "0"}
    )


@contextlib.contextmanager
def _away(cell: Stack) -> Iterator[None]:
    cell.kill("session-0", signal.SIGSTOP)
    try:
        yield
    finally:
        cell.kill("session-0", signal.SIGCONT)


async def _asked(caller: Caller, call: Call) -> None:
    await caller.session.send_text("Hello?")
    await call.expect("response.create")


def _rss(cell: Stack) -> dict[str, int]:
    return {
        name: psutil.Process(pid).memory_info().rss
        for name, pid in cell.pids().items()
        if name in ("transport-0", "session-0")
    }


async def test_ten_seconds_without_the_session_process_cost_neither_sound_nor_an_event(
    cell: Stack,
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)
        await call.send(type="response.created", response={"id": "resp_1"})
        with _away(cell):
            await stream(call, "resp_1", "item_1", AWAY_S)
            await call.send(
                type="response.output_audio_transcript.done",
                response_id="resp_1",
                item_id="item_1",
                content_index=0,
                transcript="That took a while.",
            )
            await call.send(type="response.done", response={"id": "resp_1", "status": "completed"})
            await caller.until(
                lambda: sum(one.count for _, one in caller.pieces("resp_1")) == AWAY_S * 24_000,
                "all sound",
            )
        await caller.event("assistant_turn_completed", turn_id="resp_1", status="completed")

        assert caller.words() == "That took a while."
        assert not caller.found("session_reconnecting")


async def test_a_flood_without_a_session_process_ends_the_connection_and_fills_no_memory(
    cell: Stack,
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)
        await call.send(type="response.created", response={"id": "resp_1"})
        before = _rss(cell)
        with _away(cell):
            await _flood(call)
            await call.gone()
            during = _rss(cell)
        resumed = await caller.event("session_resumed")
        again = await provider.call()
        await again.expect("response.create")
        await again.send(type="response.created", response={"id": "resp_2"})
        await again.send(type="response.done", response={"id": "resp_2", "status": "completed"})
        await caller.event("assistant_turn_completed", turn_id="resp_2", status="completed")

        assert resumed.data.events_lost
        for name, was in before.items():
            assert during[name] - was < ROOM_MB * MB
            assert _rss(cell)[name] - was < ROOM_MB * MB


async def _flood(call: Call) -> None:
    text = "x" * MB
    with contextlib.suppress(ConnectionClosed):
        for _ in range(FLOOD_MB):
            await call.send(
                type="response.output_text.delta",
                response_id="resp_1",
                item_id="item_1",
                output_index=0,
                content_index=0,
                delta=text,
            )


async def test_what_is_spoken_while_the_provider_is_away_reaches_the_next_connection_in_order(
    cell: Stack,
) -> None:
    async with Provider(PORT, confirms=False) as provider, scene(cell) as on:
        caller = Caller(await on.client.connect(turn_detection="none"))
        call = await provider.call()
        await _confirm(call)
        await caller.opened()
        call.cut()
        await caller.event("session_reconnecting")
        for n in range(25):
            await caller.session.send_audio(struct.pack("<h", n) * 480)
        committing = asyncio.create_task(caller.session.commit_audio())
        again = await provider.call()
        await _confirm(again)
        await again.expect("input_audio_buffer.commit")
        await committing
        await caller.close()

        said = [base64.b64decode(one["audio"]) for one in again.of("input_audio_buffer.append")]
        assert [struct.unpack_from("<h", one)[0] for one in said] == list(range(25))
        assert not call.of("input_audio_buffer.append")


async def _confirm(call: Call) -> None:
    update = await call.expect("session.update")
    await call.send(type="session.updated", session=update["session"])
