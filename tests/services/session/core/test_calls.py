"""Calls and batches: one outcome each, one output or a deleted item each, outputs in order."""

from typing import Any

import msgspec
import pytest

from voicebus.bus.messages.commands import OnInterrupt, SessionConfig
from voicebus.bus.messages.events import (
    ApprovalRequested,
    AssistantTurnCompleted,
    AssistantTurnStarted,
    ToolBatchSubmitted,
    ToolCallArgsDelta,
    ToolCallCompleted,
    ToolCallDispatched,
    ToolCallFailed,
    ToolCallLateResult,
    ToolCallProgress,
    ToolCallStarted,
)
from voicebus.bus.messages.work import Failure
from voicebus.services.session.core import calls
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.testing import (
    Stage,
    call,
    call_item,
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
    tool,
    tool_failed,
    tool_ok,
)

MANUAL = SessionConfig(turn_detection="none")
LONG = SessionConfig(turn_detection="none", lease_s=10_000)


def calling(*names: str, stage: Stage | None = None, arguments: str = "{}") -> Stage:
    """A completed response with one call per name: c0, c1, …"""
    stage = stage or Stage(LONG, tools=[tool(name) for name in names])
    stage.play(created())
    for index, name in enumerate(names):
        stage.play(*call("r1", f"c{index}", name, index, arguments=arguments))
    stage.play(done())
    return stage


def outputs(effects: list[fx.Effect]) -> list[tuple[str, str]]:
    return [(one.call_id, one.output) for one in of(effects, fx.AddOutput)]


def told(effects: list[fx.Effect], call_id: str) -> dict[str, str]:
    """The one output of a call, as the model reads it."""
    (output,) = [text for one, text in outputs(effects) if one == call_id]
    value: dict[str, str] = msgspec.json.decode(output)
    return value


# --- a round ----------------------------------------------------------------------------------


def test_a_call_runs_when_its_response_is_complete_and_its_result_is_answered() -> None:
    stage = Stage(tools=[tool("weather", timeout_s=7)])
    stage.play(created(), *call("r1", "c1", "weather", arguments='{"city":"Berlin"}'))
    assert of(stage.effects, fx.Submit) == []

    dispatched = stage.play(done())
    ended = stage.play(tool_ok("c1", {"temperature": 21}))

    assert of(dispatched, fx.Submit) == [
        fx.Submit("c1", "weather", {"city": "Berlin"}, 0, 7000),
    ]
    assert requests(ended) == [
        fx.AddOutput("c1", '{"temperature":21}'),
        fx.CreateResponse("1", {}),
    ]
    assert [type(event) for event in events(ended)] == [ToolCallCompleted, ToolBatchSubmitted]
    assert of(ended, fx.ForgetOutcome) == [fx.ForgetOutcome("c1")]


def test_every_step_of_a_call_is_told() -> None:
    stage = Stage(tools=[tool("a")])
    delta = i.ArgumentsWords(response_id="r1", item_id="item-c1", call_id="c1", delta="{}")
    begun, written = call("r1", "c1", "a")
    stage.play(created(), begun, delta, written, done(), i.ToolBegan(call_id="c1"))
    stage.play(i.ToolSaid(call_id="c1", text="half way"), tool_ok("c1"))

    assert [type(event) for event in events(stage.effects)] == [
        AssistantTurnStarted,
        ToolCallStarted,
        ToolCallArgsDelta,
        AssistantTurnCompleted,
        ToolCallDispatched,
        ToolCallProgress,
        ToolCallCompleted,
        ToolBatchSubmitted,
    ]


def test_outputs_go_in_the_order_of_the_response_and_one_answer_follows() -> None:
    stage = calling("a", "b", "c")

    assert requests(stage.play(tool_ok("c2", "third"), tool_ok("c0", "first"))) == []
    effects = stage.play(tool_failed("c1", message="no luck"))

    assert [one for one, _ in outputs(effects)] == ["c0", "c1", "c2"]
    assert told(effects, "c1") == {"error": "error", "message": "the tool failed: no luck"}
    assert len(of(effects, fx.CreateResponse)) == 1
    assert of(effects, ToolBatchSubmitted) == [
        ToolBatchSubmitted(turn_id="r1", call_ids=["c0", "c1", "c2"])
    ]


