"""Which machine an input belongs to, and what is told of what was said."""

from typing import get_args, get_type_hints

import msgspec
import pytest

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import (
    AssistantText,
    AssistantTurnCompleted,
    AudioDropped,
    Error,
    RateLimits,
    SessionClosed,
    ToolCallArgsDelta,
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
    replies,
    requests,
    sound,
    sound_end,
    speech_started,
    speech_stopped,
    spoken,
    tool,
    tool_ok,
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


def test_speech_that_is_told_twice_is_published_once() -> None:
    stage = Stage()

    effects = stage.play(
        *(speech_started(250), speech_started(250)),
        *(speech_stopped(900), speech_stopped(900)),
        speech_started(1500, "u2"),
    )

    assert [event.at_ms for event in of(effects, UserSpeechStarted)] == [250, 1500]
    assert [event.at_ms for event in of(effects, UserSpeechStopped)] == [900]


def test_speech_without_an_item_is_always_told() -> None:
    stage = Stage()

    effects = stage.play(speech_started(1, None), speech_started(2, None))

    assert len(events(effects)) == 2


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


@pytest.mark.parametrize("meaning", ["other", "expired", "benign"])
def test_an_error_is_told_with_the_command_that_caused_it(meaning: str) -> None:
    stage = Stage()
    stage.command("add_item", item={"type": "message", "role": "user"})

    effects = stage.play(refused("invalid_value", stage.last_event_id, meaning))

    (told,) = [effect for effect in effects if isinstance(effect, fx.Publish)]
    assert told.cause == "add_item-1"


@pytest.mark.parametrize("name", [{}, {"id": "mine"}])
@pytest.mark.parametrize("kind", ["input_text", "input_image"])
def test_an_item_that_was_refused_is_told_to_no_later_connection(
    name: dict[str, str], kind: str
) -> None:
    stage = Stage()
    item = {**name, "type": "message", "role": "user", "content": [{"type": kind, "text": "Hi"}]}
    stage.command("add_item", item=item)

    stage.play(refused("invalid_value", stage.last_event_id))

    assert (stage.state.order, stage.state.items, stage.state.given) == ((), {}, {})


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


# --- to the machine that it belongs to ---------------------------------------------------------


def test_after_the_end_whoever_waits_is_answered_and_the_pool_may_forget() -> None:
    stage = Stage()
    stage.command("close")

    effects = stage.command("send_text", text="Hello")
    effects += stage.play(tool_ok("c1"), sound(), done())

    assert replies(effects) == {"send_text-2": "gone"}
    assert of(effects, fx.ForgetOutcome) == [fx.ForgetOutcome("c1")]
    assert len(effects) == 2


def test_pieces_of_arguments_are_told_and_show_that_the_response_lives() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), call("r1", "c1", "a")[0])
    stage.wait(50)

    effects = stage.play(
        i.ArgumentsWords(response_id="r1", item_id="item-c1", call_id="c1", delta="{")
    )

    assert events(effects) == [ToolCallArgsDelta(call_id="c1", delta="{")]
    assert requests(stage.wait(50)) == []


def test_a_second_client_joins() -> None:
    effects = Stage().play(
        i.Attached(command_id="attach-1", token="token-2", talk=False, opened={"x": 1})
    )

    assert effects == [fx.Grant("token-2", False), fx.Answer("attach-1", {"x": 1})]


@pytest.mark.parametrize(
    "sign",
    [
        i.TalkerSeen(),
        i.Commanded(command_id="x", command="dance", data={}),
        i.UpdateRequested(command_id="x", config=SessionConfig(), fields=["lease_s"], tools=[]),
    ],
)
def test_sound_commands_and_updates_show_that_the_client_is_there(sign: i.AnyInput) -> None:
    stage = Stage(SessionConfig(lease_s=30))
    stage.wait(20)

    stage.play(sign)

    assert of(stage.wait(15), SessionClosed) == []
    assert [closed.reason for closed in of(stage.wait(60), SessionClosed)] == ["abandoned"]


@pytest.mark.parametrize(
    "gone", [i.ProviderDisconnected(generation=1, code=1006), i.TransportLost()]
)
def test_a_lost_connection_is_told_and_dialled_again(gone: i.AnyInput) -> None:
    stage = Stage()

    assert kinds(stage.play(gone)) == ["session_reconnecting"]
    assert len(of(stage.wait(0.2), fx.Dial)) == 1


@pytest.mark.parametrize("end_told", [True, False])
def test_a_committed_turn_is_an_item_and_ends_the_speech(end_told: bool) -> None:
    stage = Stage()
    stage.play(speech_started(), *([speech_stopped()] if end_told else []))

    stage.play(i.InputCommitted(item_id="u1"))

    assert stage.state.order == ("u1",)
    assert stage.state.speaking_us == 0
    assert stage.state.unanswered


