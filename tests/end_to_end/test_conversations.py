"""Conversations as callers hold them: text, tools, push-to-talk, barge-in, interrupt."""

import asyncio
import struct

import pytest

from tests.end_to_end.cells import Acts
from tests.end_to_end.support import Caller, Scene, measured, scene
from voicebus.bus.messages.commands import ReportPlayback
from voicebus.cli.testing import Stack
from voicebus.client import CommandRefused
from voicebus.client.sound import SoundEnd

FRAME = 960
"""20 ms of pcm16."""


async def speak(caller: Caller, *, loud: bool, frames: int) -> None:
    """So many frames, at the speed of time."""
    sound = struct.pack("<h", 12_000 if loud else 0) * (FRAME // 2)
    for _ in range(frames):
        await caller.session.send_audio(sound)
        await asyncio.sleep(0.02)


async def test_a_text_is_answered_with_sound_and_with_its_words(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()

        cause = await caller.turn("short tone")

        turn = caller.found("assistant_turn_started")[0]
        assert (await caller.event("assistant_turn_completed")).data.status == "completed"
        assert turn.cause in (None, cause)
        assert caller.words() == "A short tone."
        await caller.until(lambda: isinstance(caller.sound[-1][1], SoundEnd), "the sound's end")
        assert sum(piece.count for _, piece in caller.pieces()) == 300 * 24
        assert (await caller.event("assistant_audio_done")).data.samples == 300 * 24


async def test_with_text_as_modality_there_is_no_sound(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller(modalities=["text"])

        await caller.turn("short tone")

        assert caller.found("assistant_text")[0].data.text == "A short tone."
        assert not caller.pieces()


async def test_the_calls_of_a_response_run_and_are_answered_in_their_order(
    cell: Stack, acts: Acts
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()

        await caller.turn("tally and weather")

        calls = [one.data.call_id for one in caller.found("tool_call_started")]
        ends = [one.data.call_id for one in caller.found("tool_call_completed")]
        assert sorted(calls) == sorted(ends)
        assert ends == calls[::-1], "the quick one ends first"
        assert caller.found("tool_batch_submitted")[0].data.call_ids == calls
        await on.caught_up(caller)
        outputs = on.tape.sent_to_provider(caller.id, "conversation.item.create")
        given = [
            one["item"]["call_id"]
            for one in outputs
            if one["item"]["type"] == "function_call_output"
        ]
        assert given == calls
        assert len(on.tape.sent_to_provider(caller.id, "response.create")) == 2
        assert acts.done(calls[0]) == ["tally", "tallied"]
        assert "Paris" in caller.words()


async def test_push_to_talk_answers_what_was_said_before_the_commit(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller(turn_detection="none")

        await speak(caller, loud=True, frames=20)
        await caller.session.commit_audio()
        started = await caller.event("assistant_turn_started")
        await caller.event("assistant_turn_completed", turn_id=started.data.turn_id)

        assert not caller.found("user_speech_started")
        assert caller.sound
        await on.caught_up(caller)
        assert len(on.tape.sent_to_provider(caller.id, "input_audio_buffer.commit")) == 1
        assert (await caller.event("user_transcript")).data.text == "short tone"
        assert caller.words() == "A short tone."


async def _story(on: Scene, caller: Caller, text: str) -> str:
    """A long answer has begun to sound. Its response."""
    await caller.session.send_text(text)
    await caller.until(lambda: len(caller.pieces()) > 5, "the beginning of the story")
    return caller.pieces()[0][1].turn_id


def _truncated_ms(on: Scene, caller: Caller) -> list[int]:
    frames = on.tape.sent_to_provider(caller.id, "conversation.item.truncate")
    return [one["audio_end_ms"] for one in frames]


def _heard_ms(caller: Caller, turn_id: str) -> int:
    pieces = [piece for _, piece in caller.pieces(turn_id)]
    return sum(piece.count for piece in pieces) // 24


async def test_speaking_over_a_long_answer_silences_it_and_truncates_at_what_was_heard(
    cell: Stack,
) -> None:
    async with scene(cell) as on:
        caller = await on.caller(plays=True)
        turn = await _story(on, caller, "story")

        await speak(caller, loud=True, frames=25)
        interrupted = await caller.event("interrupted")
        heard = await caller.event("assistant_heard")
        await caller.flushed(turn)
        await on.tape.until(lambda: _truncated_ms(on, caller), "the truncation")

        assert interrupted.data.reason == "barge_in"
        assert interrupted.data.responses == [turn]
        assert {flush.responses for _, flush in caller.flushes()} == {(turn,)}
        assert _truncated_ms(on, caller) == [heard.data.heard_ms]
        assert 0 < heard.data.heard_ms <= _heard_ms(caller, turn)
        assert not heard.data.complete
        await speak(caller, loud=False, frames=40)
        ended = await caller.event("assistant_turn_completed", turn_id=turn)
        assert ended.data.status == "cancelled"
        assert not caller.found("error")


async def test_an_interrupt_after_the_response_is_done_stops_the_sound_and_the_tool(
    cell: Stack, acts: Acts
) -> None:
    """Sound comes faster than real time: the answer is complete, unheard, and its tool runs."""
    async with scene(cell) as on:
        caller = await on.caller(plays=True)
        turn = await _story(on, caller, "story and patience")
        dispatched = await caller.event("tool_call_dispatched")
        call = dispatched.data.call_id
        await acts.ran(call)

        at = asyncio.get_running_loop().time()
        cause = await caller.session.interrupt()
        interrupted = await caller.event("interrupted")
        failed = await caller.event("tool_call_failed", call_id=call)
        heard = await caller.event("assistant_heard")
        flushed_at, _ = await caller.flushed(turn)

        measured("interrupt to the flush at the player", (flushed_at - at) * 1000)
        stopped_at = acts.at_ns("stopped", call) / 1e9
        measured("interrupt to the tool having stopped", (stopped_at - at) * 1000)
        assert interrupted.cause == cause
        assert interrupted.data.reason == "manual"
        assert interrupted.data.responses == [turn]
        assert interrupted.data.calls == [call]
        assert failed.data.reason == "cancelled"
        assert {flush.responses for _, flush in caller.flushes()} == {(turn,)}
        await on.tape.until(lambda: _truncated_ms(on, caller), "the truncation")
        assert _truncated_ms(on, caller) == [heard.data.heard_ms]
        assert 0 < heard.data.heard_ms <= _heard_ms(caller, turn)
        await on.caught_up(caller)
        assert acts.done(call) == ["patient", "stopped"]
        assert [one["call_ids"] for _, one in on.tape.cancels] == [[call]]
        assert interrupted.epoch == on.tape.cancels[0][1]["epoch"] == 1


async def test_an_interrupt_in_mid_response_cancels_it_by_its_id(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller(plays=True)
        turn = await _story(on, caller, "story")

        await caller.session.interrupt()
        ended = await caller.event("assistant_turn_completed", turn_id=turn)

        assert ended.data.status == "cancelled"
        await on.caught_up(caller)
        cancels = on.tape.sent_to_provider(caller.id, "response.cancel")
        assert [one.get("response_id") for one in cancels] == [turn]
        await caller.event("assistant_heard")
        await on.caught_up(caller)
        assert all(ms <= _heard_ms(caller, turn) for ms in _truncated_ms(on, caller))
        await caller.turn("short tone")
        assert caller.words().endswith("A short tone.")
        assert not caller.found("error")


async def test_an_interrupt_with_nothing_to_stop_is_nothing(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()

        await caller.session.interrupt()
        await caller.turn("short tone")

        assert not caller.found("interrupted")
        assert not caller.found("error")
        assert not on.tape.cancels


async def test_two_callers_at_once_hear_only_their_own(cell: Stack) -> None:
    async with scene(cell) as on:
        one, other = await on.caller(), await on.caller()

        await asyncio.gather(one.turn("short tone"), other.turn("tally"))

        assert one.words() == "A short tone."
        assert "mark" in other.words()
        # Heads of sessions that ended before go on for a while; they have no number.
        spoke = {e["session_id"] for e in on.tape.events if e.get("seq") is not None}
        assert spoke == {one.id, other.id}
        assert not one.found("tool_call_started")


async def test_a_command_repeated_with_its_id_is_done_once_and_answered_the_same(
    cell: Stack,
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()

        id = on.line.command("send_text", {"text": "short tone"}, session_id=caller.id)
        first = await on.line.reply(id)
        on.line.command("send_text", {"text": "short tone"}, session_id=caller.id, id=id)
        second = await on.line.reply(id, nth=2)
        on.line.command("send_text", {"text": "story"}, session_id=caller.id, id=id)
        third = await on.line.reply(id, nth=3)
        await caller.event("assistant_turn_completed")

        assert first["ok"]
        assert second == first
        assert third["error"]["code"] == "conflict"
        assert len(caller.found("assistant_turn_started")) == 1


async def test_who_joins_to_listen_changes_nothing(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller(lease_s=30)
        listener = await on.client.attach(caller.id, rights=("listen",))

        for forbidden in (
            listener.send_text("tally"),
            listener.interrupt(),
            listener.commit_audio(),
            listener.update(instructions="Lie."),
            listener.report_playback(
                ReportPlayback(item_id="item", played_ms=1, state="playing"), deadline_s=5
            ),
        ):
            with pytest.raises(CommandRefused, match=r"not_allowed.*this token may not"):
                await forbidden
        with pytest.raises(CommandRefused, match="without the right to talk"):
            await listener.send_audio(bytes(960))
        attached = await on.line.ask("attach", {"rights": ["listen"]}, session_id=caller.id)
        token = attached["data"]["token"]
        refused = [
            await on.line.ask("close", session_id=caller.id, token=token),
            await on.line.ask("attach", {"rights": ["talk"]}, session_id=caller.id, token=token),
            await on.line.ask("snapshot", session_id=caller.id, token="forged"),
        ]
        seen = await listener.snapshot()
        replayed = await listener.replay()
        await listener.ping()
        await listener.detach()
        await caller.turn("tally")

        assert [one["error"]["code"] for one in refused] == ["not_allowed"] * 3
        assert seen["session_id"] == caller.id
        assert [one.kind for one in replayed] == ["session_opened"]
        assert caller.found("assistant_turn_completed")


async def test_who_joins_late_gets_everything_from_the_first_on(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.turn("tally")

        listener = Caller(await on.client.attach(caller.id, rights=("listen",)))
        await listener.until(lambda: len(listener.events) >= len(caller.events), "the events")
        await caller.turn("short tone")
        await listener.until(lambda: len(listener.events) >= len(caller.events), "the rest")
        seen = await caller.session.snapshot()
        listed = await on.client.sessions()
        await listener.close()

        assert [one.seq for one in listener.events] == [one.seq for one in caller.events]
        assert [one.raw for one in listener.events] == [one.raw for one in caller.events]
        assert seen["epoch"] == 0
        assert caller.id in [one["session_id"] for one in listed]
        names = [tool["name"] for tool in await on.client.catalogue()]
        assert {"tally", "get_weather"} <= set(names)
        await caller.session.ping()