def test_calls_are_ordered_by_their_place_in_the_response_not_by_their_arrival() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created(), *call("r1", "late", "a", 1), *call("r1", "early", "a", 0), done())

    effects = stage.play(tool_ok("late"), tool_ok("early"))

    assert [one for one, _ in outputs(effects)] == ["early", "late"]


def test_a_call_that_only_the_end_of_the_response_names_runs_too() -> None:
    stage = Stage(tools=[tool("a")])
    item = call_item("c1", "a", '{"x":1}')

    effects = stage.play(created(), done(output=[item]))

    assert of(effects, fx.Submit)[0].args == {"x": 1}
    assert len(of(effects, ToolCallStarted)) == 1


def test_batches_of_several_responses_run_side_by_side() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"))
    stage.play(created("r2"), *call("r2", "c2", "a"), done("r2"))

    second = stage.play(tool_ok("c2"))
    first = stage.play(tool_ok("c1"))

    assert [batch.turn_id for batch in of([*second, *first], ToolBatchSubmitted)] == ["r2", "r1"]
    assert len(of(second, fx.CreateResponse)) == 1
    assert of(first, fx.CreateResponse) == []  # it waits for the one that is under way
    assert len(stage.state.queue) == 1


# --- what may not run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("cancelled", "client_cancelled"),
        ("incomplete", "max_output_tokens"),
        ("failed", None),
    ],
)
def test_calls_of_an_incomplete_response_end_unrun_and_are_deleted(
    status: i.ResponseStatus, reason: str | None
) -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a", arguments='{"city":"Ber'))

    effects = stage.play(done("r1", status, reason))

    assert of(effects, fx.Submit) == []
    (failed,) = of(effects, ToolCallFailed)
    assert (failed.call_id, failed.reason) == ("c1", "cancelled")
    assert of(effects, fx.DeleteItem) == [fx.DeleteItem("item-c1")]
    assert of(effects, fx.CreateResponse) == []


def test_a_call_whose_item_is_incomplete_is_answered_with_an_error() -> None:
    stage = Stage(tools=[tool("a")])

    effects = stage.play(created(), *call("r1", "c1", "a", status="incomplete"), done())

    assert of(effects, fx.Submit) == []
    assert told(effects, "c1")["message"].endswith("the call was not written to its end")
    assert len(of(effects, fx.CreateResponse)) == 1


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ('{"city":', "not JSON"),
        ("[1]", "must be a JSON object, not an array"),
        ("3", "must be a JSON object, not a number"),
    ],
)
def test_bad_arguments_become_an_output_and_leave_siblings_unharmed(
    arguments: str, wrong: str
) -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "bad", "a", arguments=arguments), *call("r1", "ok", "a", 1))
    stage.play(done())

    effects = stage.play(tool_ok("ok"))

    assert told(effects, "bad")["error"] == "invalid_arguments"
    assert wrong in told(effects, "bad")["message"]
    assert [one for one, _ in outputs(effects)] == ["bad", "ok"]


@pytest.mark.parametrize("arguments", ["", "  ", "{}"])
def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    stage = calling("a", arguments=arguments)

    assert of(stage.effects, fx.Submit)[0].args == {}


def test_an_unknown_tool_is_answered_with_what_there_is() -> None:
    stage = Stage(tools=[tool("weather"), tool("clock")])

    effects = stage.play(created(), *call("r1", "c1", "wether"), done())

    assert "there are: clock, weather" in told(effects, "c1")["message"]
    assert len(of(effects, fx.CreateResponse)) == 1


def test_without_tools_the_model_is_told_that_there_are_none() -> None:
    stage = Stage()

    effects = stage.play(created(), *call("r1", "c1", "clock"), done())

    assert "there are: none" in told(effects, "c1")["message"]