def test_a_deleted_item_is_forgotten() -> None:
    stage = Stage()
    stage.play(i.InputCommitted(item_id="u1"), i.InputCommitted(item_id="u2"))

    stage.play(i.ItemDeleted(item_id="u1"))

    assert stage.state.order == ("u2",)


def test_the_end_of_an_items_sound_is_told() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound())

    assert kinds(stage.play(sound_end())) == ["assistant_audio_done"]


def test_a_tools_words_and_end_reach_its_call() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"), done())

    effects = stage.play(i.ToolSaid(call_id="c1", text="half"), tool_ok("c1", 42))

    assert kinds(effects) == ["tool_call_progress", "tool_call_completed", "tool_batch_submitted"]
    assert requests(effects) == [fx.AddOutput("c1", "42"), fx.CreateResponse("1", {})]


def test_time_that_ends_the_session_does_nothing_more() -> None:
    stage = Stage(SessionConfig(max_duration_s=10))
    stage.play(created(), *message(), sound(ms=1000), sound_end(), done())
    stage.now_us += 60_000_000

    effects = stage.play(i.TimePassed())

    assert kinds(effects) == ["assistant_heard", "session_closed"]


def test_a_response_that_is_given_up_is_over_and_makes_way() -> None:
    stage = Stage()
    stage.play(created())
    stage.command("interrupt")
    stage.command("send_text", text="Hello")

    effects = stage.wait(6)

    assert [ended.reason for ended in of(effects, AssistantTurnCompleted)] == ["provider_silent"]
    assert len(of(effects, fx.CreateResponse)) == 1


def test_a_response_that_the_turn_detection_cancelled_was_interrupted() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound())

    effects = stage.play(done("r1", "cancelled", "turn_detected"))

    assert kinds(effects)[:2] == ["interrupted", "assistant_turn_completed"]


def test_a_response_is_over_once() -> None:
    stage = Stage()
    stage.play(created(), done())

    assert stage.play(done()) == []


def test_words_under_way_at_an_interruption_are_not_told() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound())
    stage.command("interrupt")

    assert events(stage.play(spoken("late"), wrote("late"))) == []


# --- whose refusal it is -----------------------------------------------------------------------


def asked_for(stage: Stage, request: type[fx.Request]) -> str:
    """The id of the last request of this kind."""
    return [
        effect.event_id
        for effect in stage.effects
        if isinstance(effect, fx.Ask) and isinstance(effect.request, request)
    ][-1]


def test_a_fatal_error_ends_the_session() -> None:
    (closed,) = of(Stage().play(refused("insufficient_quota", None, "fatal")), SessionClosed)

    assert (closed.reason, closed.code) == ("error", "insufficient_quota")


def test_when_a_create_is_refused_the_next_one_is_asked_for() -> None:
    stage = Stage()
    stage.command("create_response")
    event_id = stage.last_event_id
    stage.command("create_response", overrides={"instructions": "Sing."})

    effects = stage.play(refused("invalid_value", event_id))

    assert requests(effects) == [fx.CreateResponse("2", {"instructions": "Sing."})]
    assert kinds(effects) == ["error"]


def test_a_refused_commit_is_told_to_its_command() -> None:
    stage = Stage(SessionConfig(turn_detection="none"))
    stage.command("commit_audio", respond=False)

    effects = stage.play(refused("buffer_empty", asked_for(stage, fx.CommitInput), "benign"))

    (told,) = [effect for effect in effects if isinstance(effect, fx.Publish)]
    assert (type(told.data), told.cause) == (Error, "commit_audio-1")


def test_a_refused_output_is_told_to_the_model_as_context() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"), done(), tool_ok("c1", 42))

    effects = stage.play(refused("invalid_call_id", asked_for(stage, fx.AddOutput)))

    assert [type(request) for request in requests(effects)] == [fx.AddContext]
    assert events(effects) == []


def test_a_refused_update_is_told_to_its_command_alone() -> None:
    stage = Stage()
    stage.play(
        i.UpdateRequested(command_id="u", config=SessionConfig(), fields=["voice"], tools=[])
    )

    effects = stage.play(refused("invalid_voice", stage.last_event_id))

    assert replies(effects) == {"u": "provider_error"}
    assert events(effects) == []


def test_a_text_that_is_refused_does_not_stand_in_the_conversation() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")

    effects = stage.play(refused("invalid_value", asked_for(stage, fx.AddUserText)))

    assert stage.state.order == ()
    assert kinds(effects) == ["error"]


def test_an_output_is_announced_while_a_response_is_active_that_did_not_see_it() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"), done(), tool_ok("c1"), created("vad"))
    stands = i.Item(item_id="o", type="function_call_output", call_id="c1")

    stage.play(i.ItemAdded(item=stands))

    assert stage.state.responses["vad"].missed
    assert "o" in stage.state.items


def test_a_turn_that_is_committed_twice_is_answered_once() -> None:
    stage = Stage()
    stage.play(i.InputCommitted(item_id="u1"), created("r1"), i.InputCommitted(item_id="u1"))

    assert requests(stage.play(done("r1"))) == []
