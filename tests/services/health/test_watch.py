from dataclasses import replace

import pytest

from voicebus.services.health import watch
from voicebus.services.health.watch import Body, Policy, Tell, Watched

POLICY = Policy(stopped_s=3.0, stuck_s=3.0, starved_s=10.0, start_s=60.0, grace_s=1.0)
SLEEPING = Body(is_stopped=False, is_waiting=False, cpu_s=1.0)
STOPPED = replace(SLEEPING, is_stopped=True)
STARVED = replace(SLEEPING, is_waiting=True)
LIVELY = watch.spoke(Watched(pid=7))[0]


def wait(watched: Watched, seconds: float, body: Body = SLEEPING) -> tuple[Watched, list[object]]:
    """That much silence, looked at four times a second."""
    deeds: list[object] = []
    for _ in range(round(seconds * 4)):
        seen = body if watch.wants_a_closer_look(watched, POLICY) else None
        watched, done = watch.passed(watched, 0.25, seen, POLICY)
        deeds.extend(done)
    return watched, deeds


def whats(deeds: list[object]) -> list[str]:
    return [one.what if isinstance(one, Tell) else type(one).__name__ for one in deeds]


def test_a_short_silence_means_nothing() -> None:
    assert wait(LIVELY, 2.75)[1] == []


def test_a_stuck_loop_is_told_asked_where_it_is_and_killed() -> None:
    _, deeds = wait(LIVELY, 4.0)

    assert whats(deeds) == ["frozen", "Dump", "killed", "Kill"]


def test_a_stopped_process_is_made_to_go_on_before_it_is_killed() -> None:
    watched, deeds = wait(LIVELY, 3.0, STOPPED)

    assert whats(deeds) == ["frozen", "Dump", "Continue"]
    assert "stopped" in next(one.why for one in deeds if isinstance(one, Tell))
    assert whats(wait(watched, 1.0, STOPPED)[1]) == ["killed", "Kill"]


def test_who_speaks_again_is_not_killed() -> None:
    watched, _ = wait(LIVELY, 3.5)

    back, deeds = watch.spoke(watched)

    assert whats(list(deeds)) == ["recovered"]
    assert wait(back, 2.75)[1] == []


def test_who_is_frozen_again_and_again_is_replaced_though_it_speaks_between() -> None:
    watched = LIVELY
    for _ in range(2):
        watched, deeds = wait(watched, 3.0, STOPPED)
        assert whats(deeds) == ["frozen", "Dump", "Continue"]
        watched, _ = watch.spoke(watched)

    watched, deeds = wait(watched, 3.0, STOPPED)

    assert whats(deeds) == ["frozen", "killed", "Kill"]
    assert wait(watched, 30.0, STOPPED)[1] == []


def test_who_was_well_for_a_while_has_all_its_chances_again() -> None:
    watched = LIVELY
    for _ in range(5):
        watched, deeds = wait(watched, 3.0, STOPPED)
        assert whats(deeds) == ["frozen", "Dump", "Continue"]
        for _ in range(20):
            watched, _ = watch.spoke(watched)
            watched, deeds = wait(watched, 2.0)
            assert deeds == []
        watched, _ = watch.spoke(watched)


def test_nobody_is_killed_twice() -> None:
    watched, _ = wait(LIVELY, 4.0)

    assert wait(watched, 30.0)[1] == []


def test_late_words_are_words() -> None:
    watched = LIVELY
    for _ in range(10):
        watched, deeds = wait(watched, 2.75)
        watched, _ = watch.spoke(watched)

        assert deeds == []


def test_who_gets_no_processor_is_given_more_time() -> None:
    watched, deeds = wait(LIVELY, 9.75, STARVED)

    assert deeds == []
    assert whats(wait(watched, 0.25, STARVED)[1]) == ["frozen", "Dump"]


def test_who_burns_a_processor_and_says_nothing_is_stuck() -> None:
    watched, _ = wait(LIVELY, 2.0, STARVED)

    assert whats(wait(watched, 1.0, replace(STARVED, cpu_s=2.5))[1]) == ["frozen", "Dump"]


def test_a_process_that_starts_may_take_its_time_unless_it_was_stopped() -> None:
    assert wait(Watched(pid=7), 59.0)[1] == []
    assert whats(wait(Watched(pid=7), 3.0, STOPPED)[1]) == ["frozen", "Dump", "Continue"]


@pytest.mark.parametrize("asleep_s", [10.0, 100_000.0])
def test_a_machine_that_slept_makes_nobody_suspicious(asleep_s: float) -> None:
    watched, _ = wait(LIVELY, 2.0)

    assert watch.passed(watched, asleep_s, SLEEPING, POLICY)[1] == ()


def test_a_watch_that_is_turned_off_does_nothing() -> None:
    off = replace(POLICY, stopped_s=0.0)

    assert watch.passed(LIVELY, 0.5, STOPPED, off) == (LIVELY, ())
    assert not watch.wants_a_closer_look(replace(LIVELY, silent_s=99), off)
