"""The scheduler: one response of the default conversation, and nobody's create is lost."""

import pytest

from voicebus.bus.messages.commands import ServerVad, SessionConfig
from voicebus.bus.messages.events import (
    AssistantTurnCompleted,
    AssistantTurnStarted,
    Error,
    RateLimited,
    ToolCallFailed,
)
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import responses
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.core.state import Call, Create
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
    speech_started,
    speech_stopped,
    spoken,
    tool,
    tool_ok,
    wrote,
)

MANUAL = SessionConfig(turn_detection="none")


SUBMIT = SessionConfig(on_interrupt="submit")


def echoing() -> Stage:
    """A provider that is known to echo our tags: what has none is its own."""
    stage = Stage()
    stage.command("send_text", text="Hello")
    stage.play(created("r0", stage.last_tag), done("r0"))
    return stage


def answered(stage: Stage, r: str = "r1") -> None:
    """The response that was asked for is announced."""
    stage.play(created(r, stage.last_tag))


def test_text_is_added_and_then_answered() -> None:
    stage = Stage()

    effects = stage.command("send_text", text="Hello")

    assert requests(effects) == [fx.AddUserText("Hello"), fx.CreateResponse("1", {})]
    assert replies(effects) == {"send_text-1": "ok"}


def test_an_announced_response_carries_the_command_that_wanted_it() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")

    effects = stage.play(created("r1", "1"), done("r1"))

    published = [(type(e.data), e.cause) for e in effects if isinstance(e, fx.Publish)]
    assert published == [
        (AssistantTurnStarted, "send_text-1"),
        (AssistantTurnCompleted, "send_text-1"),
    ]


def test_creates_of_clients_keep_their_number_and_order() -> None:
    stage = Stage()
    stage.command("send_text", text="one")
    assert of(stage.command("send_text", text="two"), fx.CreateResponse) == []
    stage.command("send_text", text="three")

    answered(stage, "r1")
    second = of(stage.play(done("r1")), fx.CreateResponse)
    answered(stage, "r2")
    third = of(stage.play(done("r2")), fx.CreateResponse)

    assert [second[0].tag, third[0].tag] == ["2", "3"]
    assert [create.cause for create in stage.state.queue] == []


def test_automatic_creates_coalesce() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"))
    stage.play(created("r2"), *call("r2", "c2", "a"), done("r2"), created("r3"))

    stage.play(tool_ok("c1"), tool_ok("c2"))
    effects = stage.play(done("r3"))

    assert len(of(effects, fx.CreateResponse)) == 1
    assert stage.state.queue == ()


def test_a_clients_plain_create_answers_the_tool_outputs_too() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"), created("r2"))
    stage.play(tool_ok("c1"))
    stage.command("send_text", text="and?")

    effects = stage.play(done("r2"))

    (asked,) = [e for e in effects if isinstance(e, fx.Ask)]
    assert stage.state.queue == ()
    answered(stage, "r3")
    assert stage.state.responses["r3"].cause == "send_text-1"
    assert isinstance(asked.request, fx.CreateResponse)


def test_a_clients_create_with_overrides_does_not_stand_in_for_the_tool_outputs() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"), created("r2"))
    stage.play(tool_ok("c1"))
    stage.command("create_response", overrides={"instructions": "Sing."})

    stage.play(done("r2"))
    answered(stage, "r3")
    effects = stage.play(done("r3"))

    assert of(effects, fx.CreateResponse)[0].overrides == {"instructions": "Sing."}