def test_a_call_of_a_response_that_was_given_up_is_nobodys_and_does_not_dangle() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created())
    stage.command("interrupt")
    stage.wait(6)

    effects = stage.play(*call("r1", "c1", "a"), done())

    assert events(effects) == []
    assert of(effects, fx.DeleteItem) == [fx.DeleteItem("item-c1")]


# --- how they end -----------------------------------------------------------------------------


def test_the_first_outcome_stands_and_a_late_result_is_an_event() -> None:
    stage = calling("a")
    stage.play(tool_failed("c0", "timeout"))

    late = stage.play(tool_ok("c0", "at last"), tool_failed("c0"))

    assert of(late, ToolCallLateResult) == [
        ToolCallLateResult(call_id="c0", name="a", result="at last")
    ]
    assert outputs(late) == []
    assert of(late, fx.ForgetOutcome) == [fx.ForgetOutcome("c0"), fx.ForgetOutcome("c0")]


def test_an_outcome_that_is_repeated_is_no_late_result() -> None:
    stage = calling("a", "b")
    stage.play(tool_ok("c0", "paid"), tool_failed("c1", "unknown"))

    again = stage.play(tool_ok("c0", "paid"), tool_failed("c1", "unknown"))
    late = stage.play(tool_ok("c1", "at last"), tool_ok("c1", "at last"))

    assert again == [fx.ForgetOutcome("c0"), fx.ForgetOutcome("c1")]
    assert len(of(late, ToolCallLateResult)) == 1
    assert len(of(late, fx.AddContext)) == 1


@pytest.mark.parametrize(
    ("ended", "word"),
    [
        (tool_ok("c0", "paid"), "(ok): paid"),
        (tool_failed("c0", "error", "no such card"), "(error): {"),
        (tool_failed("c0", "cancelled"), "(cancelled): {"),
    ],
)
def test_of_a_tool_with_effects_the_next_turn_is_told_what_happened(
    ended: i.ToolEnded, word: str
) -> None:
    stage = calling(
        "pay", "look", stage=Stage(LONG, tools=[tool("pay"), tool("look", effects="none")])
    )
    stage.play(tool_failed("c0", "unknown"), tool_failed("c1", "lost"))

    late = stage.play(ended, msgspec.structs.replace(ended, call_id="c1"))

    (context,) = of(late, fx.AddContext)
    assert "The tool pay, asked for with {}, counted as unknown." in context.text
    assert word in context.text
    assert of(late, fx.CreateResponse) == []
    assert of(late, fx.AddOutput) == []


def test_the_outcome_of_a_call_that_nobody_was_asked_to_run_is_only_forgotten() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"))

    assert stage.play(tool_ok("c1")) == [fx.ForgetOutcome("c1")]
    assert len(of(stage.play(done()), fx.Submit)) == 1


def test_the_outcome_of_an_unknown_call_is_only_forgotten() -> None:
    assert Stage().play(tool_ok("nobody's")) == [fx.ForgetOutcome("nobody's")]


def test_a_crash_tells_the_developer_more_than_the_model() -> None:
    stage = calling("a")
    failure = Failure(message="died", exit_code=-11, signal="SIGSEGV", stderr_tail="boom")

    effects = stage.play(i.ToolEnded(call_id="c0", status="crashed", failure=failure))

    (failed,) = of(effects, ToolCallFailed)
    assert (failed.signal, failed.exit_code, failed.stderr_tail) == ("SIGSEGV", -11, "boom")
    assert told(effects, "c0") == {"error": "crashed", "message": "the tool's process crashed"}


def test_a_failure_without_words_gets_some() -> None:
    stage = calling("a")

    (failed,) = of(stage.play(i.ToolEnded(call_id="c0", status="busy")), ToolCallFailed)

    assert "busy" in failed.error


def test_progress_of_an_ended_call_is_nobodys() -> None:
    stage = calling("a")
    stage.play(tool_ok("c0"))

    assert stage.play(i.ToolSaid(call_id="c0", text="still here")) == []


