"""Turns: scenarios 13 to 29."""

import asyncio
import signal
from typing import Any

import pytest

from tests.end_to_end.catalogue.playing import came, completed, playing, sent, speak
from tests.end_to_end.support import Caller
from voicebus.cli.testing import Stack


def _place(caller: Caller, kind: str, nth: int = 1) -> int:
    """Where the nth event of that kind stands."""
    seq: int = caller.found(kind)[nth - 1].seq
    return seq


def _heard_ms(caller: Caller, **of: Any) -> int:
    """How much sound of the assistant's came."""
    pieces = [piece for _, piece in caller.pieces()]
    return (
        sum(
            piece.count
            for piece in pieces
            if all(getattr(piece, name) == value for name, value in of.items())
        )
        // 24
    )


async def test_a_written_answer_comes_in_pieces_and_whole_and_with_its_usage(cell: Stack) -> None:
    async with playing(cell, "13_text_turn") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("hello")
        done = await completed(caller)

        whole = caller.found("assistant_text")[0].data.text
        assert whole == "Good day to you."
        assert "".join(one.data.delta for one in caller.found("assistant_text_delta")) == whole
        assert done.status == "completed"
        assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
        assert done.usage.completion_tokens > 0


async def test_a_spoken_turn_has_the_callers_words_before_the_answer(cell: Stack) -> None:
    loud = b"\x00\x30" * 480
    async with playing(cell, "14_spoken_turn") as on:
        caller = await on.caller(turn_detection={"type": "server_vad", "silence_duration_ms": 200})
        for _ in range(20):
            await caller.session.send_audio(loud)
        await speak(caller, 20)
        await completed(caller)
        await caller.until(lambda: _heard_ms(caller) == 300, "the sound")

        assert caller.found("user_transcript")[0].data.text == "how do you do"
        assert caller.words() == "Very well, thank you."
        kinds = (
            "user_speech_started",
            "user_speech_stopped",
            "user_transcript",
            "assistant_transcript",
            "assistant_turn_completed",
        )
        places = [_place(caller, kind) for kind in kinds]
        assert places == sorted(places)


async def test_a_transcript_after_the_answer_is_told_when_it_comes(cell: Stack) -> None:
    async with playing(cell, "late_transcript") as on:
        caller = await on.caller(turn_detection="none")
        await speak(caller, 10)
        await caller.session.commit_audio()
        words = await caller.event("user_transcript")
        items = (await caller.session.snapshot())["items"]

        assert words.seq > _place(caller, "assistant_turn_completed")
        assert [item["role"] for item in items if item["type"] == "message"][:1] == ["user"]
        assert items[0]["text"] == words.data.text


async def test_words_that_were_not_understood_or_never_told_hold_nothing_up(cell: Stack) -> None:
    async with playing(cell, "16_no_transcript") as on:
        caller = await on.caller(turn_detection="none")
        for nth in (1, 2):
            await speak(caller, 10)
            await caller.session.commit_audio()
            assert (await completed(caller, nth)).status == "completed"

        errors = caller.found("error")
        assert [(one.data.code, one.data.recoverable) for one in errors] == [
            ("transcription_failed", True)
        ]
        assert not caller.found("user_transcript")


async def test_words_that_are_told_twice_are_told_once(cell: Stack) -> None:
    async with playing(cell, "duplicates") as on:
        caller = await on.caller(turn_detection="none")
        await speak(caller, 10)
        await caller.session.commit_audio()
        await completed(caller)

        assert len(caller.found("assistant_turn_completed")) == 1
        assert len(caller.found("user_transcript")) == 1


async def test_words_that_are_corrected_replace_what_was_told(cell: Stack) -> None:
    async with playing(cell, "17_corrected_words") as on:
        caller = await on.caller(provider="xai")
        # A vendor is asked for a model of its own, not for the one that the settings name.
        assert (await caller.session.snapshot())["model"] == "grok-voice-latest"
        await speak(caller, 10)
        words = await caller.event("user_transcript")
        await completed(caller)

        said = ""
        for one in caller.found("user_transcript_delta"):
            said = one.data.corrected if one.data.corrected is not None else said + one.data.delta
        assert said == words.data.text == "how do you do"
        assert any(one.data.corrected is not None for one in caller.found("user_transcript_delta"))
        assert len(caller.found("user_transcript")) == 1


