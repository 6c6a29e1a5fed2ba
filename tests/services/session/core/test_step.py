"""Which machine an input belongs to, and what is told of what was said."""

from typing import get_args, get_type_hints

import msgspec
import pytest

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import (
    AssistantText,
    AudioDropped,
    Error,
    RateLimits,
    SessionClosed,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
    UserTranscriptDelta,
)
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.state import State
from voicebus.services.session.core.step import HANDLERS, deadline, step
from voicebus.services.session.testing import (
    Stage,
    call,
    created,
    done,
    events,
    kinds,
    message,
    of,
    refused,
    sound,
    speech_started,
    speech_stopped,
    spoken,
    tool,
    wrote,
)


def said(
    text: str, *, final: bool = False, cumulative: bool = False, item: str = "u1"
) -> i.AnyInput:
    return i.UserWords(item_id=item, text=text, final=final, cumulative=cumulative)


# --- the table --------------------------------------------------------------------------------


def test_every_input_has_somebody_who_decides_on_it() -> None:
    assert set(HANDLERS) == set(get_args(i.AnyInput))


@pytest.mark.parametrize("kind", HANDLERS, ids=lambda kind: kind.__name__)
def test_who_decides_on_an_input_takes_inputs_of_its_kind(kind: type[i.Input]) -> None:
    assert get_type_hints(HANDLERS[kind])["event"] in (kind, i.AnyInput)


# --- the caller -------------------------------------------------------------------------------


def test_speech_is_told_with_the_providers_clock() -> None:
    stage = Stage()

    effects = stage.play(speech_started(250), speech_stopped(900))

    assert events(effects) == [
        UserSpeechStarted(at_ms=250, item_id="u1"),
        UserSpeechStopped(at_ms=900, item_id="u1"),
    ]


def test_the_callers_words_are_told_piece_by_piece_and_whole() -> None:
    stage = Stage()

    effects = stage.play(said("Hel"), said("lo"), said("Hello", final=True))

    assert events(effects) == [
        UserTranscriptDelta(item_id="u1", delta="Hel"),
        UserTranscriptDelta(item_id="u1", delta="lo"),
        UserTranscript(item_id="u1", text="Hello"),
    ]


def test_a_final_transcript_that_comes_twice_is_told_once() -> None:
    stage = Stage()
    stage.play(said("Hello", final=True))

    assert events(stage.play(said("Hello", final=True), said("late piece"), said(""))) == []


def test_the_usage_of_a_transcription_is_told_apart() -> None:
    stage = Stage()
    usage = {"type": "duration", "seconds": 1.4}

    effects = stage.play(i.UserWords(item_id="u1", text="Hello", final=True, usage=usage))

    assert of(effects, UserTranscript)[0].usage == usage
    assert stage.state.tokens == 0


def test_an_empty_transcript_is_final_too() -> None:
    stage = Stage()

    assert len(events(stage.play(said("", final=True), said("", final=True)))) == 1


def test_a_corrected_final_transcript_is_told_again() -> None:
    stage = Stage()
    stage.play(said("Hallo", final=True))

    assert events(stage.play(said("Hello", final=True))) == [
        UserTranscript(item_id="u1", text="Hello")
    ]


def test_cumulative_transcripts_are_told_as_what_is_new_or_corrected() -> None:
    stage = Stage()

    effects = stage.play(
        said("I want", cumulative=True),
        said("I want to", cumulative=True),
        said("I want to", cumulative=True),
        said("I went to Rome", cumulative=True),
        said("I went to Rome.", final=True),
        said("I", cumulative=True),
    )

    assert events(effects) == [
        UserTranscriptDelta(item_id="u1", delta="I want"),
        UserTranscriptDelta(item_id="u1", delta=" to"),
        UserTranscriptDelta(item_id="u1", delta="", corrected="I went to Rome"),
        UserTranscript(item_id="u1", text="I went to Rome."),
    ]
    assert stage.state.items["u1"].text == "I went to Rome."