@pytest.mark.parametrize(("effects", "expected"), [("once", "unknown"), ("none", "lost")])
def test_a_silent_pool_is_given_up_by_what_the_tool_may_have_done(
    effects: str, expected: str
) -> None:
    slow = tool("a", timeout_s=2, grace_s=10, effects=effects)
    stage = calling("a", stage=Stage(LONG, tools=[slow]))
    assert of(stage.wait(15.9), ToolCallFailed) == []

    (failed,) = of(stage.wait(0.2), ToolCallFailed)

    assert failed.reason == expected


def test_a_tool_that_cleans_up_within_its_grace_is_not_given_up() -> None:
    config = SessionConfig(on_interrupt="submit", turn_detection="none", lease_s=1000)
    stage = calling("a", stage=Stage(config, tools=[tool("a", timeout_s=30, grace_s=10)]))
    stage.command("interrupt")

    early = stage.wait(9)
    (failed,) = of(stage.play(tool_failed("c0", "cancelled")), ToolCallFailed)

    assert of(early, ToolCallFailed) == []
    assert failed.reason == "cancelled"


def test_calls_are_given_up_each_at_its_own_time() -> None:
    stage = Stage(LONG, tools=[tool("short", timeout_s=1), tool("long", timeout_s=30)])
    calling("short", "long", stage=stage)

    assert [failed.call_id for failed in of(stage.wait(6), ToolCallFailed)] == ["c0"]
    assert [failed.call_id for failed in of(stage.wait(30), ToolCallFailed)] == ["c1"]


def test_the_sessions_own_limit_shortens_a_tools_time() -> None:
    config = SessionConfig(tool_timeout_s=1.5)

    stage = calling("a", stage=Stage(config, tools=[tool("a", timeout_s=20)]))

    assert of(stage.effects, fx.Submit)[0].budget_ms == 1500


def test_a_cancelled_call_without_effects_ends_as_cancelled_when_the_pool_is_silent() -> None:
    config = SessionConfig(on_interrupt="submit", lease_s=1000)
    stage = calling("a", stage=Stage(config, tools=[tool("a", effects="none")]))
    stage.play(speech_started())

    (failed,) = of(stage.wait(5.4), ToolCallFailed)

    assert failed.reason == "cancelled"


# --- rounds and choices -----------------------------------------------------------------------


def round_of(stage: Stage, number: int) -> fx.CreateResponse:
    """One more tool round; returns the create that follows it."""
    r, c = f"r{number}", f"c{number}"
    stage.play(created(r, stage.last_tag if number else None), *call(r, c, "a"), done(r))
    return of(stage.play(tool_ok(c)), fx.CreateResponse)[0]


def test_rounds_per_user_turn_are_limited_by_a_follow_up_without_tools() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])

    choices = [round_of(stage, number).tool_choice for number in range(calls.ROUND_LIMIT + 1)]

    assert choices == [None] * (calls.ROUND_LIMIT - 1) + ["none", "none"]


def test_a_new_user_turn_begins_a_new_count() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    round_of(stage, 0)
    assert stage.state.rounds == 1

    stage.play(i.InputCommitted(item_id="u1"))

    assert stage.state.rounds == 0


@pytest.mark.parametrize(
    "forced",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"name": "a"}},
        {"provider_extras": {"tool_choice": "required"}},
    ],
)
def test_the_follow_up_of_a_forced_choice_is_free(forced: dict[str, Any]) -> None:
    config = SessionConfig(turn_detection="none", **forced)
    stage = Stage(config, tools=[tool("a")])

    assert round_of(stage, 0).tool_choice == "auto"


def test_a_stricter_choice_wins_when_automatic_creates_coalesce() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"))
    stage.play(created("r2"), *call("r2", "c2", "a"), done("r2"), created("r3"))
    stage.play(tool_ok("c1"))
    stage.state.rounds = calls.ROUND_LIMIT

    stage.play(tool_ok("c2"))

    assert [create.tool_choice for create in stage.state.queue] == ["none"]


# --- the client's own tools -------------------------------------------------------------------

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def clients(stage_config: SessionConfig = LONG, arguments: str = '{"city":"Berlin"}') -> Stage:
    stage = Stage(stage_config, tools=[tool("mine", parameters=CITY)], client_tools=["mine"])
    stage.play(created(), *call("r1", "c1", "mine", arguments=arguments), done())
    return stage