async def test_push_to_talk_forgets_commits_and_answers(cell: Stack) -> None:
    async with playing(cell, "18_push_to_talk") as on:
        caller = await on.caller(turn_detection="none")
        await speak(caller, 20)
        await caller.session.clear_audio()
        await speak(caller, 10)
        await caller.session.commit_audio()
        words = await caller.event("user_transcript")
        await completed(caller)

        assert caller.words() == "Very well, thank you."
        assert words.data.text == "how do you do"
        assert await came(on, caller.id, "input_audio_buffer.cleared")
        assert len(await sent(on, caller, "response.create")) == 1


@pytest.mark.parametrize("before", [0, 20])
async def test_what_is_said_after_a_clear_is_not_forgotten_when_it_is_there_first(
    cell: Stack, before: int
) -> None:
    async with playing(cell, "18_push_to_talk") as on:
        caller = await on.caller(turn_detection="none")
        await speak(caller, before)
        cell.kill("session-0", signal.SIGSTOP)
        clearing = asyncio.create_task(caller.session.clear_audio())
        await asyncio.sleep(0.05)  # so that it is on its way
        await speak(caller, 10)
        await asyncio.sleep(0.3)  # the transport has long had all of it
        cell.kill("session-0", signal.SIGCONT)
        await clearing
        await caller.session.commit_audio()
        words = await caller.event("user_transcript")

        assert words.data.text == "how do you do"
        assert await came(on, caller.id, "input_audio_buffer.cleared")
        assert not caller.found("error")


@pytest.mark.parametrize("frames", [0, 4])
async def test_a_commit_of_nothing_is_refused_and_not_answered(cell: Stack, frames: int) -> None:
    async with playing(cell, "19_empty_commit") as on:
        caller = await on.caller(turn_detection="none")
        await speak(caller, frames)
        cause = await caller.session.commit_audio()
        error = await caller.event("error")
        await caller.turn("hello")

        assert error.cause == cause
        assert error.data.code == "input_audio_buffer_commit_empty"
        assert (await completed(caller)).status == "cancelled"
        assert (await completed(caller, 2)).status == "completed"
        assert not caller.pieces(caller.found("assistant_turn_started")[0].data.turn_id)


async def test_under_turn_detection_a_commit_of_nothing_is_usual(cell: Stack) -> None:
    async with playing(cell, "19_empty_commit") as on:
        caller = await on.caller()
        await caller.session.commit_audio(respond=False)
        await came(on, caller.id, "error")
        await caller.turn("hello")

        assert not caller.found("error")


async def test_while_turn_detection_waits_nothing_is_asked(cell: Stack) -> None:
    async with playing(cell, "20_slow_turn_detection", hurry=20) as on:
        caller = await on.caller(turn_detection="semantic_vad")
        await speak(caller, 10)
        await caller.event("user_speech_started")
        assert not caller.found("assistant_turn_started")
        assert (await completed(caller)).status == "completed"

        assert not await sent(on, caller, "response.create")
        assert not await sent(on, caller, "input_audio_buffer.commit")


async def test_turn_detection_may_leave_the_answer_to_the_client(cell: Stack) -> None:
    async with playing(cell, "21_asks_itself") as on:
        caller = await on.caller(turn_detection={"type": "server_vad", "create_response": False})
        await speak(caller, 10)
        await caller.event("user_transcript")
        assert not caller.found("assistant_turn_started")
        await caller.session.create_response()
        await completed(caller)

        assert caller.words()
        assert len(await sent(on, caller, "response.create")) == 1


