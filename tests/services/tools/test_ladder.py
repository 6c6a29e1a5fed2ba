from voicebus.services.tools import ladder
from voicebus.services.tools.ladder import Ladder


def climb(start: Ladder, at: float) -> list[tuple[float, str]]:
    """When each action comes, if nothing else happens."""
    found: list[tuple[float, str]] = []
    while (due := ladder.due(start)) < float("inf"):
        at = max(at, due)
        start, actions = ladder.tick(start, at)
        found += [(round(at, 3), action) for action in actions]
    return found


def test_a_deadline_asks_first_and_kills_last() -> None:
    found = climb(Ladder(deadline_at=10, grace_s=0.3), 0)

    assert found == [(10, "ask"), (10.3, "dump"), (10.32, "terminate"), (10.52, "kill")]


def test_a_cancel_starts_the_same_climb_earlier() -> None:
    asked, actions = ladder.cancel(Ladder(deadline_at=10, grace_s=0.3), 2, "interrupt")

    assert actions == ("ask",)
    assert climb(asked, 2) == [(2.3, "dump"), (2.32, "terminate"), (2.52, "kill")]
    assert asked.cause == "interrupt"


def test_a_second_cancel_changes_neither_reason_nor_times() -> None:
    asked, _ = ladder.cancel(Ladder(deadline_at=10, grace_s=0.3), 2, "interrupt")

    again, actions = ladder.cancel(asked, 2.2, "close")

    assert (again, actions) == (asked, ())


def test_nothing_happens_before_its_time() -> None:
    start = Ladder(deadline_at=10, grace_s=0.3)

    assert ladder.tick(start, 9.99) == (start, ())


def test_a_late_tick_still_leaves_each_step_its_time() -> None:
    asked, _ = ladder.tick(Ladder(deadline_at=10, grace_s=0.3), 50)

    assert climb(asked, 50) == [(50.3, "dump"), (50.32, "terminate"), (50.52, "kill")]