def test_a_clients_tool_is_an_event_and_no_work_for_the_pool() -> None:
    stage = clients()

    (asked,) = of(stage.effects, ToolCallDispatched)
    assert (asked.by, asked.args, asked.timeout_ms) == ("client", {"city": "Berlin"}, 20_000)
    assert of(stage.effects, fx.Submit) == []


def test_the_clients_output_is_the_models() -> None:
    stage = clients()

    effects = stage.command("submit_tool_output", call_id="c1", result=[1, 2])

    assert outputs(effects) == [("c1", "[1,2]")]
    assert replies(effects) == {"submit_tool_output-1": "ok"}


def test_the_clients_error_is_the_models_too() -> None:
    stage = clients()

    effects = stage.command("submit_tool_output", call_id="c1", error="no network")

    assert told(effects, "c1")["message"] == "the tool failed: no network"


@pytest.mark.parametrize("call_id", ["c1", "nobody's"])
def test_an_output_nobody_waits_for_is_a_conflict(call_id: str) -> None:
    stage = clients()
    stage.command("submit_tool_output", call_id="c1", result=1)

    effects = stage.command("submit_tool_output", call_id=call_id, result=2)

    assert replies(effects) == {"submit_tool_output-2": "conflict"}
    assert requests(effects) == []


def test_a_client_that_does_not_answer_in_time_times_out() -> None:
    stage = clients()
    assert of(stage.wait(19.9), ToolCallFailed) == []

    (failed,) = of(stage.wait(0.2), ToolCallFailed)

    assert failed.reason == "timeout"


def test_arguments_against_a_clients_schema_are_refused_before_it_hears_of_them() -> None:
    stage = clients(arguments='{"town":"Berlin"}')

    assert of(stage.effects, ToolCallDispatched) == []
    assert told(stage.effects, "c1")["message"].endswith("the arguments lack city")


def test_an_interrupt_tells_the_client_by_event_only() -> None:
    config = SessionConfig(lease_s=10_000)
    stage = Stage(config, tools=[tool("mine")], client_tools=["mine"])
    stage.play(created(), *call("r1", "c1", "mine"), done())

    effects = stage.play(speech_started())

    assert of(effects, fx.CancelCalls) == []
    assert of(effects, fx.Broadcast) == [fx.Broadcast("interrupt", 1, ("c1",), "barge_in")]


# --- approvals --------------------------------------------------------------------------------


def asking(config: SessionConfig = LONG, **fields: object) -> Stage:
    stage = Stage(config, tools=[tool("pay", approval=True, **fields)])
    stage.play(created(), *call("r1", "c1", "pay", arguments='{"eur":5}'), done())
    return stage


def test_a_tool_that_needs_approval_waits_for_it() -> None:
    stage = asking()

    assert of(stage.effects, ApprovalRequested) == [
        ApprovalRequested(call_id="c1", name="pay", args={"eur": 5}, timeout_ms=60_000)
    ]
    assert of(stage.effects, fx.Submit) == []

    effects = stage.command("approve", call_id="c1", approve=True)
    assert of(effects, fx.Submit)[0].args == {"eur": 5}
    assert replies(effects) == {"approve-1": "ok"}


def test_a_denied_call_is_told_to_the_model() -> None:
    stage = asking()

    effects = stage.command("approve", call_id="c1", approve=False, reason="too dear")

    assert told(effects, "c1")["message"] == "the call was not allowed: not run: too dear"


@pytest.mark.parametrize(
    ("config", "limit_s"),
    [(LONG, 60.0), (SessionConfig(turn_detection="none", approval_timeout_s=2.5), 2.5)],
)
def test_nobody_deciding_in_the_sessions_time_is_a_denial(
    config: SessionConfig, limit_s: float
) -> None:
    stage = asking(config)

    assert of(stage.wait(limit_s - 0.1), ToolCallFailed) == []
    effects = stage.wait(0.2)

    (failed,) = of(effects, ToolCallFailed)
    assert (failed.reason, failed.error) == ("denied", "nobody approved it in time")
    assert of(effects, fx.Submit) == []
    assert told(effects, "c1")["error"] == "denied"


