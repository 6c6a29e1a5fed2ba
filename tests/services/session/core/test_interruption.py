"""An interruption touches all machines, once, and only when there is something to interrupt."""

import pytest

from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.bus.messages.events import (
    AssistantTextDelta,
    AssistantTranscriptDelta,
    Interrupted,
    UserSpeechStarted,
    UserSpeechStopped,
)
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.testing import (
    Stage,
    call,
    created,
    done,
    message,
    of,
    replies,
    requests,
    sound,
    speech_started,
    speech_stopped,
    spoken,
    tool,
    wrote,
)


def test_barge_in_silences_at_once_and_leaves_the_cancel_to_the_provider() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound())

    effects = stage.play(speech_started(250, "u1"))

    assert of(effects, fx.Flush) == [fx.Flush(("r1",), "barge_in")]
    assert requests(effects) == []
    (told,) = of(effects, Interrupted)
    assert (told.turn_id, told.reason, told.responses) == ("r1", "barge_in", ["r1"])
    assert stage.state.epoch == 1


def test_a_manual_interrupt_cancels_by_id_and_proves_its_reply() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound())

    effects = stage.command("interrupt")

    assert requests(effects) == [fx.CancelResponse("r1")]
    (answer,) = of(effects, fx.Answer)
    assert (answer.data, answer.proven) == ({"interrupted": True}, True)


def test_with_nothing_to_interrupt_nothing_happens() -> None:
    stage = Stage()

    effects = stage.command("interrupt")

    assert of(effects, Interrupted) == []
    (answer,) = of(effects, fx.Answer)
    assert (answer.data, answer.proven) == ({"interrupted": False}, False)
    assert stage.state.epoch == 0
    assert of(stage.play(speech_started()), Interrupted) == []


def test_a_response_that_is_only_expected_is_interrupted_too() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")

    effects = stage.command("interrupt")

    (told,) = of(effects, Interrupted)
    assert (told.turn_id, told.responses) == (None, [])
    assert stage.state.epoch == 1


def test_an_interrupt_withdraws_what_waits_but_nothing_out_of_band() -> None:
    stage = Stage()
    stage.command("create_response", overrides={"conversation": "none"})
    stage.play(created("oob", stage.last_tag, out_of_band=True))
    stage.play(done("oob", "failed", rate_limited=True), created("r1"))
    stage.command("send_text", text="later")
    assert [create.cause for create in stage.state.queue] == ["create_response-1", "send_text-2"]

    stage.command("interrupt")

    assert [create.cause for create in stage.state.queue] == ["create_response-1"]


@pytest.mark.parametrize(
    "vad",
    [ServerVad(interrupt_response=False), SemanticVad(interrupt_response=False), "none"],
)
def test_a_turn_detection_that_shall_not_interrupt_does_not(vad: object) -> None:
    stage = Stage(SessionConfig(turn_detection=vad))  # type: ignore[arg-type]
    stage.play(created(), *message(), sound())

    effects = stage.play(speech_started())

    assert of(effects, Interrupted) == []
    assert of(effects, fx.Flush) == []


@pytest.mark.parametrize("vad", ["server_vad", "semantic_vad", ServerVad(), SemanticVad()])
def test_any_other_turn_detection_does(vad: object) -> None:
    stage = Stage(SessionConfig(turn_detection=vad))  # type: ignore[arg-type]
    stage.play(created(), *message(), sound())

    assert len(of(stage.play(speech_started()), Interrupted)) == 1


def test_speech_between_a_create_and_its_announcement_makes_it_unwanted() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    stage.play(speech_started())

    effects = stage.play(created("r1", stage.last_tag))

    assert of(effects, fx.CancelResponse) == [fx.CancelResponse("r1")]


def test_a_written_question_is_still_answered_when_nobody_else_would() -> None:
    stage = Stage(SessionConfig(turn_detection=ServerVad(create_response=False)))
    stage.command("send_text", text="Hello")
    stage.play(speech_started())

    assert of(stage.play(created("r1", stage.last_tag)), fx.CancelResponse) == []


def test_a_provider_that_cancels_without_saying_why_has_heard_the_caller() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(ms=3000))
    stage.wait(1)

    effects = stage.play(done("r1", "cancelled", "turn_detected"))

    assert of(effects, fx.Flush) == [fx.Flush(("r1",), "barge_in")]
    assert len(of(effects, Interrupted)) == 1


def test_a_provider_that_cancels_after_it_told_the_speech_interrupts_once() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(ms=3000), speech_started())

    assert of(stage.play(done("r1", "cancelled", "turn_detected")), Interrupted) == []


def test_a_cancel_that_is_told_late_leaves_the_answer_to_the_caller_alone() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created("r1"), *message("r1", "m1"), sound("r1", "m1", ms=3000))
    stage.play(created("r2"), *message("r2", "m2"), sound("r2", "m2", ms=3000))

    effects = stage.play(done("r1", "cancelled", "turn_detected"))
    effects += stage.play(*call("r2", "c1", "a"), done("r2"))

    assert of(effects, fx.Flush) == [fx.Flush(("r1",), "barge_in")]
    assert [told.responses for told in of(effects, Interrupted)] == [["r1"]]
    assert [submit.call_id for submit in of(effects, fx.Submit)] == ["c1"]


