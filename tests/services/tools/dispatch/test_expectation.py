"""A call whose turn would come too late hears so at once, as far as the pool knows its tools."""

from typing import Any

import pytest

from tests.services.tools.dispatch.test_core import SESSION, Pool, to_session
from voicebus.bus.messages import work
from voicebus.services.tools.dispatch import expectation
from voicebus.services.tools.dispatch.effects import Effect
from voicebus.services.tools.dispatch.state import Call

OTHERS = [f"s0-{number:026d}" for number in range(1, 9)]


def practised(took_s: float = 2.0, free: int = 1, times: int = 5, **limits: Any) -> Pool:
    """A pool with one worker, of whose tools it is known how long they take."""
    pool = Pool(**limits)
    pool.join(free=free)
    for number in range(times):
        for tool in ("read", "pay"):
            call_id = f"{tool}{number}"
            pool.submit(call_id, tool)
            pool.wait(took_s, alive=("w1",))
            pool.result(call_id, free=free, received=None)
            pool.ack(call_id)
    return pool


def statuses(effects: list[Effect]) -> list[str]:
    return [one.status for one in to_session(effects, work.Outcome)]


def queue(pool: Pool, count: int, tool: str = "read") -> None:
    """So many calls of other conversations."""
    for session in OTHERS[:count]:
        pool.submit("queued", tool, session_id=session, budget_ms=60_000)


def test_a_call_whose_turn_comes_after_its_deadline_is_refused_at_once() -> None:
    pool = practised()
    queue(pool, 4)

    effects = pool.submit("c1", budget_ms=5_000)

    (outcome,) = to_session(effects, work.Outcome)
    assert outcome.status == "busy"
    assert outcome.failure is not None
    assert outcome.failure.message == (
        "3 calls wait before it, so that its turn would come in about 8 s, and it has 5 s; "
        "try again when some have ended"
    )


def test_a_call_that_has_the_time_waits_its_turn() -> None:
    pool = practised()
    queue(pool, 4)

    assert statuses(pool.submit("c1", budget_ms=9_000)) == []


def test_what_has_run_already_is_counted_off() -> None:
    pool = practised()
    queue(pool, 1)
    pool.wait(1.5, alive=("w1",))

    assert expectation.wait_s(pool.state, pool.at, _waiting(pool)) == pytest.approx(0.5, abs=0.3)


def _waiting(pool: Pool) -> Call:
    pool.submit("c1", budget_ms=60_000)
    return next(one for one in pool.state.calls.values() if one.key[1] == "c1")


def test_of_a_tool_that_was_seldom_called_nothing_is_expected() -> None:
    pool = practised(times=4)
    queue(pool, 8)

    assert statuses(pool.submit("c1", budget_ms=1_000)) == []


def test_several_places_share_the_queue() -> None:
    pool = practised(free=4)
    queue(pool, 8)

    assert statuses(pool.submit("c1", budget_ms=5_000)) == []
    assert statuses(pool.submit("c2", budget_ms=3_000)) == ["busy"]


def test_a_tool_that_runs_one_at_a_time_has_a_queue_of_its_own() -> None:
    pool = Pool()
    pool.join(free=8)
    for number in range(5):
        pool.submit(f"c{number}", "single")
        pool.wait(2.0, alive=("w1",))
        pool.result(f"c{number}", free=8, received=None)
    queue(pool, 3, "single")

    assert statuses(pool.submit("late", "single", budget_ms=4_000)) == ["busy"]
    assert statuses(pool.submit("other", budget_ms=4_000)) == []


def test_background_calls_are_not_waited_for() -> None:
    pool = practised()
    queue(pool, 1)
    for session in OTHERS[1:]:
        pool.submit("later", session_id=session, background=True, budget_ms=60_000)

    assert statuses(pool.submit("c1", budget_ms=3_000)) == []
    assert statuses(pool.submit("c2", background=True, budget_ms=3_000)) == ["busy"]


def test_calls_that_their_own_limit_holds_back_are_not_waited_for() -> None:
    pool = practised(running_per_session=1)
    for number in range(6):
        pool.submit(f"q{number}", session_id=OTHERS[0], budget_ms=60_000)

    assert statuses(pool.submit("c1", budget_ms=3_000)) == []


@pytest.mark.parametrize("places", [2**62, 0, -1])
def test_a_worker_may_claim_any_number_of_places(places: int) -> None:
    pool = Pool()
    read = work.ToolSpec(name="read", parameters={"type": "object"}, concurrency=2**62)
    pool.join(capacity=places, tools=[read])
    queue(pool, 3)

    pool.submit("c1")

    assert expectation.wait_s(pool.state, pool.at, pool.state.calls[SESSION, "c1"]) == 0.0


def test_it_can_be_turned_off() -> None:
    pool = practised(refuses_late=False)
    queue(pool, 8)

    assert statuses(pool.submit("c1", budget_ms=1_000)) == []