def test_an_approval_nobody_waits_for_is_a_conflict() -> None:
    stage = asking()
    stage.command("approve", call_id="c1", approve=True)

    assert replies(stage.command("approve", call_id="c1", approve=True)) == {
        "approve-2": "conflict"
    }


def test_an_interrupt_withdraws_what_waits_for_approval() -> None:
    stage = asking()

    effects = stage.command("interrupt")

    assert [failed.reason for failed in of(effects, ToolCallFailed)] == ["cancelled"]
    assert of(effects, fx.DeleteItem) == [fx.DeleteItem("item-c1")]
    assert of(effects, fx.CancelCalls) == []


# --- the provider refuses ---------------------------------------------------------------------


def test_a_promise_that_the_provider_refuses_is_kept_by_telling_how_the_call_ended() -> None:
    stage = Stage(tools=[tool("search", on_interrupt="detach")])
    stage.play(created(), *call("r1", "c1", "search"), done())
    promised = stage.command("interrupt")
    (ask,) = of(promised, fx.Ask)
    assert isinstance(ask.request, fx.AddOutput)

    early = stage.play(refused("invalid_tool_call_id", ask.event_id))
    told = stage.play(tool_ok("c1", 21))

    assert requests(early) == []
    (context,) = of(told, fx.AddContext)
    assert "21" in context.text


def test_an_output_the_provider_cannot_place_is_told_as_context() -> None:
    stage = calling("a", arguments='{"x":1}')
    effects = stage.play(tool_ok("c0", "42"))
    event_id = next(e.event_id for e in effects if isinstance(e, fx.Ask))

    again = stage.play(refused("invalid_tool_call_id", event_id))

    (context,) = of(again, fx.AddContext)
    assert "a" in context.text
    assert "42" in context.text
    assert events(again) == []


def test_a_provider_that_cannot_delete_is_told_that_the_call_was_withdrawn() -> None:
    stage = Stage(tools=[tool("a")], capabilities=Capabilities(delete=False))
    stage.play(created(), *call("r1", "c1", "a"))

    effects = stage.play(done("r1", "incomplete", "max_output_tokens"))

    assert told(effects, "c1")["error"] == "cancelled"


# --- the end ----------------------------------------------------------------------------------


def test_closing_stops_every_call_and_gives_each_its_outcome() -> None:
    tools = [tool("a"), tool("mine"), tool("pay", approval=True)]
    stage = Stage(tools=tools, client_tools=["mine"])
    stage.play(created("r1"), *call("r1", "c1", "a"), *call("r1", "c2", "mine", 1))
    stage.play(*call("r1", "c3", "pay", 2), done("r1"))
    stage.play(created("r2"), call("r2", "c4", "a")[0])

    effects = stage.command("close")

    assert of(effects, fx.Broadcast) == [fx.Broadcast("close", 0, ("c1",), "session closed")]
    assert sorted(failed.call_id for failed in of(effects, ToolCallFailed)) == [
        "c1",
        "c2",
        "c3",
        "c4",
    ]
    assert requests(effects) == []
    assert stage.play(tool_ok("c1")) == [fx.ForgetOutcome("c1")]


def test_ended_calls_are_forgotten_after_a_while() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    for number in range(calls.KEPT + 20):
        r, c = f"r{number}", f"c{number}"
        stage.play(created(r), *call(r, c, "a"), done(r), tool_ok(c))

    assert len(stage.state.calls) <= calls.KEPT + 1
    assert len(stage.state.batches) <= 1


def test_an_item_that_is_no_call_is_no_call() -> None:
    stage = Stage()
    item = i.Item(item_id="x", type="mcp_call", name="web")

    effects = stage.play(created(), i.OutputItemDone(response_id="r1", output_index=0, item=item))

    assert of(effects, ToolCallStarted) == []


# --- interrupted ------------------------------------------------------------------------------