def test_a_transcription_that_failed_is_told_and_nothing_waits_for_it() -> None:
    effects = Stage().play(i.UserWordsFailed(item_id="u1", message="unintelligible"))

    (error,) = of(effects, Error)
    assert (error.code, error.recoverable) == ("transcription_failed", True)
    assert error.details == {"item_id": "u1"}


# --- the assistant ----------------------------------------------------------------------------


def test_spoken_and_written_words_are_told_by_their_ids() -> None:
    stage = Stage()
    stage.play(created(), *message())

    effects = stage.play(
        spoken("Hel"), spoken("Hello", final=True), wrote("Hi"), wrote("Hi!", final=True)
    )

    assert kinds(effects) == [
        "assistant_transcript_delta",
        "assistant_transcript",
        "assistant_text_delta",
        "assistant_text",
    ]


def test_a_whole_text_is_told_once() -> None:
    stage = Stage()
    stage.play(created(), *message(), wrote("Hi!", final=True))

    assert events(stage.play(wrote("Hi!", final=True))) == []


def test_words_out_of_band_are_told_and_stand_in_no_conversation() -> None:
    stage = Stage()
    stage.play(created("oob", out_of_band=True))

    effects = stage.play(wrote("A title", "oob", "m9", final=True))

    assert len(of(effects, AssistantText)) == 1
    assert "m9" not in stage.state.items


# --- the rest ---------------------------------------------------------------------------------


def test_budgets_and_losses_are_told() -> None:
    stage = Stage()

    effects = stage.play(
        i.LimitsTold(limits=[{"name": "tokens"}]),
        i.SoundLost(direction="in", dropped_ms=40, why="held too long"),
        i.SoundFlushed(responses=["r1"]),
    )

    assert events(effects) == [
        RateLimits(limits=[{"name": "tokens"}]),
        AudioDropped(direction="in", dropped_ms=40, why="held too long"),
    ]


@pytest.mark.parametrize("meaning", ["other", "expired"])
def test_an_error_is_told_with_the_command_that_caused_it(meaning: str) -> None:
    stage = Stage()
    stage.command("add_item", item={"type": "message", "role": "user"})

    effects = stage.play(refused("invalid_value", stage.last_event_id, meaning))

    (told,) = [effect for effect in effects if isinstance(effect, fx.Publish)]
    assert told.cause == "add_item-1"


def test_a_benign_error_is_nobodys() -> None:
    assert Stage().play(refused("response_cancel_not_active", None, "benign")) == []


def test_a_refused_cut_cancel_or_delete_is_nobodys_whatever_its_code() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(ms=3000))
    stage.wait(1)
    stage.command("interrupt")
    stage.wait(1)
    asked = [effect.event_id for effect in stage.effects if isinstance(effect, fx.Ask)]

    assert len(asked) == 2
    for event_id in asked:
        assert stage.play(refused("unheard_of", event_id)) == []


def test_a_response_that_failed_for_good_ends_the_session() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"))

    effects = stage.play(
        done("r1", "failed", error={"code": "insufficient_quota", "message": "pay"}, fatal=True)
    )

    (closed,) = of(effects, SessionClosed)
    assert (closed.code, closed.message) == ("insufficient_quota", "pay")


def test_the_old_state_is_never_changed() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound())
    before, copy = stage.state, msgspec.json.encode(stage.state)

    stage.play(speech_started(), spoken("x", final=True), done())
    stage.wait(5)

    assert msgspec.json.encode(before) == copy


def test_a_state_survives_json() -> None:
    stage = Stage(SessionConfig(turn_detection="none"), tools=[tool("a")])
    stage.play(created(), *message(), sound(), spoken("x", final=True), *call("r1", "c1", "a"))
    stage.command("interrupt")

    again = msgspec.json.decode(msgspec.json.encode(stage.state), type=State)

    assert again == stage.state


def test_a_new_and_a_closed_conversation_want_no_waking() -> None:
    stage = Stage()
    stage.command("close")

    assert deadline(State()) is None
    assert deadline(stage.state) is None
    assert step(stage.state, i.TimePassed(now_us=1)).effects == []


def test_a_tool_that_begins_changes_nothing() -> None:
    assert Stage().play(i.ToolBegan(call_id="c1")) == []