async def test_speech_that_shall_not_interrupt_is_heard_and_stops_nothing(cell: Stack) -> None:
    async with playing(cell, "22_speech_that_does_not_interrupt") as on:
        caller = await on.caller(turn_detection={"type": "server_vad", "interrupt_response": False})
        await caller.session.send_text("hello")
        await caller.until(caller.pieces, "the beginning")
        await speak(caller, 10)
        assert (await completed(caller)).status == "completed"
        assert caller.found("user_transcript")
        assert (await completed(caller, 2)).status == "completed"

        assert caller.words().endswith("Very well, thank you.")
        assert len(await sent(on, caller, "response.create")) == 2
        assert not caller.found("interrupted")
        assert not caller.found("error")
        assert not caller.flushes()


async def test_an_idle_timeout_is_a_turn_like_any_other(cell: Stack) -> None:
    async with playing(cell, "23_idle_timeout") as on:
        caller = await on.caller()
        done = await completed(caller)

        assert done.status == "completed"
        assert caller.words() == "Are you still there?"
        assert not await sent(on, caller, "response.create")


async def test_speech_begins_and_ends_once_and_may_be_cut_off(cell: Stack) -> None:
    async with playing(cell, "24_speech_without_end") as on:
        caller = await on.caller()
        await speak(caller, 10)
        await completed(caller)
        assert len({one.data.item_id for one in caller.found("user_speech_started")}) == 1
        assert len(caller.found("assistant_turn_started")) == 1

        await speak(caller)
        await caller.event("session_resumed")
        await caller.session.send_text("hello")
        await completed(caller, 2)
        assert caller.words() == "Very well, thank you. Very well, thank you."


async def test_each_item_of_a_response_has_its_own_sound_and_words(cell: Stack) -> None:
    async with playing(cell, "25_several_items") as on:
        caller = await on.caller()
        await caller.turn("two and two")
        told = caller.found("assistant_transcript")
        await caller.until(lambda: _heard_ms(caller) == 500, "the sound")

        assert [one.data.text for one in told] == ["Let me think.", "It is four."]
        first, second = (one.data.item_id for one in told)
        assert (_heard_ms(caller, item_id=first), _heard_ms(caller, item_id=second)) == (200, 300)
        assert len(caller.found("assistant_turn_completed")) == 1


async def test_a_message_and_a_call_of_one_response_are_both_taken(cell: Stack) -> None:
    async with playing(cell, "26_words_and_call") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("weather")

        assert caller.words().startswith("I will have a look. ")
        assert "Berlin" in caller.words()
        assert len(caller.found("tool_call_completed")) == 1


@pytest.mark.parametrize("scenario", ["bare", "27_no_created"])
async def test_what_may_be_missing_is_not_missed(cell: Stack, scenario: str) -> None:
    async with playing(cell, scenario) as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("hello")
        done = await completed(caller)
        await caller.turn("hello again")

        assert done.status == "completed"
        assert len(caller.found("assistant_turn_started")) == 2
        assert len(caller.found("assistant_text")) == 2
        assert not caller.found("error")


async def test_a_rate_limit_is_waited_for(cell: Stack) -> None:
    async with playing(cell, "28_rate_limited") as on:
        caller = await on.caller()
        await caller.session.send_text("hello")
        done = await completed(caller, status="completed")

        assert done
        assert caller.words()
        assert not caller.found("rate_limited")
        assert len(await sent(on, caller, "response.create")) == 2


async def test_a_rate_limit_that_stays_is_told_after_three_more_attempts(cell: Stack) -> None:
    async with playing(cell, "28_rate_limited_for_good") as on:
        caller = await on.caller()
        cause = await caller.session.send_text("hello")
        limited = await caller.event("rate_limited")

        assert limited.cause == cause
        assert len(await sent(on, caller, "response.create")) == 4


@pytest.mark.parametrize(
    ("scenario", "reason", "ms"),
    [("cut_short", "max_output_tokens", 1000), ("29_filtered", "content_filter", 200)],
)
async def test_an_incomplete_answer_is_heard_so_far_and_says_why(
    cell: Stack, scenario: str, reason: str, ms: int
) -> None:
    async with playing(cell, scenario) as on:
        caller = await on.caller()
        await caller.session.send_text("hello")
        done = await completed(caller)
        await caller.until(lambda: _heard_ms(caller) == ms, "the sound")

        assert (done.status, done.reason) == ("incomplete", reason)
