"""A tool that fails again and again is left alone for a while, then tried with one call."""

import pytest

from tests.services.tools.dispatch.test_core import Pool, to_session
from voicebus.bus.messages import work
from voicebus.services.tools.dispatch import breaker
from voicebus.services.tools.dispatch.effects import Effect, Note


def busy(effects: list[Effect]) -> list[str]:
    """What the model is told of the calls that end as busy."""
    return [
        one.failure.message
        for one in to_session(effects, work.Outcome)
        if one.status == "busy" and one.failure is not None
    ]


def noted(effects: list[Effect]) -> list[str]:
    return [one.what for one in effects if isinstance(one, Note) and one.what.startswith("tool.")]


def failing(status: str = "crashed", times: int = 3, tool: str = "read") -> Pool:
    """A pool in which this tool has failed so often in a row; the limit is 3."""
    pool = Pool(breaker_failures=3, breaker_cooling_s=30.0)
    pool.join(free=2)
    for number in range(times):
        _run(pool, f"bad{number}", status, tool)
    return pool


def _run(pool: Pool, call_id: str, status: str, tool: str = "read") -> list[Effect]:
    effects = pool.submit(call_id, tool)
    pool.started(call_id)
    effects += pool.result(call_id, status=status)
    pool.ack(call_id)
    pool.join(free=2)
    return effects


@pytest.mark.parametrize("status", ["crashed", "timeout"])
def test_after_so_many_failures_in_a_row_calls_fail_at_once_with_words_that_help(
    status: str,
) -> None:
    pool = failing(status)

    (told,) = busy(pool.submit("c1"))

    assert told == (
        f"'read' has failed 3 times in a row (last: {status}) and is left alone for another 30 s; "
        "it did not run: go on without it, or tell the user that it does not work at the moment"
    )
    assert "c1" not in pool.given()
    assert breaker.suspended(pool.state) == ["read"]
    assert noted(pool.said) == ["tool.suspended"]


def test_a_call_that_was_lost_three_times_is_such_a_failure() -> None:
    pool = Pool(breaker_failures=1)
    for number in range(3):
        pool.join(f"w{number}", name="w1", inc=f"i{number}")
        if number == 0:
            pool.submit("c1")
        pool.started("c1", f"w{number}")
        pool.result("c1", f"w{number}", "lost", started=True)

    assert pool.outcome("c1") == "lost"
    assert breaker.suspended(pool.state) == ["read"]


@pytest.mark.parametrize("between", ["ok", "error"])
def test_an_answer_begins_the_count_anew(between: str) -> None:
    pool = failing(times=2)

    _run(pool, "fine", between)
    _run(pool, "bad2", "crashed")

    assert breaker.suspended(pool.state) == []
    assert busy(pool.submit("c1")) == []


@pytest.mark.parametrize("status", ["cancelled", "invalid_arguments"])
def test_what_says_nothing_of_the_tool_neither_counts_nor_begins_anew(status: str) -> None:
    pool = failing(times=2)

    _run(pool, "other", status)
    assert breaker.suspended(pool.state) == []
    _run(pool, "bad2", "crashed")

    assert breaker.suspended(pool.state) == ["read"]


def test_a_call_for_which_no_runner_was_free_says_nothing_of_its_tool() -> None:
    pool = failing(times=2)
    pool.submit("c1")

    pool.result("c1", status="timeout", started=False)

    assert breaker.suspended(pool.state) == []


def test_other_tools_run_on() -> None:
    pool = failing()

    assert busy(pool.submit("c1", "pay")) == []
    assert "c1" in pool.given()


def test_those_that_wait_for_it_are_told_as_well() -> None:
    pool = failing(times=2)
    for call_id in ("c0", "c1", "waits"):
        pool.submit(call_id)
    pool.submit("other", "pay")
    assert pool.given()[-2:] == ["c0", "c1"]

    told = busy(pool.result("c0", status="crashed"))

    assert len(told) == 1
    assert pool.outcome("waits") == "busy"
    assert pool.outcome("other") == ""
    assert pool.outcome("c1") == ""


def test_after_the_cooling_one_call_tries_it() -> None:
    pool = failing()
    pool.wait(30.1, alive=("w1",))

    assert busy(pool.submit("trial")) == []
    (told,) = busy(pool.submit("c1"))

    assert pool.given()[-1] == "trial"
    assert "until a call that is being tried has ended" in told


def test_a_trial_that_goes_well_lets_all_run_again() -> None:
    pool = failing()
    pool.wait(30.1, alive=("w1",))

    effects = _run(pool, "trial", "ok")

    assert noted(effects) == ["tool.resumed"]
    assert breaker.suspended(pool.state) == []
    assert busy(pool.submit("c1")) == []


def test_a_trial_that_fails_leaves_it_alone_again() -> None:
    pool = failing()
    pool.wait(30.1, alive=("w1",))

    effects = _run(pool, "trial", "timeout")

    assert noted(effects) == ["tool.suspended"]
    (told,) = busy(pool.submit("c1"))
    assert "4 times in a row (last: timeout)" in told


def test_a_trial_that_is_cancelled_leaves_the_next_call_to_try() -> None:
    pool = failing()
    pool.wait(30.1, alive=("w1",))

    _run(pool, "trial", "cancelled")

    assert busy(pool.submit("second trial")) == []


def test_zero_failures_turn_it_off() -> None:
    pool = Pool(breaker_failures=0)
    pool.join(free=2)
    for number in range(9):
        _run(pool, f"bad{number}", "crashed")

    assert breaker.suspended(pool.state) == []
    assert busy(pool.submit("c1")) == []


def test_a_tool_that_nobody_offers_any_more_is_forgotten() -> None:
    pool = failing()

    pool.worker("w1", work.Bye())

    assert pool.state.breakers == {}
    assert pool.state.service_s == {}


def test_a_call_that_may_have_been_begun_is_not_told_that_it_did_not_run() -> None:
    pool = failing()

    assert busy(pool.submit("c1", resubmit=True)) == []
