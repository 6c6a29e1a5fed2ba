"""What a caller may rely on, seen from outside: through the client, against the real processes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from voicebus.bus.messages import events
from voicebus.cli.testing import Stack
from voicebus.client.client import RealtimeClient
from voicebus.client.events import Event
from voicebus.client.session import RealtimeSession
from voicebus.client.sound import Heard, Sound, SoundEnd

SCENARIO = Path(__file__).parent / "scenarios" / "tools.toml"
PATIENCE_S = 30


@pytest.fixture(scope="module")
def cell(start_shared_stack: Any) -> Stack:
    stack: Stack = start_shared_stack(scenario=SCENARIO)
    return stack


@pytest.fixture
async def client(cell: Stack) -> AsyncIterator[RealtimeClient]:
    async with RealtimeClient(cell.run_dir) as client:
        yield client


class Listener:
    """Notes everything that a session says, in the order in which it comes."""

    def __init__(self, session: RealtimeSession) -> None:
        self.heard: list[Event | Heard] = []
        self._is_over = False
        self._changed = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._follow(session.events())),
            asyncio.create_task(self._follow(session.audio_output())),
        ]

    async def _follow(self, reader: Any) -> None:
        async for one in reader:
            self.heard.append(one)
            self._changed.set()
        self._is_over = True
        self._changed.set()

    async def until(self, what: Any, *, times: int = 1) -> Any:
        """The first (or nth) thing for which `what` is true."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [one for one in self.heard if what(one)]) < times:
                assert not self._is_over, f"the session has ended: {self.events()[-3:]}"
                self._changed.clear()
                await self._changed.wait()
        return found[times - 1]

    async def event(self, kind: str, *, times: int = 1) -> Event:
        """The first (or nth) event of that kind."""
        found: Event = await self.until(
            lambda one: isinstance(one, Event) and one.kind == kind, times=times
        )
        return found

    def events(self) -> list[Event]:
        """All events so far."""
        return [one for one in self.heard if isinstance(one, Event)]

    def position(self, one: Event | Heard) -> int:
        """Where it stands in the order of arrival."""
        return next(n for n, other in enumerate(self.heard) if other is one)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


def assert_sound_is_whole(heard: list[Event | Heard], end: SoundEnd) -> None:
    """Every sample of the item came, once and in order."""
    at = 0
    for one in heard:
        if isinstance(one, Sound) and one.item_id == end.item_id:
            assert one.offset_samples == at
            at += one.count
    assert at == end.samples


def assert_no_gap(told: list[Event]) -> None:
    """Numbers count from 1, each once."""
    seqs = [one.seq for one in told if one.seq is not None]
    assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize("tool", ["nap", "burn_cpu", "block_gil"])
async def test_sound_goes_on_while_a_tool_sleeps_spins_or_holds_the_interpreter(
    client: RealtimeClient, tool: str
) -> None:
    async with client.connect() as session:
        listener = Listener(session)
        await session.send_text(f"Please {tool}")
        await listener.event("tool_call_dispatched")

        await session.send_text("Please count")
        end = await listener.until(lambda one: isinstance(one, SoundEnd))
        completed = await listener.event("tool_call_completed")

        # A second of sound, at the speed of speech, begun after the tool and complete before it.
        assert end.samples == 24_000
        assert listener.position(end) < listener.position(completed)
        assert_sound_is_whole(listener.heard, end)
        assert_no_gap(listener.events())
        listener.stop()


async def test_a_tool_that_crashes_its_interpreter_costs_only_its_own_call(
    client: RealtimeClient,
) -> None:
    async with client.connect() as session:
        listener = Listener(session)
        await session.send_text("Please crash")

        failed = (await listener.event("tool_call_failed")).data
        assert isinstance(failed, events.ToolCallFailed)
        assert failed.reason == "crashed"
        assert failed.signal == "SIGABRT"
        assert failed.stderr_tail is not None
        assert "about to abort" in failed.stderr_tail
        answer = (await listener.event("assistant_transcript")).data
        assert isinstance(answer, events.AssistantTranscript)
        assert answer.text == "That did not work."  # so the model was told

        await session.send_text("How is the weather?")
        done = (await listener.event("tool_call_completed")).data
        assert isinstance(done, events.ToolCallCompleted)
        assert done.result["city"] == "Berlin"
        assert_no_gap(listener.events())
        listener.stop()


async def test_a_killed_session_process_stops_no_sound_and_loses_no_event(
    client: RealtimeClient, cell: Stack
) -> None:
    async with client.connect() as session:
        listener = Listener(session)
        await session.send_text("How is the weather?")
        await listener.event("assistant_turn_completed", times=2)
        await session.send_text("A long answer, please")
        await listener.until(lambda one: isinstance(one, Sound) and one.offset_samples > 24_000)

        killed = await asyncio.to_thread(cell.kill, "session-0")
        end = await listener.until(lambda one: isinstance(one, SoundEnd) and one.samples > 100_000)
        await cell.ready("session-0", after=killed)
        completed = (await listener.event("assistant_turn_completed", times=3)).data

        assert isinstance(completed, events.AssistantTurnCompleted)
        assert completed.status == "completed"
        assert end.samples == 144_000
        assert_sound_is_whole(listener.heard, end)
        assert_no_gap(listener.events())
        kinds = [one.kind for one in listener.events()]
        assert kinds.count("tool_call_completed") == 1
        await session.send_text("How is the weather?")
        await listener.event("tool_call_completed", times=2)
        listener.stop()


async def test_a_tool_survives_the_death_of_the_session_process_and_runs_once(
    client: RealtimeClient, cell: Stack
) -> None:
    async with client.connect() as session:
        listener = Listener(session)
        await session.send_text("Please nap")
        await listener.event("tool_call_dispatched")

        killed = await asyncio.to_thread(cell.kill, "session-0")
        await cell.ready("session-0", after=killed)
        await listener.event("tool_call_completed")
        await listener.event("assistant_turn_completed", times=2)

        kinds = [one.kind for one in listener.events()]
        assert kinds.count("tool_call_dispatched") == 1
        assert kinds.count("tool_call_completed") == 1
        assert kinds.count("tool_call_failed") == 0
        assert kinds.count("tool_batch_submitted") == 1
        assert_no_gap(listener.events())
        listener.stop()
