"""The dispatcher's decisions, by plain values."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from voicebus.bus.messages import work
from voicebus.services.tools.dispatch import core
from voicebus.services.tools.dispatch.effects import (
    Effect,
    Note,
    RememberWorkers,
    TellSession,
    TellWorker,
)
from voicebus.services.tools.dispatch.events import (
    Drained,
    Event,
    SessionSaid,
    Ticked,
    WorkerSaid,
    WorkerUnreachable,
)
from voicebus.services.tools.dispatch.state import Limits, State, fresh

SESSION = "s0-" + "0" * 26


def spec(name: str, **changes: Any) -> work.ToolSpec:
    return work.ToolSpec(name=name, parameters={"type": "object"}, **changes)


TOOLS = [
    spec("read", effects="none"),
    spec("keyed", effects="idempotent"),
    spec("pay", effects="once"),
    spec("single", effects="none", concurrency=1),
]


class Pool:
    """A dispatcher under test: time, what it was told, what it said."""

    def __init__(
        self, *, settled: bool = True, predecessors: tuple[str, ...] = (), **limits: Any
    ) -> None:
        self.at = 100.0
        self.state: State = fresh("d1", self.at, Limits(**limits), predecessors)
        self.said: list[Effect] = []
        if settled:
            self.wait(1.6)

    def feed(self, event: Event) -> list[Effect]:
        self.state, effects = core.step(self.state, event)
        self.said += effects
        return effects

    def wait(self, seconds: float, alive: tuple[str, ...] = ()) -> list[Effect]:
        """Time passes, with the heartbeats of the workers that are named."""
        effects: list[Effect] = []
        ends_at = self.at + seconds
        while self.at < ends_at:
            due = core.deadline(self.state)
            self.at = min(ends_at, self.at + 0.25, due if due and due > self.at else ends_at)
            for peer in alive:
                effects += self.worker(peer, work.Heartbeat())
            effects += self.feed(Ticked(self.at))
        return effects

    def worker(self, peer: str, message: Any) -> list[Effect]:
        return self.feed(WorkerSaid(self.at, peer, message))

    def session(self, message: Any, peer: str = "session") -> list[Effect]:
        return self.feed(SessionSaid(self.at, peer, message))

    def join(self, peer: str = "w1", *, free: int = 2, **hello: Any) -> list[Effect]:
        fields: dict[str, Any] = {"name": peer, "inc": "i1", "pid": 1, "capacity": free}
        effects = self.worker(peer, work.WorkerHello(**{**fields, "tools": TOOLS, **hello}))
        return effects + self.worker(peer, work.Credit(free=free, received=0))

    def submit(self, call_id: str, tool: str = "read", **fields: Any) -> list[Effect]:
        message: dict[str, Any] = {"session_id": SESSION, "epoch": 0, "budget_ms": 10_000}
        message |= {"call_id": call_id, "tool": tool, "args": {}}
        return self.session(work.SubmitCall(**(message | fields)))

    def result(self, call_id: str, peer: str = "w1", status: str = "ok", **fields: Any) -> Any:
        result = work.Result(
            session_id=SESSION,
            call_id=call_id,
            status=status,  # type: ignore[arg-type]
            **fields,
        )
        return self.worker(peer, result)

    def started(self, call_id: str, peer: str = "w1") -> list[Effect]:
        return self.worker(peer, work.Started(session_id=SESSION, call_id=call_id))

    def ack(self, call_id: str) -> list[Effect]:
        return self.session(work.OutcomeAck(session_id=SESSION, call_id=call_id))

    def cancel(self, call_id: str) -> list[Effect]:
        return self.session(
            work.CancelCalls(session_id=SESSION, call_ids=[call_id], epoch=1, reason="interrupt")
        )

    def given(self) -> list[str]:
        """The calls that workers were given, in order."""
        return [
            one.message.call_id
            for one in self.said
            if isinstance(one, TellWorker) and isinstance(one.message, work.Call)
        ]

    def outcome(self, call_id: str) -> str:
        """The one status this call was told to have ended with."""
        statuses = {
            one.message.status
            for one in self.said
            if isinstance(one, TellSession)
            and isinstance(one.message, work.Outcome)
            and one.message.call_id == call_id
            and not one.message.late
        }
        assert len(statuses) <= 1, f"more than one outcome: {statuses}"
        return next(iter(statuses), "")


def calls(effects: list[Effect]) -> list[tuple[str, str]]:
    """(worker, call_id) of each call handed out."""
    return [
        (one.peer, one.message.call_id)
        for one in effects
        if isinstance(one, TellWorker) and isinstance(one.message, work.Call)
    ]


def to_worker(effects: list[Effect], kind: type[Any]) -> list[Any]:
    return [
        one.message
        for one in effects
        if isinstance(one, TellWorker) and isinstance(one.message, kind)
    ]


def to_session(effects: list[Effect], kind: type[Any]) -> list[Any]:
    return [
        one.message
        for one in effects
        if isinstance(one, TellSession) and isinstance(one.message, kind)
    ]


def test_a_call_goes_to_a_worker_and_its_result_to_the_session() -> None:
    pool = Pool()
    pool.join()

    handed = calls(pool.submit("c1"))
    begun = to_session(pool.started("c1"), work.CallStarted)
    ended = to_session(pool.result("c1", result={"t": 21}), work.Outcome)

    assert handed == [("w1", "c1")]
    assert [one.worker for one in begun] == ["w1"]
    assert [(one.status, one.result) for one in ended] == [("ok", {"t": 21})]


def test_a_worker_may_forget_a_result_only_when_the_session_has_it() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1")

    before = to_worker(pool.result("c1"), work.Acked)
    after = to_worker(pool.ack("c1"), work.Acked)

    assert before == []
    assert [one.call_id for one in after] == ["c1"]


def test_an_outcome_is_repeated_until_the_session_acknowledges_it() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1")
    pool.result("c1")

    repeated = to_session(pool.wait(4, ("w1",)), work.Outcome)
    pool.ack("c1")
    after = to_session(pool.wait(40, ("w1",)), work.Outcome)

    assert len(repeated) == 2
    assert after == []


def test_submitting_twice_attaches_to_the_running_call_and_then_repeats_the_outcome() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1")
    pool.started("c1")

    again = pool.submit("c1", resubmit=True)
    pool.result("c1", result=1)
    once_more = pool.submit("c1", resubmit=True)

    assert calls(again) == []
    assert len(to_session(again, work.CallStarted)) == 1
    assert calls(once_more) == []
    assert [one.result for one in to_session(once_more, work.Outcome)] == [1]


def test_calls_go_to_the_least_loaded_worker_and_then_to_the_one_that_rested_longest() -> None:
    pool = Pool(running_per_session=10)
    pool.join("w1", free=3)
    pool.join("w2", free=3)

    handed = []
    for number in range(4):
        handed += calls(pool.submit(f"c{number}"))
        pool.at += 0.01

    assert [peer for peer, _ in handed] == ["w1", "w2", "w1", "w2"]


def test_no_worker_gets_more_than_its_credit_and_the_rest_waits() -> None:
    pool = Pool()
    pool.join(free=2)

    handed = [one for number in range(4) for one in calls(pool.submit(f"c{number}"))]
    freed = pool.result("c0") + pool.worker("w1", work.Credit(free=1, received=2))

    assert handed == [("w1", "c0"), ("w1", "c1")]
    assert calls(freed) == [("w1", "c2")]


def test_credit_that_was_given_before_a_call_arrived_does_not_count_it_as_free() -> None:
    pool = Pool()
    pool.join(free=2)
    pool.submit("c0")

    pool.worker("w1", work.Credit(free=2, received=0))
    handed = calls(pool.submit("c1")) + calls(pool.submit("c2"))

    assert handed == [("w1", "c1")]


def test_a_result_may_carry_the_credit_that_would_follow_it() -> None:
    pool = Pool()
    (welcome,) = to_worker(pool.join(free=1), work.PoolWelcome)
    pool.submit("c0")
    pool.submit("c1")

    freed = pool.result("c0", free=1, received=1)

    assert welcome.credit_in_results
    assert [call.call_id for call in to_worker(freed, work.Call)] == ["c1"]


def test_a_call_is_not_forgotten_over_the_ordinary_messages_of_others() -> None:
    pool = Pool()
    pool.join(free=1)
    pool.submit("c0")
    pool.submit("waits", budget_ms=600)

    for number in range(5):
        pool.at += 0.1
        pool.worker("w1", work.Progress(session_id=SESSION, call_id="c0", text=str(number)))
        pool.worker("w1", work.Heartbeat())
        assert core.deadline(pool.state) is not None
    pool.at += 0.11
    effects = pool.worker("w1", work.Heartbeat())

    assert [one.status for one in to_session(effects, work.Outcome)] == ["timeout"]


def test_a_call_somebody_waits_for_comes_before_background_ones() -> None:
    pool = Pool()
    pool.join(free=1)
    pool.submit("c0")
    pool.submit("slow", background=True)
    pool.submit("turn")

    freed = pool.result("c0") + pool.worker("w1", work.Credit(free=1, received=1))

    assert calls(freed) == [("w1", "turn")]


def test_two_workers_under_one_name_are_both_kept_once_both_are_known_to_live() -> None:
    pool = Pool()
    pool.join("w1", name="short", inc="a", free=1)
    pool.join("w2", name="short", inc="b", free=1)

    back = pool.join("w1", name="short", inc="a", free=1)
    again = pool.join("w2", name="short", inc="b", free=1)
    given = calls(pool.submit("c1", "pay") + pool.submit("c2", "pay"))

    assert "worker.name_shared" in [one.what for one in back if isinstance(one, Note)]
    assert [one for one in [*back, *again] if isinstance(one, Note) and "lost" in one.what] == []
    assert sorted(peer for peer, _ in given) == ["w1", "w2"]


def test_progress_is_told_no_more_often_than_anyone_can_read() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1")
    told: list[str] = []
    for number in range(3000):
        pool.at += 0.001
        said = work.Progress(session_id=SESSION, call_id="c1", text=f"{number} " + "x" * 9999)
        told += [one.text for one in to_session(pool.worker("w1", said), work.CallProgress)]

    assert len(told) == 3 * 40
    assert told[0].startswith("0 ")
    assert {len(text) for text in told} == {500}


def test_a_waiting_call_becomes_background_when_its_session_says_so() -> None:
    pool = Pool()
    pool.join(free=1)
    pool.submit("c0")
    pool.submit("detached", tool="pay")
    pool.submit("turn")

    pool.submit("detached", tool="pay", background=True, resubmit=True)
    first = pool.result("c0") + pool.worker("w1", work.Credit(free=1, received=1))
    then = pool.result("turn") + pool.worker("w1", work.Credit(free=1, received=2))

    assert calls(first) == [("w1", "turn")]
    assert calls(then) == [("w1", "detached")]


def test_background_calls_leave_one_place_for_a_caller_who_waits() -> None:
    pool = Pool()
    pool.join(free=2)

    background = calls(pool.submit("b1", background=True)) + calls(
        pool.submit("b2", background=True)
    )
    turn = calls(pool.submit("t1"))

    assert background == [("w1", "b1")]
    assert turn == [("w1", "t1")]


def test_a_tool_runs_no_more_often_at_a_time_than_it_allows() -> None:
    pool = Pool()
    pool.join(free=4)

    handed = calls(pool.submit("c1", "single")) + calls(pool.submit("c2", "single"))
    other = calls(pool.submit("c3"))

    assert handed == [("w1", "c1")]
    assert other == [("w1", "c3")]


def test_a_conversation_with_too_many_calls_is_told_busy_with_the_limits() -> None:
    pool = Pool(running_per_session=1, queued_per_session=1)
    pool.join(free=4)
    pool.submit("c1")
    pool.submit("c2")

    refused = to_session(pool.submit("c3"), work.Outcome)

    assert [one.status for one in refused] == ["busy"]
    assert "limits are 1 and 1" in refused[0].failure.message


def test_a_full_queue_is_busy_for_everybody() -> None:
    pool = Pool(queued=1)
    pool.join(free=0, capacity=1)
    pool.submit("c1")

    pool.submit("c2")

    assert pool.outcome("c2") == "busy"


def test_an_unknown_tool_is_named_together_with_the_known_ones() -> None:
    pool = Pool()
    pool.join()

    refused = to_session(pool.submit("c1", "reed"), work.Outcome)

    assert refused[0].status == "unknown_tool"
    assert "reed" in refused[0].failure.message
    assert "read" in refused[0].failure.message


def test_a_call_that_finds_no_runner_in_time_times_out_without_having_run() -> None:
    pool = Pool()
    pool.join(free=0, capacity=1)
    pool.submit("c1", budget_ms=2000)

    pool.wait(2.1, ("w1",))

    assert pool.outcome("c1") == "timeout"
    assert calls(pool.said) == []


def test_a_call_its_worker_never_answers_for_times_out_after_deadline_and_grace() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1", budget_ms=1000)

    pool.wait(3.9, ("w1",))
    before = pool.outcome("c1")
    effects = pool.wait(0.6, ("w1",))

    assert before == ""
    assert pool.outcome("c1") == "timeout"
    assert [one.reason for one in to_worker(effects, work.CancelCall)] == ["timeout"]


def test_cancelling_a_waiting_call_ends_it_at_once() -> None:
    pool = Pool()
    pool.join(free=0, capacity=1)
    pool.submit("c1")

    pool.cancel("c1")

    assert pool.outcome("c1") == "cancelled"


def test_cancelling_a_running_call_tells_its_worker_and_waits_for_its_word() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1")

    told = to_worker(pool.cancel("c1"), work.CancelCall)
    before = pool.outcome("c1")
    pool.result("c1", status="cancelled")

    assert [one.call_id for one in told] == ["c1"]
    assert before == ""
    assert pool.outcome("c1") == "cancelled"


def test_a_cancel_that_comes_before_its_call_still_counts() -> None:
    pool = Pool()
    pool.join()
    pool.cancel("c1")

    handed = calls(pool.submit("c1"))

    assert handed == []
    assert pool.outcome("c1") == "cancelled"


def test_a_result_that_overtakes_the_cancel_stands() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1")
    pool.result("c1")

    pool.cancel("c1")

    assert pool.outcome("c1") == "ok"


@pytest.mark.parametrize(
    ("tool", "started", "outcome"),
    [
        ("read", False, ""),
        ("read", True, ""),
        ("keyed", False, ""),
        ("keyed", True, ""),
        ("pay", False, "unknown"),
        ("pay", True, "unknown"),
    ],
)
def test_a_lost_worker_means_again_or_unknown_by_what_the_tool_does(
    tool: str, started: bool, outcome: str
) -> None:
    pool = Pool()
    pool.join("w1", free=1)
    pool.submit("c1", tool)
    if started:
        pool.started("c1")
    pool.join("w2", free=1)

    effects = pool.wait(1.6, ("w2",))

    assert pool.outcome("c1") == outcome
    assert calls(effects) == ([] if outcome else [("w2", "c1")])


def test_a_harmless_call_is_started_three_times_and_then_lost() -> None:
    pool = Pool()
    for number in range(4):
        pool.join(f"w{number}")
        if number == 0:
            pool.submit("c1", budget_ms=60_000)
        pool.wait(1.6)

    assert [peer for peer, _ in calls(pool.said)] == ["w0", "w1", "w2"]
    assert pool.outcome("c1") == "lost"


@pytest.mark.parametrize(("begun", "outcome"), [(False, ""), (True, "unknown")])
def test_a_once_call_goes_elsewhere_only_if_its_host_says_it_did_not_begin(
    begun: bool, outcome: str
) -> None:
    pool = Pool()
    pool.join("w1", free=1)
    pool.submit("c1", "pay")
    pool.join("w2", free=1)

    effects = pool.result("c1", status="lost", started=begun)

    assert pool.outcome("c1") == outcome
    assert calls(effects) == ([] if outcome else [("w2", "c1")])


def test_the_same_incarnation_over_a_new_connection_that_does_not_name_a_call_never_got_it() -> (
    None
):
    pool = Pool()
    pool.join("w1", free=1)
    pool.submit("c1", "pay")

    effects = pool.join("w1b", name="w1", free=1)

    assert calls(effects) == [("w1b", "c1")]
    assert pool.outcome("c1") == ""


def test_who_says_hello_all_the_time_needs_no_other_word_but_results() -> None:
    pool = Pool()
    hello = work.WorkerHello(
        name="w1", inc="i1", pid=1, capacity=1, tools=TOOLS, free=1, received=0
    )
    pool.worker("w1", hello)
    pool.submit("c1")
    assert pool.given() == ["c1"]

    # The second waits: that hello was said before the first call had come.
    pool.worker("w1", hello)
    pool.submit("c2")
    assert pool.given() == ["c1"]
    pool.result("c1", free=1, received=1)
    assert pool.given() == ["c1", "c2"]
    for _ in range(20):
        pool.wait(0.5)
        pool.worker("w1", msgspec.structs.replace(hello, received=2, free=0))

    assert "w1" in pool.state.workers


def test_a_repeated_hello_concludes_nothing_about_calls_on_their_way() -> None:
    pool = Pool()
    pool.join("w1", free=1)
    pool.submit("c1", "pay")

    effects = pool.join("w1", free=1)

    assert calls(effects) == []
    assert pool.outcome("c1") == ""


def test_another_incarnation_under_the_same_name_loses_the_calls_of_the_first_at_once() -> None:
    pool = Pool()
    pool.join("w1", free=1)
    pool.submit("c1", "pay")
    pool.submit("c2", "read")

    effects = pool.join("w1b", name="w1", inc="i2", free=1)

    assert pool.outcome("c1") == "unknown"
    assert calls(effects) == [("w1b", "c2")]


def test_a_result_after_unknown_is_told_as_late_and_changes_nothing() -> None:
    pool = Pool()
    pool.join("w1")
    pool.submit("c1", "pay")
    pool.wait(1.6)
    pool.ack("c1")

    reset = to_worker(pool.result("c1", result=1), work.Reset)
    pool.session(work.Follow(shard=0, inc="x"))
    pool.join("w1", unacked=[work.CallRef(session_id=SESSION, call_id="c1")])
    effects = pool.result("c1", result=1)
    repeated = pool.result("c1", result=1)

    assert len(reset) == 1
    assert to_session(repeated, work.Outcome) == []
    assert len(to_worker(repeated, work.Acked)) == 1
    assert pool.outcome("c1") == "unknown"
    assert [(one.status, one.late) for one in to_session(effects, work.Outcome)] == [("ok", True)]
    assert len(to_worker(effects, work.Acked)) == 1


def test_a_worker_keeps_the_report_of_a_loss_until_the_session_knows() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1", "pay")
    pool.started("c1")

    reported = pool.result("c1", status="lost")
    acknowledged = pool.ack("c1")

    assert pool.outcome("c1") == "unknown"
    assert to_worker(reported, work.Acked) == []
    assert len(to_worker(acknowledged, work.Acked)) == 1


def test_a_loss_that_is_run_again_need_not_be_kept() -> None:
    pool = Pool()
    pool.join()
    pool.submit("c1", "pay")

    effects = pool.result("c1", status="lost", started=False)

    assert len(to_worker(effects, work.Acked)) == 1
    assert calls(effects) == [("w1", "c1")]


@pytest.mark.parametrize("asked_first", [True, False])
def test_a_loss_reported_to_the_dispatcher_before_is_known_to_its_successor(
    asked_first: bool,
) -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    if asked_first:
        pool.submit("c1", "pay", resubmit=True)

    pool.join("w1", unacked=[work.CallRef(session_id=SESSION, call_id="c1")])
    pool.result("c1", status="lost")
    if not asked_first:
        pool.submit("c1", "pay", resubmit=True)
    pool.wait(5, ("w1",))

    assert pool.outcome("c1") == "unknown"
    assert pool.given() == []


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_worker_may_go_between_its_report_of_a_loss_and_the_question(comes_back: bool) -> None:
    unacked = [work.CallRef(session_id=SESSION, call_id="c1")]
    pool = Pool(settled=False, predecessors=("w1/i1",))
    pool.join("w1", unacked=unacked)
    pool.result("c1", status="lost")

    if comes_back:
        pool.join("w1-again", name="w1", unacked=unacked)
    else:
        pool.worker("w1", work.Bye())
        pool.join("w2")
    pool.submit("c1", "pay", resubmit=True)
    if comes_back:
        pool.result("c1", peer="w1-again", status="lost")
    pool.wait(5, ("w1-again", "w2"))

    assert pool.outcome("c1") == "unknown"
    assert pool.given() == []


def test_the_report_of_a_loss_that_nobody_asks_for_is_not_kept_for_ever() -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    pool.join("w1", free=1, unacked=[work.CallRef(session_id=SESSION, call_id="c1")])
    pool.result("c1", status="lost")

    pool.submit("c2")
    later = pool.wait(620, ("w1",))

    assert pool.given() == ["c2"]
    assert [one.call_id for one in to_worker(later, work.Acked)] == ["c1"]
    assert (SESSION, "c1") not in pool.state.calls


def test_a_late_result_is_kept_until_the_session_knows_how_the_call_ended() -> None:
    pool = Pool()
    pool.join("w1")
    pool.submit("c1", "pay")
    pool.wait(1.6)
    pool.join("w1", unacked=[work.CallRef(session_id=SESSION, call_id="c1")])

    late = pool.result("c1") + pool.result("c1")
    acknowledged = pool.ack("c1")

    assert pool.outcome("c1") == "unknown"
    assert [(one.status, one.late) for one in to_session(late, work.Outcome)] == [("ok", True)]
    assert to_worker(late, work.Acked) == []
    assert len(to_worker(acknowledged, work.Acked)) == 1


def test_a_lost_attempt_that_answers_after_all_counts_and_the_second_is_stopped() -> None:
    pool = Pool()
    pool.join("w1", free=1)
    pool.submit("c1", "read")
    pool.join("w2", free=1)
    pool.wait(1.6, ("w2",))

    reference = work.CallRef(session_id=SESSION, call_id="c1")
    pool.join("w1", free=1, unacked=[reference])
    effects = pool.result("c1", "w1", result="first")

    assert pool.outcome("c1") == "ok"
    assert [one.reason for one in to_worker(effects, work.CancelCall)] == ["answered"]


def test_an_unreachable_worker_is_lost_at_once() -> None:
    pool = Pool()
    pool.join("w1")
    pool.submit("c1", "pay")

    pool.feed(WorkerUnreachable(pool.at, "w1"))

    assert pool.outcome("c1") == "unknown"


LAST_WORDS = [
    work.Heartbeat(),
    work.Credit(free=2, received=0),
    work.Result(session_id=SESSION, call_id="c0", status="ok"),
    work.WorkerHello(name="w1", inc="i1", pid=1, capacity=2, tools=TOOLS, free=2),
]


@pytest.mark.parametrize("word", LAST_WORDS)
def test_who_said_bye_is_not_taken_in_again_for_a_word_that_comes_later(word: Any) -> None:
    pool = Pool()
    pool.join("w1")
    pool.worker("w1", work.Bye())

    effects = pool.worker("w1", word)
    pool.submit("c1")

    assert effects == []
    assert pool.state.workers == {}
    assert pool.given() == []


def test_the_next_incarnation_is_welcome_also_over_the_connection_of_one_that_left() -> None:
    pool = Pool()
    pool.join("w1")
    pool.worker("w1", work.Bye())

    welcomed = to_worker(pool.join("w1", inc="i2"), work.PoolWelcome)
    pool.submit("c1")
    pool.feed(WorkerUnreachable(pool.at, "w1"))
    again = to_worker(pool.worker("w1", work.Heartbeat()), work.Reset)

    assert len(welcomed) == len(again) == 1
    assert pool.given() == ["c1"]


def test_only_the_last_of_those_that_left_are_remembered() -> None:
    pool = Pool()
    for number in range(300):
        pool.join(f"w{number}")
        pool.worker(f"w{number}", work.Bye())

    assert len(pool.state.left) == 256
    assert "w299/i1" in pool.state.left


def test_a_dispatcher_that_was_asleep_itself_loses_nobody() -> None:
    pool = Pool()
    pool.join("w1")
    pool.submit("c1", "pay")

    pool.at += 10
    pool.feed(Ticked(pool.at))

    assert pool.outcome("c1") == ""


# --- restart ----------------------------------------------------------------------------------


def test_after_a_restart_a_running_call_is_matched_and_not_run_again() -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    pool.submit("c1", "pay", resubmit=True)

    pool.join("w1", running=[work.CallRef(session_id=SESSION, call_id="c1")])
    pool.wait(3, ("w1",))
    pool.result("c1", result="paid")

    assert calls(pool.said) == []
    assert pool.outcome("c1") == "ok"


def test_after_a_restart_the_worker_may_come_before_the_session() -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    pool.join("w1", unacked=[work.CallRef(session_id=SESSION, call_id="c1")])
    pool.result("c1", result="paid")

    effects = pool.submit("c1", "pay", resubmit=True)

    assert [one.result for one in to_session(effects, work.Outcome)] == ["paid"]
    assert calls(pool.said) == []


@pytest.mark.parametrize(
    ("tool", "workers", "outcome"),
    [
        ("pay", ("w1",), ""),  # the only one that can have had it says that it never did
        ("pay", (), "unknown"),
        ("pay", ("w2",), "unknown"),
        ("read", ("w2",), ""),
    ],
)
def test_after_a_restart_an_unmatched_call_runs_only_if_nobody_can_have_run_it(
    tool: str, workers: tuple[str, ...], outcome: str
) -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    if not workers:
        pool.join("w0")
    for peer in workers:
        pool.join(peer)

    early = calls(pool.submit("c1", tool, resubmit=True))
    late = calls(pool.wait(2, workers or ("w0",)))

    assert early == []
    assert pool.outcome("c1") == outcome
    assert late == ([] if outcome else [(workers[0], "c1")])


def test_a_new_call_need_not_wait_for_the_settling() -> None:
    pool = Pool(settled=False)
    pool.join("w1")

    assert calls(pool.submit("c1")) == [("w1", "c1")]


def test_a_call_cancelled_while_settling_stops_at_the_worker_that_has_it() -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    pool.submit("c1", "pay", resubmit=True)
    pool.cancel("c1")

    effects = pool.join("w1", running=[work.CallRef(session_id=SESSION, call_id="c1")])

    assert [one.call_id for one in to_worker(effects, work.CancelCall)] == ["c1"]


def test_also_a_cancel_that_comes_before_the_call_is_asked_for_again_reaches_that_worker() -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    pool.cancel("c1")
    pool.submit("c1", "pay", resubmit=True)

    effects = pool.join("w1", running=[work.CallRef(session_id=SESSION, call_id="c1")])

    assert [one.call_id for one in to_worker(effects, work.CancelCall)] == ["c1"]
    assert pool.outcome("c1") == ""


def test_a_call_past_its_deadline_waits_for_the_worker_that_may_have_it_to_say_so() -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    pool.submit("c1", "pay", resubmit=True, budget_ms=1)
    pool.wait(0.5)

    pool.join("w1", running=[work.CallRef(session_id=SESSION, call_id="c1")])
    pool.result("c1")

    assert pool.outcome("c1") == "ok"


@pytest.mark.parametrize(("is_cancelled", "outcome"), [(False, "timeout"), (True, "cancelled")])
def test_what_all_workers_deny_is_told_as_not_run(is_cancelled: bool, outcome: str) -> None:
    pool = Pool(settled=False, predecessors=("w1/i1",))
    pool.submit("c1", "pay", resubmit=True, budget_ms=1)
    if is_cancelled:
        pool.cancel("c1")
    pool.join("w1")

    pool.wait(2, ("w1",))

    assert pool.outcome("c1") == outcome
    assert pool.given() == []


def test_a_call_cancelled_while_settling_is_unknown_if_its_worker_does_not_come() -> None:
    pool = Pool(settled=False, predecessors=("w1/i0",))
    pool.submit("c1", "pay", resubmit=True)
    pool.cancel("c1")

    pool.wait(2)

    assert pool.outcome("c1") == "unknown"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda pool: None, lambda pool: pool.wait(11)),
        (lambda pool: None, lambda pool: pool.cancel("c1")),
        (lambda pool: pool.cancel("c1"), lambda pool: None),
        (lambda pool: pool.feed(Drained(pool.at)), lambda pool: None),
        (lambda pool: None, lambda pool: pool.join("w1", inc="i1", tools=[spec("read")])),
    ],
    ids=["its deadline", "a cancel", "an early cancel", "a stop", "a host without the tool"],
)
def test_what_a_lost_host_may_have_run_is_never_told_as_not_run(
    before: Callable[[Pool], Any], after: Callable[[Pool], Any]
) -> None:
    pool = Pool(predecessors=("w1/i0",))

    before(pool)
    pool.submit("c1", "pay", resubmit=True)
    after(pool)

    assert pool.outcome("c1") == "unknown"
    assert pool.given() == []


def test_a_call_that_waited_for_the_settling_is_refused_where_the_pool_has_stopped_since() -> None:
    pool = Pool(settled=False)
    pool.feed(Drained(pool.at))
    pool.submit("c1", "pay", resubmit=True)
    pool.join("w1")

    pool.wait(2, ("w1",))

    assert pool.outcome("c1") == "busy"
    assert pool.given() == []


def test_a_worker_that_did_not_answer_for_a_call_is_remembered_until_its_session_knows() -> None:
    pool = Pool()
    pool.join("w1")
    pool.submit("c1", "pay", budget_ms=1000)
    pool.wait(5, ("w1",))
    pool.feed(WorkerUnreachable(pool.at, "w1"))
    before = pool.state.remembered
    pool.ack("c1")

    assert pool.outcome("c1") == "timeout"
    # It may have run: a successor that knew nothing of the worker would run it a second time.
    assert before == ("w1/i1",)
    assert pool.state.remembered == ()


def test_workers_are_remembered_while_a_session_may_not_know_what_they_did() -> None:
    pool = Pool()
    remembered = [one for one in pool.join("w1") if isinstance(one, RememberWorkers)]
    pool.submit("c1", "pay")
    pool.wait(1.6)
    still = pool.state.remembered
    pool.ack("c1")

    assert remembered == [RememberWorkers(("w1/i1",))]
    assert still == ("w1/i1",)
    assert pool.state.remembered == ()


def test_a_lost_worker_is_forgotten_when_its_own_calls_are_known_however_busy_the_others() -> None:
    pool = Pool()
    pool.join("w1", free=1)
    pool.submit("c1", "pay")
    pool.join("w2")
    pool.feed(WorkerUnreachable(pool.at, "w1"))
    pool.submit("c2")
    pool.result("c2", "w2")
    before = pool.state.remembered
    pool.ack("c1")

    assert before == ("w1/i1", "w2/i1")
    assert set(pool.state.ended) == {(SESSION, "c2")}
    assert pool.state.remembered == ("w2/i1",)


CAUGHT_UP = work.Follow(shard=0, inc="a", dispatcher="d1")


def test_a_successor_need_not_hear_those_whose_calls_have_all_been_judged() -> None:
    pool = Pool(settled=False, predecessors=("w1/i0", "w2/i1"))
    pool.join("w2")
    pool.submit("c1", "pay", resubmit=True)
    pool.session(CAUGHT_UP)
    before = pool.state.remembered
    pool.wait(2, ("w2",))
    judged = pool.state.remembered
    pool.ack("c1")

    assert pool.outcome("c1") == "unknown"
    # Until its session knows that, a successor might be asked for it, and must say the same.
    assert before == judged == ("w1/i0", "w2/i1")
    assert pool.state.remembered == ("w2/i1",)


@pytest.mark.parametrize("said", [work.Follow(shard=0, inc="a"), None])
def test_without_the_word_of_every_session_process_they_are_remembered(said: Any) -> None:
    pool = Pool(settled=False, predecessors=("w1/i0",))
    pool.state.shards = 2
    pool.join("w2")
    pool.session(CAUGHT_UP)
    if said is not None:
        pool.session(msgspec.structs.replace(said, shard=1))
    pool.wait(2, ("w2",))
    pool.submit("c1")
    pool.result("c1", "w2")
    pool.ack("c1")

    assert pool.state.remembered == ("w1/i0", "w2/i1")


# --- catalogue --------------------------------------------------------------------------------


def test_sessions_are_told_the_catalogue_when_they_follow_and_when_it_changes() -> None:
    pool = Pool()

    first = to_session(pool.session(work.Follow(shard=0, inc="a")), work.ToolCatalogue)
    again = to_session(pool.session(work.Follow(shard=0, inc="a")), work.ToolCatalogue)
    joined = to_session(pool.join("w1"), work.ToolCatalogue)
    same = to_session(pool.join("w2"), work.ToolCatalogue)

    assert [one.tools for one in first] == [[]]
    assert again == []
    assert [[tool.name for tool in one.tools] for one in joined] == [
        ["keyed", "pay", "read", "single"]
    ]
    assert same == []


def test_a_tool_that_no_provider_takes_is_left_out_and_spoils_no_other() -> None:
    pool = Pool()
    pool.session(work.Follow(shard=0, inc="a"))

    effects = pool.join("w1", tools=[spec("say it!"), spec("read", effects="none")])

    assert [
        [tool.name for tool in one.tools] for one in to_session(effects, work.ToolCatalogue)
    ] == [["read"]]
    (refused,) = [one for one in effects if isinstance(one, Note) and "refused" in one.what]
    assert "'say it!' is not 1 to 64 letters" in str(dict(refused.fields)["why"])
    assert [one.status for one in to_session(pool.submit("c1", "say it!"), work.Outcome)] == [
        "unknown_tool"
    ]


def test_a_worker_that_is_restarting_keeps_its_tools_in_the_catalogue_for_a_while() -> None:
    pool = Pool()
    pool.session(work.Follow(shard=0, inc="a"))
    pool.join("w1")

    soon = to_session(pool.wait(20), work.ToolCatalogue)
    later = to_session(pool.wait(20), work.ToolCatalogue)

    assert soon == []
    assert [one.tools for one in later] == [[]]


def test_a_restarted_session_process_inherits_the_outcomes_of_its_calls() -> None:
    pool = Pool()
    pool.session(work.Follow(shard=0, inc="a"), peer="old")
    pool.join("w1")
    pool.submit("c1")

    pool.session(work.Follow(shard=0, inc="b"), peer="new")
    effects = pool.result("c1")

    assert [
        one.peer
        for one in effects
        if isinstance(one, TellSession) and isinstance(one.message, work.Outcome)
    ] == ["new"]


def test_a_stopping_pool_takes_no_new_calls() -> None:
    pool = Pool()
    pool.join()
    pool.feed(Drained(pool.at))

    pool.submit("c1")

    assert pool.outcome("c1") == "busy"


def test_a_call_waits_for_the_tools_of_a_host_that_is_slower_than_the_dispatcher() -> None:
    pool = Pool(predecessors=("w1/i0",))
    pool.submit("c1", "pay")

    pool.join("w1", inc="i1")

    assert pool.given() == ["c1"]


def test_a_once_call_that_the_lost_host_may_have_had_does_not_run_when_its_tool_returns() -> None:
    pool = Pool(predecessors=("w1/i0",))
    pool.submit("c1", "pay", resubmit=True)
    pool.submit("c2", "read", resubmit=True)

    pool.join("w1", inc="i1")

    assert pool.outcome("c1") == "unknown"
    assert pool.given() == ["c2"]


def test_a_call_that_the_returning_host_still_runs_is_attached_to_it() -> None:
    pool = Pool(predecessors=("w1/i1",))
    pool.submit("c1", "pay", resubmit=True)

    pool.join("w1", running=[work.CallRef(session_id=SESSION, call_id="c1")])
    pool.result("c1")

    assert pool.given() == []
    assert pool.outcome("c1") == "ok"


def test_a_tool_that_does_not_return_is_unknown_in_the_end() -> None:
    pool = Pool(predecessors=("w1/i0",), keep_tools_s=3.0)
    pool.submit("c1", "pay")

    pool.wait(4)

    assert pool.outcome("c1") == "unknown_tool"


def test_with_all_hosts_back_a_tool_that_nobody_has_is_unknown_at_once() -> None:
    pool = Pool(predecessors=("w1/i0",))
    pool.join("w1", inc="i1")

    pool.submit("c1", "no_such_tool")

    assert pool.outcome("c1") == "unknown_tool"