def test_a_response_of_the_turn_detection_answers_an_automatic_create() -> None:
    stage = Stage(SUBMIT, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"))
    stage.play(speech_started(), tool_ok("c1"), speech_stopped())
    assert len(stage.state.queue) == 1

    effects = [*stage.play(created("r2"), done("r2")), *stage.wait(10)]

    assert of(effects, fx.CreateResponse) == []


def test_an_automatic_create_is_asked_if_the_turn_detection_stays_silent() -> None:
    stage = Stage(SUBMIT, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"))
    stage.play(speech_started(), tool_ok("c1"))
    assert of(stage.wait(1), fx.CreateResponse) == []
    stage.play(speech_stopped())

    assert of(stage.wait(2.9), fx.CreateResponse) == []
    assert len(of(stage.wait(0.2), fx.CreateResponse)) == 1


def test_without_automatic_answers_it_is_asked_when_the_caller_stops() -> None:
    vad = ServerVad(create_response=False)
    stage = Stage(SessionConfig(turn_detection=vad, on_interrupt="submit"), tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"))
    stage.play(speech_started(), tool_ok("c1"))

    assert len(of(stage.play(speech_stopped()), fx.CreateResponse)) == 1


def test_a_lost_end_of_speech_does_not_hold_tool_outputs_back_for_ever() -> None:
    config = SessionConfig(turn_detection=ServerVad(interrupt_response=False))
    stage = Stage(config, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"), speech_started())
    stage.play(tool_ok("c1"))
    assert of(stage.wait(50), fx.CreateResponse) == []

    stage.play(i.TalkerSeen())
    assert len(of(stage.wait(11), fx.CreateResponse)) == 1


def test_a_committed_turn_ends_the_speech_whose_end_was_not_told() -> None:
    stage = Stage()
    stage.play(speech_started())

    stage.play(i.InputCommitted(item_id="u1"))

    assert stage.state.speaking_us == 0


def test_a_turn_that_ended_during_a_response_is_answered_after_it() -> None:
    stage = Stage(SessionConfig(turn_detection=ServerVad(interrupt_response=False)))
    stage.play(created("r1"), speech_started(), speech_stopped())
    assert of(stage.play(i.InputCommitted(item_id="u1")), fx.CreateResponse) == []
    stage.play(refused("already_active"))

    assert len(of(stage.play(done("r1")), fx.CreateResponse)) == 1


def test_a_turn_that_ended_during_a_response_is_answered_once_if_the_provider_does() -> None:
    stage = Stage(SessionConfig(turn_detection=ServerVad(interrupt_response=False)))
    stage.play(created("r1"), i.InputCommitted(item_id="u1"))
    stage.play(created("r0"), done("r0"))

    assert of(stage.play(done("r1")), fx.CreateResponse) == []


@pytest.mark.parametrize("vad", [ServerVad(), ServerVad(create_response=False)])
def test_a_turn_that_the_provider_answers_or_shall_not_answer_is_not_asked_for(
    vad: ServerVad,
) -> None:
    stage = Stage(SessionConfig(turn_detection=vad))
    stage.play(created("r1"), speech_started(), speech_stopped(), i.InputCommitted(item_id="u1"))

    assert of(stage.play(done("r1", "cancelled")), fx.CreateResponse) == []


# --- refusals ---------------------------------------------------------------------------------


def test_a_manual_create_refused_for_an_active_response_is_asked_again_after_it() -> None:
    stage = echoing()
    stage.command("send_text", text="Hello")
    event_id = stage.last_event_id
    stage.play(created("vad"))

    effects = stage.play(refused("already", event_id, "already_active"))
    assert events(effects) == []
    again = stage.play(done("vad"))

    assert of(again, fx.CreateResponse) == [fx.CreateResponse("2", {})]
    stage.play(created("r1", "2"))
    assert stage.state.responses["r1"].cause == "send_text-2"


def test_a_refusal_before_the_other_response_is_announced_waits_a_little() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    stage.play(refused("already", stage.last_event_id, "already_active"))
    assert of(stage.wait(0.1), fx.CreateResponse) == []

    stage.play(created("vad"))

    assert of(stage.wait(5), fx.CreateResponse) == []
    assert len(of(stage.play(done("vad")), fx.CreateResponse)) == 1


def test_refusals_without_any_response_are_tried_more_slowly_and_then_told() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    tried_s = []
    for _ in range(responses.UNANNOUNCED_LIMIT):
        stage.play(refused("already", stage.last_event_id, "already_active"))
        before_us = stage.now_us
        while stage.state.creating is None:
            stage.wait(0.05)
        tried_s.append(round((stage.now_us - before_us) / 1_000_000, 2))

    assert tried_s == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    effects = stage.play(refused("already", stage.last_event_id, "already_active"))
    assert [e.code for e in of(effects, Error)] == ["already"]
    assert stage.state.queue == ()


def test_a_response_without_a_tag_is_disowned_when_our_create_is_refused() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    event_id = stage.last_event_id
    stage.play(created("vad"))
    taken_for = stage.state.responses["vad"].cause

    stage.play(refused("already", event_id, "already_active"))

    assert (taken_for, stage.state.responses["vad"].cause) == ("send_text-1", None)
    assert len(of(stage.play(done("vad")), fx.CreateResponse)) == 1


def test_a_refusal_that_names_nothing_disowns_the_newest_assumed_response() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    stage.play(created("vad"))

    stage.play(refused("already", None, "already_active"))

    assert stage.state.responses["vad"].create is None
    assert [create.cause for create in stage.state.queue] == ["send_text-1"]


def test_a_refusal_disowns_only_the_response_of_its_own_create() -> None:
    stage = Stage()
    stage.command("send_text", text="one")
    first = stage.last_event_id
    stage.play(created("r1"), done("r1"))
    stage.command("send_text", text="two")
    stage.play(created("r2"))

    stage.play(refused("already", first, "already_active"))

    assert stage.state.responses["r1"].create is None
    assert stage.state.responses["r2"].cause == "send_text-2"


def test_cancelling_what_is_over_asks_nobody() -> None:
    stage = Stage(MANUAL)
    stage.command("commit_audio")
    commit = next(e for e in stage.effects if isinstance(e, fx.Ask)).event_id
    stage.play(created("r1", stage.last_tag), done("r1"))

    effects = stage.play(refused("input_audio_buffer_commit_empty", commit, "benign"))

    assert of(effects, fx.CancelResponse) == []


def test_a_refusal_of_what_was_not_asked_changes_nothing() -> None:
    stage = Stage()
    stage.play(created("vad"))

    assert stage.play(refused("already", "foreign", "already_active")) == []


def test_an_automatic_create_refused_for_an_active_response_is_answered_by_it() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"), tool_ok("c1"))
    event_id = stage.last_event_id

    stage.play(created("vad"), refused("already", event_id, "already_active"))

    assert of([*stage.play(done("vad")), *stage.wait(10)], fx.CreateResponse) == []


def test_a_provider_that_echoes_tags_begins_its_own_responses_without() -> None:
    stage = Stage()
    stage.command("send_text", text="one")
    stage.play(created("r1", "1"), done("r1"))
    stage.command("send_text", text="two")

    stage.play(created("vad"))

    assert stage.state.responses["vad"].create is None
    assert stage.state.creating is not None


@pytest.mark.parametrize("named", [True, False])
def test_a_rejected_create_is_told_to_the_command_that_caused_it(named: bool) -> None:
    stage = Stage()
    stage.command("create_response", overrides={"voice": "nobody"})
    event_id = stage.last_event_id if named else None

    effects = stage.play(refused("invalid_value", event_id, about=None if named else "response"))

    (told,) = [effect for effect in effects if isinstance(effect, fx.Publish)]
    assert isinstance(told.data, Error)
    assert (told.data.code, told.cause) == ("invalid_value", "create_response-1")
    assert stage.state.creating is None


# --- out of band ------------------------------------------------------------------------------

APART = {"conversation": "none", "metadata": {"purpose": "title"}}


def test_responses_out_of_band_overlap_the_conversation() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    answered(stage, "r1")
    effects = stage.command("create_response", overrides=APART)
    assert len(of(effects, fx.CreateResponse)) == 1
    stage.play(created("oob", stage.last_tag, out_of_band=True))

    stage.play(done("oob"))

    assert stage.state.responses["oob"].cause == "create_response-2"
    assert stage.state.responses["r1"].active


def test_an_untagged_response_out_of_band_is_the_oldest_asked_for() -> None:
    stage = Stage()
    stage.command("create_response", overrides=APART)
    stage.command("create_response", overrides=APART)

    stage.play(created("o1", out_of_band=True), created("o2", out_of_band=True))

    causes = [stage.state.responses[r].cause for r in ("o1", "o2")]
    assert causes == ["create_response-1", "create_response-2"]


def test_a_rejected_create_out_of_band_reaches_its_command() -> None:
    stage = Stage()
    stage.command("create_response", overrides=APART)

    effects = stage.play(refused("bad", stage.last_event_id))

    (told,) = [effect for effect in effects if isinstance(effect, fx.Publish)]
    assert told.cause == "create_response-1"
    assert stage.state.apart == ()


# --- over -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("completed", None),
        ("cancelled", "client_cancelled"),
        ("incomplete", "max_output_tokens"),
        ("incomplete", "content_filter"),
    ],
)
def test_status_and_reason_are_carried(status: i.ResponseStatus, reason: str | None) -> None:
    stage = Stage()
    stage.play(created())

    (over,) = of(stage.play(done("r1", status, reason, tokens=7)), AssistantTurnCompleted)

    assert (over.status, over.reason) == (status, reason)
    assert over.usage is not None
    assert over.usage.total_tokens == stage.state.tokens == 7


def test_a_foreign_end_changes_nothing_of_ours() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    answered(stage, "r1")

    effects = stage.play(done("foreign", tag=None), done("foreign"))

    assert stage.state.responses["r1"].active
    assert of(effects, fx.CreateResponse) == []
    assert [type(event) for event in events(effects)] == [
        AssistantTurnStarted,
        AssistantTurnCompleted,
    ]


def test_an_end_without_a_beginning_is_ours_by_its_tag() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")

    stage.play(done("r1", tag="1"))

    assert stage.state.creating is None
    assert stage.state.responses["r1"].cause == "send_text-1"


def test_an_end_is_told_once() -> None:
    stage = Stage()
    stage.play(created(), done())

    assert stage.play(done()) == []


def test_a_second_announcement_is_ignored() -> None:
    stage = Stage()
    stage.play(created())

    assert stage.play(created()) == []


def test_a_failed_response_is_an_error_with_the_providers_code() -> None:
    stage = Stage()
    stage.play(created())

    effects = stage.play(done("r1", "failed", error={"code": "server_error", "message": "oops"}))

    (error,) = of(effects, Error)
    assert (error.code, error.error, error.recoverable) == ("server_error", "oops", True)


def test_a_failed_response_without_details_is_told_all_the_same() -> None:
    stage = Stage()
    stage.play(created())

    (error,) = of(stage.play(done("r1", "failed")), Error)

    assert error.code == "response_failed"


def limited(r: str, after_ms: int | None = 2000) -> i.AnyInput:
    return done(r, "failed", error={"code": "rate"}, rate_limited=True, retry_after_ms=after_ms)


@pytest.mark.parametrize("how", ["refused", "rate limited"])
def test_what_was_to_bridge_a_silence_is_not_asked_for_again(how: str) -> None:
    stage = Stage(MANUAL)
    d = Draft(stage.state, stage.now_us)
    assert responses.is_quiet(d)
    responses.bridge(d, {"instructions": "Say something."})
    stage.state = d.s
    (filler,) = of(d.effects, fx.CreateResponse)

    if how == "refused":
        event_id = d.s.creating.event_id if d.s.creating else None
        stage.play(refused("active", event_id, "already_active"))
    else:
        stage.play(created("r1", filler.tag), limited("r1"))

    assert (filler.overrides, filler.tool_choice) == ({"instructions": "Say something."}, "none")
    assert of(stage.wait(20), fx.CreateResponse) == []


def test_a_rate_limited_response_is_retried_three_times_and_then_told() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    for attempt in range(responses.RETRY_LIMIT):
        answered(stage, f"r{attempt}")
        assert of(stage.play(limited(f"r{attempt}")), RateLimited) == []
        assert of(stage.wait(1.9), fx.CreateResponse) == []
        assert len(of(stage.wait(0.2), fx.CreateResponse)) == 1
    answered(stage, "last")

    effects = [*stage.play(limited("last")), *stage.wait(60 - 8)]

    (told,) = of(effects, RateLimited)
    assert told.reset_ms == 2000
    assert of(effects, fx.CreateResponse) == []


def test_the_turn_detections_own_response_is_retried_too() -> None:
    stage = Stage()
    stage.play(created("vad"), limited("vad", None))

    assert of(stage.wait(0.9), fx.CreateResponse) == []
    assert len(of(stage.wait(0.2), fx.CreateResponse)) == 1


def test_an_interrupted_response_is_not_retried() -> None:
    stage = Stage()
    stage.play(created(), sound())
    stage.command("interrupt")

    effects = stage.play(limited("r1"))

    assert len(of(effects, RateLimited)) == 1
    assert stage.state.queue == ()


# --- cancelling -------------------------------------------------------------------------------


def test_a_cancel_before_the_announcement_waits_and_then_names_the_response() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    effects = stage.command("interrupt")
    assert of(effects, fx.CancelResponse) == []

    effects = stage.play(created("r1", stage.last_tag))

    assert of(effects, fx.CancelResponse) == [fx.CancelResponse("r1")]
    assert of(effects, fx.Flush) == [fx.Flush(("r1",), "interrupted before it was announced")]


def test_text_after_an_unannounced_interrupt_is_answered_after_the_unwanted_response() -> None:
    stage = Stage()
    stage.command("send_text", text="one")
    stage.command("interrupt")
    assert of(stage.command("send_text", text="two"), fx.CreateResponse) == []
    stage.play(created("r1", "1"))

    effects = stage.play(done("r1", "cancelled", "client_cancelled"))

    assert of(effects, fx.CreateResponse) == [fx.CreateResponse("2", {})]


def test_an_unwanted_create_that_is_refused_is_simply_gone() -> None:
    stage = Stage()
    stage.command("send_text", text="one")
    event_id = stage.last_event_id
    stage.command("interrupt")

    stage.play(refused("already", event_id, "already_active"))

    assert stage.state.creating is None
    assert stage.state.queue == ()


def test_a_response_is_cancelled_once() -> None:
    stage = Stage()
    stage.play(created())
    first = stage.command("interrupt")

    second = stage.command("interrupt")

    assert of(first, fx.CancelResponse) == [fx.CancelResponse("r1")]
    assert of(second, fx.CancelResponse) == []


# --- watchdogs --------------------------------------------------------------------------------


def test_a_create_nobody_answers_is_told_and_its_late_response_cancelled() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    assert of(stage.wait(9.9), Error) == []

    effects = stage.wait(0.2)

    assert [error.code for error in of(effects, Error)] == ["provider_silent"]
    late = stage.play(created("late", "1"))
    assert of(late, fx.CancelResponse) == [fx.CancelResponse("late")]


def test_an_unwanted_create_nobody_answers_is_nobodys_error() -> None:
    stage = Stage()
    stage.command("send_text", text="Hello")
    stage.command("interrupt")

    assert of(stage.wait(11), Error) == []


def test_a_create_out_of_band_nobody_answers_is_told() -> None:
    stage = Stage()
    stage.command("create_response", overrides=APART)

    assert len(of(stage.wait(11), Error)) == 1


def test_a_response_that_never_ends_is_cancelled_and_then_over() -> None:
    stage = Stage(SessionConfig(lease_s=1000), tools=[tool("a")])
    stage.play(created(), call("r1", "c1", "a")[0])
    assert of(stage.wait(59), fx.CancelResponse) == []
    assert of(stage.wait(2), fx.CancelResponse) == [fx.CancelResponse("r1")]

    effects = stage.wait(5)

    (over,) = of(effects, AssistantTurnCompleted)
    assert (over.status, over.reason) == ("incomplete", "provider_silent")
    assert [failed.call_id for failed in of(effects, ToolCallFailed)] == ["c1"]


def test_an_interrupted_response_that_never_ends_makes_way_soon() -> None:
    stage = Stage()
    stage.play(created(), sound(), speech_started(), speech_stopped())
    stage.command("send_text", text="Hello?")

    effects = stage.wait(5.1)

    (over,) = of(effects, AssistantTurnCompleted)
    assert (over.status, over.reason) == ("cancelled", "provider_silent")
    assert len(of(effects, fx.CreateResponse)) == 1


def test_a_response_whose_end_was_lost_holds_nothing_back_once_the_next_is_announced() -> None:
    stage = Stage(SessionConfig(lease_s=1000))
    stage.play(created("lost"), created("next"))
    asked = stage.command("send_text", text="Hello?")

    effects = stage.play(done("next"))

    assert of(asked, fx.CreateResponse) == []
    assert len(of(effects, fx.CreateResponse)) == 1


def test_an_overtaken_response_is_given_up_without_a_cancel_that_could_hit_the_next() -> None:
    stage = Stage(SessionConfig(lease_s=1000))
    stage.play(created("lost"), created("next"), done("next"))

    effects = stage.wait(61)

    (over,) = of(effects, AssistantTurnCompleted)
    assert (over.turn_id, over.status, over.reason) == ("lost", "incomplete", "provider_silent")
    assert of(effects, fx.CancelResponse) == []


def test_an_end_that_is_told_after_the_next_response_was_announced_counts_as_any_other() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created("late"), *call("late", "c1", "a"), created("next"))

    effects = stage.play(done("late"))

    (over,) = of(effects, AssistantTurnCompleted)
    assert (over.turn_id, over.status) == ("late", "completed")
    assert [submit.call_id for submit in of(effects, fx.Submit)] == ["c1"]
    assert of(stage.play(tool_ok("c1")), fx.CreateResponse) == []
    assert len(of(stage.play(done("next")), fx.CreateResponse)) == 1


@pytest.mark.parametrize("said", [True, False])
def test_a_response_out_of_band_overtakes_nothing(said: bool) -> None:
    stage = Stage()
    stage.play(created("r1"))
    stage.command("create_response", overrides=APART)
    stage.play(created("oob", out_of_band=said))
    stage.command("send_text", text="Hello?")

    effects = stage.play(done("oob"))

    assert of(effects, fx.CreateResponse) == []
    assert len(of(stage.play(done("r1")), fx.CreateResponse)) == 1


def test_words_of_a_response_that_nobody_announced_prove_no_end() -> None:
    stage = Stage()
    stage.play(created("r1"), wrote("Hm", "stray"), done("stray"))

    assert of(stage.command("send_text", text="Hello?"), fx.CreateResponse) == []


def test_a_response_that_goes_on_is_left_alone() -> None:
    stage = Stage(SessionConfig(lease_s=1000))
    stage.play(created())
    for _ in range(4):
        assert of(stage.wait(40), fx.CancelResponse) == []
        stage.play(sound())


def test_a_waiting_create_does_not_wake_the_session_while_it_cannot_be_asked() -> None:
    stage = Stage(SessionConfig(lease_s=1000))
    stage.command("send_text", text="Hello")
    stage.play(refused("already", stage.last_event_id, "already_active"), created("vad"))

    stage.wait(30)  # raises when the deadline stands still

    assert stage.state.creating is None


def test_only_the_last_few_responses_are_remembered() -> None:
    stage = Stage()
    for number in range(50):
        stage.play(created(f"r{number}"), done(f"r{number}"))

    assert len(stage.state.responses) <= responses.REMEMBERED + 1


def test_withdrawing_finds_the_response_wherever_it_is() -> None:
    stage = Stage(MANUAL)
    stage.command("commit_audio")
    commit = next(e for e in stage.effects if isinstance(e, fx.Ask)).event_id
    stage.play(created("r1", stage.last_tag))

    effects = stage.play(refused("input_audio_buffer_commit_empty", commit, "benign"))

    assert of(effects, fx.CancelResponse) == [fx.CancelResponse("r1")]


def test_whatever_comes_first_of_a_response_begins_it() -> None:
    stage = Stage()

    effects = stage.play(*message("x", "m1"), spoken("Once ", "x", "m1"))

    assert kinds(effects) == ["assistant_turn_started", "assistant_transcript_delta"]
    assert stage.state.responses["x"].items == {"m1": "silent"}


def test_a_response_that_was_never_announced_ends_by_its_watchdog_and_its_calls_with_it() -> None:
    stage = Stage(SessionConfig(lease_s=1000), tools=[tool("a")])
    stage.play(*call("x", "c1", "a"), sound("x", "m1"))

    effects = stage.wait(70)

    assert of(effects, fx.CancelResponse) == [fx.CancelResponse("x")]
    assert [end.call_id for end in of(effects, ToolCallFailed)] == ["c1"]
    assert stage.state.playback == {}


def test_what_still_comes_of_a_forgotten_response_begins_nothing() -> None:
    stage = Stage()
    for number in range(50):
        stage.play(created(f"r{number}"), done(f"r{number}"))

    effects = stage.play(spoken("late", "r0", "m0"), sound("r1", "m1"))

    assert kinds(effects) == ["assistant_transcript_delta"]
    assert responses.active_default(Draft(stage.state, stage.now_us)) is None
    assert len(stage.state.forgotten) <= responses.FORGOTTEN


def test_withdrawing_what_is_asked_for_makes_it_unwanted() -> None:
    stage = Stage(MANUAL)
    stage.command("commit_audio")
    commit = next(e for e in stage.effects if isinstance(e, fx.Ask)).event_id
    stage.play(refused("input_audio_buffer_commit_empty", commit, "benign"))

    effects = stage.play(created("r1", stage.last_tag))

    assert of(effects, fx.CancelResponse) == [fx.CancelResponse("r1")]


def test_what_came_of_an_item_is_remembered_with_its_words() -> None:
    stage = Stage()

    stage.play(created(), *message("r1", "m1"), *message("r1", "m2", 1))
    stage.play(sound("r1", "m1"), spoken("Once "), spoken("upon"))

    response = stage.state.responses["r1"]
    assert response.items == {"m1": "sounding", "m2": "silent"}
    assert response.words == {"m1/0": "Once upon"}

    stage.play(spoken("Once upon a time", final=True))
    assert stage.state.responses["r1"].words == {"m1/0": "Once upon a time"}


def test_a_whole_text_that_comes_twice_is_told_once_also_out_of_band() -> None:
    stage = Stage()
    stage.command("create_response", overrides={"conversation": "none"})
    stage.play(created("r1", stage.last_tag, out_of_band=True))

    effects = stage.play(*(wrote(text, final=True) for text in ("Hi", "Hi", "Hi!", "Hi!")))

    assert kinds(effects) == ["assistant_text", "assistant_text"]


def test_a_whole_text_of_a_forgotten_response_is_told() -> None:
    stage = Stage()
    for number in range(responses.REMEMBERED + 3):
        stage.play(created(f"r{number}"), done(f"r{number}"))

    assert kinds(stage.play(wrote("late", "r0", "m0", final=True))) == ["assistant_text"]


def two_batches() -> Stage:
    """The follow-up of one is asked for, that of the other waits behind it."""
    stage = Stage(tools=[tool("a")])
    for n in (1, 2):
        stage.play(created(f"r{n}"), *call(f"r{n}", f"c{n}", "a"), done(f"r{n}"))
    stage.play(tool_ok("c1"), tool_ok("c2"))
    assert stage.state.creating is not None
    assert len(stage.state.queue) == 1
    return stage


def test_an_automatic_create_that_is_wanted_again_coalesces_with_the_one_that_waits() -> None:
    stage = two_batches()
    assert stage.state.creating is not None
    asked = stage.state.creating

    stage.play(refused("already", asked.event_id, "already_active"))

    assert [one.tag for one in of(stage.wait(1), fx.CreateResponse)] == [asked.tag]
    assert stage.state.queue == ()


def test_a_retry_of_an_automatic_create_coalesces_too_and_waits_for_its_hint() -> None:
    stage = two_batches()
    tag = stage.last_tag

    stage.play(created("r3", tag), done("r3", "failed", rate_limited=True, retry_after_ms=5000))

    (again,) = stage.state.queue
    assert (again.tag, again.attempt) == (tag, 2)
    assert of(stage.wait(4.9), fx.CreateResponse) == []
    assert [one.tag for one in of(stage.wait(0.2), fx.CreateResponse)] == [tag]


def test_a_follow_up_without_tools_stays_one_when_it_coalesces() -> None:
    stage = Stage()
    d = Draft(stage.state, stage.now_us)
    waits = Create(tag="8", automatic=True, tool_choice="none")
    d.s.queue = (Create(tag="7", automatic=False), waits)

    responses.want_again(d, Create(tag="9", automatic=True))

    assert d.s.queue == (
        Create(tag="9", automatic=True, tool_choice="none"),
        Create(tag="7", automatic=False),
    )


def test_an_answer_without_a_beginning_answers_the_turn_all_the_same() -> None:
    stage = Stage()
    stage.play(i.InputCommitted(item_id="u1"))
    assert stage.state.unanswered

    stage.play(done("r1"))

    assert not stage.state.unanswered


def output_of(call_id: str) -> i.AnyInput:
    """The provider says that this output stands in the conversation."""
    item = i.Item(item_id=f"o-{call_id}", type="function_call_output", call_id=call_id)
    return i.ItemAdded(item=item)


def called(stage: Stage) -> None:
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"))


def test_an_output_that_came_too_late_for_the_turn_detections_response_is_answered_after_it() -> (
    None
):
    stage = Stage(tools=[tool("a")])
    stage.command("send_text", text="Hello")
    stage.play(created("r0", stage.last_tag), done("r0"))  # it echoes tags
    called(stage)
    stage.play(tool_ok("c1"))
    tag, asked = stage.last_tag, stage.last_event_id

    stage.play(created("vad"), output_of("c1"), refused("already", asked, "already_active"))

    assert [create.tag for create in stage.state.queue] == [tag]
    assert [one.tag for one in of(stage.play(done("vad")), fx.CreateResponse)] == [tag]


def test_the_same_of_a_provider_that_echoes_nothing() -> None:
    stage = Stage(tools=[tool("a")])
    called(stage)
    stage.play(tool_ok("c1"))
    asked = stage.last_event_id

    stage.play(created("vad"), output_of("c1"), refused("already", asked, "already_active"))

    assert len(of(stage.play(done("vad")), fx.CreateResponse)) == 1


def test_an_output_that_stood_before_the_turn_detections_response_is_answered_by_it() -> None:
    stage = Stage(tools=[tool("a")])
    called(stage)
    stage.play(tool_ok("c1"))
    asked = stage.last_event_id

    stage.play(output_of("c1"), created("vad"), refused("already", asked, "already_active"))
    stage.play(output_of("c1"))  # told again

    assert of(stage.play(done("vad")), fx.CreateResponse) == []


def test_a_create_that_waited_for_the_caller_is_wanted_again_when_its_output_came_too_late() -> (
    None
):
    stage = Stage(SUBMIT, tools=[tool("a", on_interrupt="finish")])
    called(stage)
    stage.play(speech_started(), tool_ok("c1"), speech_stopped(), created("vad"))
    assert not stage.state.queue

    stage.play(output_of("c1"))

    assert of(stage.effects, fx.CreateResponse) == []
    assert len(of(stage.play(done("vad")), fx.CreateResponse)) == 1


def test_an_output_that_came_too_late_for_two_responses_is_answered_after_the_second() -> None:
    stage = Stage(SUBMIT, tools=[tool("a", on_interrupt="finish")])
    called(stage)
    stage.play(speech_started(), tool_ok("c1"), speech_stopped(), created("lost"), created("vad"))

    stage.play(output_of("c1"))

    assert of(stage.effects, fx.CreateResponse) == []
    assert len(of(stage.play(done("vad")), fx.CreateResponse)) == 1


@pytest.mark.parametrize(
    "others",
    [
        [],
        [done("foreign")],
        [done(f"foreign{n}") for n in range(20)],
        [created("oob", out_of_band=True)],
    ],
)
def test_an_output_that_came_only_after_the_end_of_the_turn_detections_response_is_answered(
    others: list[i.AnyInput],
) -> None:
    stage = Stage(SUBMIT, tools=[tool("a", on_interrupt="finish")])
    called(stage)
    stage.play(speech_started(), tool_ok("c1"), speech_stopped(), created("vad"), done("vad"))
    stage.play(*others)
    assert not stage.state.queue

    assert len(of(stage.play(output_of("c1")), fx.CreateResponse)) == 1


def test_an_output_that_came_too_late_is_answered_though_an_older_response_never_ended() -> None:
    stage = Stage(SUBMIT, tools=[tool("a", on_interrupt="finish")])
    called(stage)
    stage.command("create_response", overrides={"conversation": "none"})
    stage.play(created("lost"), speech_started(), tool_ok("c1"), speech_stopped(), created("vad"))
    stage.play(done("vad"))

    stage.play(output_of("c1"))

    assert [create.automatic for create in stage.state.queue] == [True]


@pytest.mark.parametrize("then", ["interrupted", "asked", "calls"])
def test_an_output_is_not_answered_twice_nor_after_an_interruption(then: str) -> None:
    stage = Stage(SUBMIT, tools=[tool("a", on_interrupt="finish")])
    called(stage)
    stage.play(speech_started(), tool_ok("c1"), speech_stopped())
    late = "c1"
    if then == "calls":  # what the response saw, it answered; a call of its own comes after it
        stage.play(output_of("c1"), created("vad"), *call("vad", "c2", "a"), done("vad"))
        stage.play(speech_started(item="u2"), tool_ok("c2"))
        late = "c2"
    else:
        stage.play(created("vad"))
        stage.command("interrupt" if then == "interrupted" else "send_text", text="Hello")
        stage.play(done("vad"))
    waiting = stage.state.queue

    effects = stage.play(output_of(late))

    assert of(effects, fx.CreateResponse) == []
    assert stage.state.queue == waiting


def test_an_output_that_stands_while_our_own_response_is_active_changes_nothing_of_it() -> None:
    stage = echoing()
    stage.command("send_text", text="Hello")
    stage.play(created("r1", stage.last_tag))

    called_before = Call(
        call_id="c0", item_id="i0", response_id="r0", output_index=0, name="a", phase="ended"
    )
    responses.output_stands(d := Draft(stage.state, stage.now_us), called_before)

    assert not d.s.responses["r1"].missed


def test_what_is_forgotten_neither_begins_nor_ends_again() -> None:
    stage = Stage()
    for number in range(20):
        stage.play(created(f"r{number}"), done(f"r{number}"))

    assert stage.play(created("r0")) == stage.play(done("r1")) == []


def rate_limited(r: str, wait_ms: int) -> i.AnyInput:
    error = {"code": "rate_limit_exceeded"}
    return done(r, "failed", error=error, rate_limited=True, retry_after_ms=wait_ms)


def test_creates_of_clients_keep_their_order_also_where_the_first_is_tried_again() -> None:
    stage = Stage(MANUAL)
    stage.command("send_text", text="first")
    first = stage.last_tag
    stage.play(created("r1", first), rate_limited("r1", 5000))

    overtaking = stage.command("send_text", text="second")
    retried = stage.wait(6)

    assert of(overtaking, fx.CreateResponse) == []
    assert [one.tag for one in of(retried, fx.CreateResponse)] == [first]
    assert len(of(stage.play(created("r2", first), done("r2")), fx.CreateResponse)) == 1


def test_a_clients_create_that_answers_outputs_overtakes_no_other_of_a_clients() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"), done(), created("r2"), tool_ok("c1"))
    stage.command("create_response", overrides={"instructions": "first"})
    stage.command("send_text", text="second")

    asked = of(stage.play(done("r2")), fx.CreateResponse)
    for number in (3, 4):
        asked += of(
            stage.play(created(f"r{number}", asked[-1].tag), done(f"r{number}")), fx.CreateResponse
        )

    assert [one.overrides for one in asked] == [{}, {"instructions": "first"}, {}]


def heard(stage: Stage, item: str = "u1") -> None:
    """The caller's turn is over, and the provider is about to answer it."""
    stage.play(speech_started(item=item), speech_stopped(item=item), i.InputCommitted(item_id=item))


def test_an_interrupt_before_the_providers_own_answer_waits_and_then_names_it() -> None:
    stage = echoing()
    heard(stage)

    interrupted = stage.command("interrupt")
    effects = stage.play(created("r1"))

    assert kinds(interrupted) == ["interrupted"]
    assert of(effects, fx.CancelResponse) == [fx.CancelResponse("r1")]
    assert [one.responses for one in of(effects, fx.Flush)] == [("r1",)]


def test_an_interrupt_before_the_providers_own_answer_reaches_no_later_one() -> None:
    stage = echoing()
    heard(stage)
    stage.command("interrupt")
    stage.play(created("r1"), done("r1", "cancelled", "client_cancelled"))
    second = stage.play(created("r2"))

    silent = echoing()
    heard(silent)
    silent.command("interrupt")
    heard(silent, "u2")

    ended = echoing()
    heard(ended)
    ended.command("interrupt")
    ended.play(done("unannounced"))

    mine = echoing()
    heard(mine)
    mine.command("interrupt")
    mine.command("send_text", text="Hello")
    ours = mine.play(created("r1", mine.last_tag))

    for effects in (second, silent.play(created("r1")), ended.play(created("r1")), ours):
        assert requests(effects) == []
        assert of(effects, fx.Flush) == []


def test_an_answer_that_was_interrupted_before_it_began_answers_no_outputs() -> None:
    stage = Stage(SUBMIT, tools=[tool("a")])
    stage.command("send_text", text="Hello")
    stage.play(created("r1", stage.last_tag), *call("r1", "c1", "a"), done())
    heard(stage)
    stage.command("interrupt")
    stage.play(tool_ok("c1"))
    asked = stage.last_event_id

    stage.play(created("r2"), refused("active", asked, "already_active"))
    effects = stage.play(done("r2", "cancelled", "client_cancelled"))

    assert len(of(effects, fx.CreateResponse)) == 1


def test_an_answer_that_was_interrupted_before_it_began_takes_none_that_wait() -> None:
    stage = Stage(SUBMIT, tools=[tool("a")])
    stage.command("send_text", text="Hello")
    stage.play(created("r1", stage.last_tag), *call("r1", "c1", "a"), done())
    heard(stage)
    stage.command("interrupt")
    stage.play(speech_started(item="u2"), tool_ok("c1"))

    stage.play(created("r2"))
    stage.play(done("r2", "cancelled", "turn_detected"), speech_stopped(item="u2"))

    assert len(of(stage.wait(5), fx.CreateResponse)) == 1


def test_a_response_that_failed_for_good_leaves_its_error_to_the_end_of_the_session() -> None:
    stage = Stage(MANUAL)
    stage.command("send_text", text="Hello")
    answered(stage)

    effects = stage.play(done("r1", "failed", error={"code": "insufficient_quota"}, fatal=True))

    told = [effect for effect in effects if isinstance(effect, fx.Publish)]
    assert kinds(told) == ["assistant_turn_completed", "error", "session_closed"]
    assert {one.cause for one in told} == {"send_text-1"}
    (error,) = of(effects, Error)
    assert not error.recoverable


def too_many(event_id: str) -> i.AnyInput:
    return i.ProviderRefused(
        code="rate_limit_exceeded",
        message="Please try again in 2s.",
        event_id=event_id,
        rate_limited=True,
        retry_after_ms=2000,
    )


@pytest.mark.parametrize("apart", [False, True])
def test_a_create_refused_for_a_rate_limit_is_retried_as_a_response_that_failed(
    apart: bool,
) -> None:
    stage = Stage(MANUAL)
    overrides = {"conversation": "none"} if apart else {}
    stage.command("create_response", overrides=overrides)
    for _ in range(responses.RETRY_LIMIT):
        assert kinds(stage.play(too_many(stage.last_event_id))) == []
        assert of(stage.wait(1.9), fx.CreateResponse) == []
        assert len(of(stage.wait(0.2), fx.CreateResponse)) == 1

    effects = [*stage.play(too_many(stage.last_event_id)), *stage.wait(30)]

    (told,) = [effect for effect in effects if isinstance(effect, fx.Publish)]
    assert isinstance(told.data, RateLimited)
    assert (told.data.reset_ms, told.cause) == (2000, "create_response-1")
    assert told.data.details["code"] == "rate_limit_exceeded"
    assert of(effects, fx.CreateResponse) == []


def test_an_interrupted_create_refused_for_a_rate_limit_is_not_retried() -> None:
    stage = Stage(MANUAL)
    stage.command("send_text", text="Hello")
    asked = stage.last_event_id
    stage.command("interrupt")

    stage.play(too_many(asked))

    assert of(stage.wait(30), fx.CreateResponse) == []
