"""Interrupting and cancelling: scenarios 30 to 41."""

from typing import Any

from tests.end_to_end.catalogue.playing import came, completed, playing, sent, speak
from tests.end_to_end.support import Caller, Scene
from voicebus.bus.messages.commands import ReportPlayback
from voicebus.cli.testing import Stack
from voicebus.client.sound import Sound

CUT = "conversation.item.truncate"
DELETE = "conversation.item.delete"
CANCEL = "response.cancel"


async def _sounding(caller: Caller) -> Sound:
    """An answer was asked for, and its sound has begun to come."""
    await caller.session.send_text("hello")
    await caller.until(lambda: caller.pieces(), "the beginning")
    return caller.pieces()[0][1]


async def _heard(caller: Caller, first: Sound, ms: int) -> None:
    """What a player says that it has played."""
    await caller.session.report_playback(
        ReportPlayback(item_id=first.item_id, played_ms=ms, state="playing")
    )


async def _stopped(on: Scene, caller: Caller, first: Sound, ms: int) -> Any:
    """The caller speaks, and the player stops; what was heard then."""
    await speak(caller)
    await caller.flushed(first.turn_id)
    await caller.session.report_playback(
        ReportPlayback(item_id=first.item_id, played_ms=ms, state="stopped")
    )
    return (await caller.event("assistant_heard", item_id=first.item_id)).data


async def test_speech_in_mid_answer_cuts_it_at_what_was_heard(cell: Stack) -> None:
    async with playing(cell, "30_in_mid_answer") as on:
        caller = await on.caller()
        first = await _sounding(caller)
        heard = await _stopped(on, caller, first, 100)
        done = await completed(caller)

        assert (heard.heard_ms, heard.estimated) == (100, False)
        assert (done.status, done.reason) == ("cancelled", "turn_detected")
        assert [one["audio_end_ms"] for one in await sent(on, caller, CUT)] == [100]
        assert not await sent(on, caller, CANCEL)


async def test_speech_before_any_sound_deletes_the_answer(cell: Stack) -> None:
    async with playing(cell, "31_before_any_sound") as on:
        caller = await on.caller()
        await caller.session.send_text("hello")
        await came(on, caller.id, "response.output_item.added")
        await speak(caller)
        done = await completed(caller)
        await came(on, caller.id, "conversation.item.deleted")

        assert done.status == "cancelled"
        assert not caller.pieces()
        assert not await sent(on, caller, CUT)
        assert len(await sent(on, caller, DELETE)) == 1


async def test_speech_over_an_answer_that_is_only_still_played_cuts_it(cell: Stack) -> None:
    async with playing(cell, "32_done_and_still_playing") as on:
        caller = await on.caller()
        first = await _sounding(caller)
        done = await completed(caller)
        heard = await _stopped(on, caller, first, 700)

        assert done.status == "completed"
        assert heard.heard_ms == 700
        assert [one["audio_end_ms"] for one in await sent(on, caller, CUT)] == [700]
        assert not await sent(on, caller, CANCEL)


async def test_speech_after_an_answer_was_played_interrupts_nothing(cell: Stack) -> None:
    async with playing(cell, "33_after_it_was_played") as on:
        caller = await on.caller()
        first = await _sounding(caller)
        await completed(caller)
        await caller.event("assistant_audio_done")
        await caller.session.report_playback(
            ReportPlayback(item_id=first.item_id, played_ms=200, state="done")
        )
        await speak(caller)
        await caller.event("user_speech_started")
        await caller.session.ping()

        assert not caller.found("interrupted")
        assert not await sent(on, caller, CUT)


async def test_never_more_is_cut_than_has_come(cell: Stack) -> None:
    async with playing(cell, "34_heard_more_than_there_is") as on:
        caller = await on.caller()
        first = await _sounding(caller)
        heard = await _stopped(on, caller, first, 60_000)
        await completed(caller)
        there_ms = sum(piece.count for _, piece in caller.pieces()) // 24

        await came(on, caller.id, "conversation.item.truncated")
        (cut,) = await sent(on, caller, CUT)
        assert cut["audio_end_ms"] == heard.heard_ms <= there_ms
        assert not caller.found("error")