def test_calls_of_a_response_that_was_interrupted_as_it_was_finished_never_run() -> None:
    stage = Stage(MANUAL, tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"))
    stage.command("interrupt")

    effects = stage.play(done())

    assert of(effects, fx.Submit) == []
    (failed,) = of(effects, ToolCallFailed)
    assert (failed.reason, failed.error) == ("cancelled", "interrupted before it ran")
    assert of(effects, fx.DeleteItem) == [fx.DeleteItem("item-c1")]
    assert stage.state.batches == {}


def test_a_detached_tool_is_promised_at_the_interrupt_and_told_and_answered_at_its_end() -> None:
    stage = Stage(LONG, tools=[tool("a", on_interrupt="detach"), tool("b")])
    calling("a", "b", stage=stage)

    effects = stage.command("interrupt")

    assert told(effects, "c0")["status"] == "running"
    assert of(effects, fx.DeleteItem) == [fx.DeleteItem("item-c1")]
    assert of(effects, fx.CreateResponse) == []

    effects = stage.play(tool_ok("c0", "42"))

    (context,) = of(effects, fx.AddContext)
    assert "has ended (ok): 42" in context.text
    assert len(of(effects, fx.CreateResponse)) == 1


def test_a_tool_that_may_not_be_stopped_is_enough_to_interrupt() -> None:
    stage = calling("a", stage=Stage(LONG, tools=[tool("a", on_interrupt="finish")]))

    effects = stage.command("interrupt")

    assert of(effects, fx.Broadcast) == []
    assert of(effects, fx.CancelCalls) == []
    assert of(effects, fx.DeleteItem) == [fx.DeleteItem("item-c0")]


def test_only_what_was_completed_before_the_interrupt_is_submitted() -> None:
    config = SessionConfig(turn_detection="none", on_interrupt="submit-completed-only")
    stage = Stage(config, tools=[tool("a"), tool("b")])
    calling("a", "b", stage=stage)
    stage.play(tool_ok("c0", "42"))

    effects = stage.command("interrupt")

    assert outputs(effects) == [("c0", "42")]
    assert of(effects, fx.DeleteItem) == [fx.DeleteItem("item-c1")]
    assert of(effects, ToolBatchSubmitted) == [ToolBatchSubmitted(turn_id="r1", call_ids=["c0"])]
    assert len(of(effects, fx.CreateResponse)) == 1


def test_what_a_tool_with_effects_has_done_is_told_though_its_call_is_deleted() -> None:
    stage = Stage(LONG, tools=[tool("pay"), tool("look", effects="none"), tool("b")])
    calling("pay", "look", "b", stage=stage)
    stage.play(tool_ok("c0", "paid"), tool_ok("c1", "seen"))

    effects = stage.command("interrupt")

    assert len(of(effects, fx.DeleteItem)) == 3
    (context,) = of(effects, fx.AddContext)
    assert "pay" in context.text
    assert "paid" in context.text


def test_a_call_of_a_former_connection_is_told_as_context_and_answered_once() -> None:
    stage = calling("a")
    stage.play(i.ProviderDisconnected(generation=1, code=1006))
    stage.wait(0.2)
    stage.play(
        i.ProviderConnected(generation=2),
        i.ProviderSessionCreated(),
        i.ProviderSessionUpdated(session={}),
    )

    effects = stage.play(tool_ok("c0", "42"))

    assert outputs(effects) == []
    (context,) = of(effects, fx.AddContext)
    assert "42" in context.text
    assert len(of(effects, fx.CreateResponse)) == 1


def test_only_what_we_gave_of_a_call_is_its_output() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"), *call("r1", "c2", "a", 1), done())
    stage.play(tool_ok("c1"))
    d = Draft(stage.state, stage.now_us)
    kind = "function_call_output"

    assert not calls.of_output(d, i.Item(item_id="o", type=kind, call_id="c1")), "not yet given"
    stage.play(tool_ok("c2"))
    d = Draft(stage.state, stage.now_us)
    assert calls.of_output(d, i.Item(item_id="o", type=kind, call_id="c1")) == d.s.calls["c1"]
    assert not calls.of_output(d, i.Item(item_id="o", type=kind, call_id="foreign"))
    assert not calls.of_output(d, i.Item(item_id="o", type=kind))
    assert not calls.of_output(d, i.Item(item_id="m", type="message"))


RUNS = Capabilities(runs_tools=True)


def test_a_call_to_a_tool_that_the_provider_runs_is_nobodys_to_answer() -> None:
    stage = Stage(tools=[tool("web_search")], capabilities=RUNS)

    effects = stage.play(
        created(),
        *call("r1", "theirs", "x_search"),
        i.ArgumentsWords(response_id="r1", item_id="item-theirs", call_id="theirs", delta="{"),
        done(output=[call_item("theirs", "x_search")]),
    )

    assert kinds(effects) == ["assistant_turn_started", "assistant_turn_completed"]
    assert requests(effects) == []


def test_a_tool_of_ours_may_have_the_name_of_one_of_the_providers() -> None:
    stage = Stage(tools=[tool("web_search")], capabilities=RUNS)

    effects = stage.play(created(), *call("r1", "c1", "web_search"), done())

    assert [one.tool for one in of(effects, fx.Submit)] == ["web_search"]


def test_a_call_of_the_providers_in_a_response_that_was_given_up_is_left_alone() -> None:
    stage = Stage(capabilities=RUNS)
    stage.play(created(), done())

    assert requests(stage.play(*call("r1", "theirs", "x_search"))) == []


def apart(policy: OnInterrupt = "drop") -> Stage:
    """A response out of band with a call, c0, beside an answer that is heard."""
    config = SessionConfig(turn_detection="none", on_interrupt=policy, lease_s=10_000)
    stage = Stage(config, tools=[tool("a")])
    stage.command("create_response", overrides={"conversation": "none"})
    stage.play(created("x", stage.last_tag, out_of_band=True), *call("x", "c0", "a"))
    return stage


def test_a_call_out_of_band_has_an_outcome_and_disturbs_no_conversation() -> None:
    stage = apart()
    started = stage.play(done("x"))

    ended = stage.play(tool_ok("c0", 42))

    assert [one.background for one in of(started, fx.Submit)] == [True]
    assert kinds(ended) == ["tool_call_completed", "tool_batch_submitted"]
    assert of(ended, ToolBatchSubmitted) == [ToolBatchSubmitted(turn_id="x", call_ids=[])]
    assert requests(ended) == []


@pytest.mark.parametrize("policy", ["drop", "submit", "submit-completed-only"])
def test_an_interruption_leaves_a_call_out_of_band_running(policy: OnInterrupt) -> None:
    stage = apart(policy)
    stage.play(done("x"))

    effects = stage.command("interrupt")

    assert kinds(effects) == []
    assert kinds(stage.play(tool_ok("c0"))) == ["tool_call_completed", "tool_batch_submitted"]


def test_of_a_call_out_of_band_that_never_runs_nothing_is_deleted() -> None:
    stage = apart()
    cut_short = stage.play(done("x", "incomplete", "max_output_tokens"))
    late = stage.play(*call("x", "c1", "a"))

    assert kinds(cut_short) == ["assistant_turn_completed", "tool_call_failed"]
    assert requests(cut_short) == requests(late) == []


@pytest.mark.parametrize("policy", ["drop", "submit", "submit-completed-only"])
def test_calls_of_an_interrupted_response_out_of_band_never_run_and_are_nobodys(
    policy: OnInterrupt,
) -> None:
    stage = apart(policy)
    stage.play(*message("x", "m"), sound("x", "m"))
    stage.command("interrupt")
    before = len(stage.effects)

    stage.play(done("x"))

    assert of(stage.effects, fx.Submit) == []
    assert requests(stage.effects[before:]) == []


def test_a_late_word_on_a_call_out_of_band_is_an_event_and_nothing_more() -> None:
    stage = apart()
    stage.play(done("x"), tool_failed("c0", "unknown"))

    assert kinds(stage.play(tool_ok("c0"))) == ["tool_call_late_result"]
    assert of(stage.effects, fx.AddContext) == []