def test_a_cancel_that_is_told_late_leaves_the_calls_of_the_next_response_running() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created("r1"), *message("r1", "m1"), sound("r1", "m1", ms=3000))
    stage.play(created("r2"), *call("r2", "c1", "a"), done("r2"))

    effects = stage.play(done("r1", "cancelled", "turn_detected"))

    assert [told.calls for told in of(effects, Interrupted)] == [[]]
    assert of(effects, fx.CancelCalls) == []


def test_words_under_way_at_the_interruption_are_dropped_and_the_whole_is_kept() -> None:
    stage = Stage()
    stage.play(created(), *message(), sound(), speech_started())

    late = stage.play(spoken("more"), wrote("more"))
    whole = stage.play(spoken("No more.", final=True))

    assert of(late, AssistantTranscriptDelta) == []
    assert of(late, AssistantTextDelta) == []
    assert len(of(whole, fx.Publish)) == 1


def test_several_responses_are_silenced_together_and_text_out_of_band_survives() -> None:
    stage = Stage()
    stage.play(created("r1"), *message("r1", "m1"), sound("r1", "m1", 5000), done("r1"))
    stage.play(created("r2"), *message("r2", "m2"), sound("r2", "m2", 5000))
    stage.play(created("oob", out_of_band=True))

    effects = stage.command("interrupt")

    assert of(effects, fx.Flush) == [fx.Flush(("r1", "r2"), "manual")]
    assert of(effects, fx.CancelResponse) == [fx.CancelResponse("r2")]
    assert stage.state.responses["oob"].active


def test_running_tools_that_may_be_stopped_are_told_on_every_way() -> None:
    stage = Stage(tools=[tool("a"), tool("b", on_interrupt="finish")])
    stage.play(created(), *call("r1", "c1", "a"), *call("r1", "c2", "b", 1), done())

    effects = stage.play(speech_started())

    assert of(effects, fx.Broadcast) == [fx.Broadcast("interrupt", 1, ("c1",), "barge_in")]
    assert of(effects, fx.CancelCalls) == [fx.CancelCalls(("c1",), 1, "barge_in")]
    (told,) = of(effects, Interrupted)
    assert (told.turn_id, told.calls) == (None, ["c1"])


def test_a_second_interruption_does_not_tell_the_tools_again() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"), done(), speech_started(), speech_stopped())

    effects = stage.play(speech_started(item="u2"))

    assert of(effects, fx.Broadcast) == []
    assert stage.state.epoch == 1


@pytest.mark.parametrize("before", ["begun", "stopped", "committed", "followed"])
def test_speech_that_is_told_again_does_not_interrupt_its_own_answer(before: str) -> None:
    stage = Stage()
    stage.play(speech_started(100))
    if before != "begun":
        stage.play(speech_stopped(900))
    if before in ("committed", "followed"):
        stage.play(i.InputCommitted(item_id="u1"))
    if before == "followed":
        stage.play(speech_started(1000, "u2"), speech_stopped(1400, "u2"))
    stage.play(created(), *message(), sound())
    speaking_us = stage.state.speaking_us

    effects = stage.play(speech_started(100))

    assert effects == []
    assert stage.state.speaking_us == speaking_us


@pytest.mark.parametrize("then", [[], [i.InputCommitted(item_id="u1")]])
def test_speech_that_begins_later_interrupts_whatever_its_item(then: list[i.AnyInput]) -> None:
    stage = Stage()
    stage.play(speech_started(100), speech_stopped(900), *then)
    stage.play(created(), *message(), sound())

    assert len(of(stage.play(speech_started(1500)), Interrupted)) == 1
    assert len(of(stage.play(speech_stopped(1900)), UserSpeechStopped)) == 1


def test_speech_without_an_item_interrupts_each_time() -> None:
    stage = Stage()
    stage.play(speech_started(100, None), speech_stopped(900, None), i.InputCommitted(item_id=""))
    stage.play(created(), *message(), sound())

    assert len(of(stage.play(speech_started(100, None)), Interrupted)) == 1


def test_an_end_of_speech_that_is_told_again_does_not_end_the_next_one() -> None:
    stage = Stage()
    stage.play(speech_started(100), speech_stopped(900), i.InputCommitted(item_id="u1"))
    stage.play(speech_started(2000, "u2"))

    effects = stage.play(speech_stopped(900), i.InputCommitted(item_id="u1"))

    assert effects == []
    assert stage.state.speaking_us


def test_a_new_connection_begins_its_clock_anew() -> None:
    stage = Stage()
    stage.play(speech_started(5000), i.ProviderDisconnected(generation=1, code=1006))
    stage.wait(1)
    stage.play(
        i.ProviderConnected(generation=2),
        i.ProviderSessionCreated(),
        i.ProviderSessionUpdated(session={}),
    )

    assert len(of(stage.play(speech_started(100)), UserSpeechStarted)) == 1


def test_an_interrupt_before_the_session_is_open_is_answered_at_once() -> None:
    stage = Stage(ready=False)

    assert replies(stage.command("interrupt")) == {"interrupt-1": "ok"}