async def test_two_beginnings_of_speech_cut_once(cell: Stack) -> None:
    async with playing(cell, "35_two_starts") as on:
        caller = await on.caller()
        first = await _sounding(caller)
        await completed(caller)
        await _stopped(on, caller, first, 300)
        await came(on, caller.id, "input_audio_buffer.speech_started", nth=2)
        await caller.session.ping()

        assert len(await sent(on, caller, CUT)) == 1
        assert len(caller.found("interrupted")) == 1


async def test_of_two_messages_the_one_heard_is_cut_and_the_later_deleted(cell: Stack) -> None:
    async with playing(cell, "36_two_items") as on:
        caller = await on.caller()
        first = await _sounding(caller)
        await completed(caller)
        await _stopped(on, caller, first, 300)
        await came(on, caller.id, "conversation.item.deleted")

        later = caller.found("assistant_transcript")[1].data.item_id
        cuts = [(one["item_id"], one["audio_end_ms"]) for one in await sent(on, caller, CUT)]
        assert cuts == [(first.item_id, 300)]
        assert [one["item_id"] for one in await sent(on, caller, DELETE)] == [later]


async def test_sound_and_words_after_an_interruption_are_dropped(cell: Stack) -> None:
    async with playing(cell, "37_late_deltas") as on:
        caller = await on.caller()
        first = await _sounding(caller)
        await _stopped(on, caller, first, 100)
        await completed(caller)
        await came(on, caller.id, "response.output_audio.done")

        # No sound after the flush: the auditor looks at that.
        said = [one.data.delta for one in caller.found("assistant_transcript_delta")]
        assert " much too late" not in said


async def test_a_cancel_that_comes_too_late_is_nobodys_error(cell: Stack) -> None:
    async with playing(cell, "38_cancel_too_late") as on:
        caller = await on.caller()
        await _sounding(caller)
        await caller.session.interrupt()
        await came(on, caller.id, "error")
        done = await completed(caller)

        assert done.status == "completed"
        assert len(await sent(on, caller, CANCEL)) == 1
        assert not caller.found("error")


async def test_a_cancel_before_the_announcement_waits_for_it(cell: Stack) -> None:
    async with playing(cell, "39_cancel_before_created") as on:
        caller = await on.caller()
        await caller.session.send_text("hello")
        await caller.session.interrupt()
        started = await caller.event("assistant_turn_started")
        done = await completed(caller)

        assert done.status == "cancelled"
        await caller.flushed(started.data.turn_id)
        cancels = [one["response_id"] for one in await sent(on, caller, CANCEL)]
        assert cancels == [started.data.turn_id]


async def test_a_refused_cut_is_nobodys_error(cell: Stack) -> None:
    async with playing(cell, "40_cut_refused") as on:
        caller = await on.caller()
        for nth in (1, 2, 3):
            await caller.session.send_text("hello")
            await completed(caller, nth)
            await caller.session.interrupt()
            await came(on, caller.id, "error", nth=nth)
        await caller.session.ping()

        assert len(await sent(on, caller, CUT)) == 3
        assert not caller.found("error")


async def test_what_is_answered_beside_the_conversation_is_not_interrupted(cell: Stack) -> None:
    async with playing(cell, "41_beside_another") as on:
        caller = await on.caller()
        await _sounding(caller)
        await caller.session.create_response(conversation="none", output_modalities=["text"])
        await caller.event("assistant_turn_started", nth=2)
        await caller.session.interrupt()
        await completed(caller, 2)

        ends = {one.data.status for one in caller.found("assistant_turn_completed")}
        assert ends == {"cancelled", "completed"}
        assert "Nothing stops me." in [one.data.text for one in caller.found("assistant_text")]
        assert len(await sent(on, caller, CANCEL)) == 1
