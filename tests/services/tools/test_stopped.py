"""Children that were stopped: what is told of them and done."""

from voicebus.services.tools.stopped import Seen, Watch


def test_one_that_stays_stopped_is_frozen_woken_and_runs_again() -> None:
    watch = Watch()

    assert watch.looked([7], 10.0) == []
    assert watch.looked([7], 11.25) == []
    assert watch.looked([7], 11.5) == [Seen(7, "frozen", 1.5)]
    assert watch.looked([], 11.75) == [Seen(7, "recovered", 1.75)]
    assert watch.looked([], 12.0) == []


def test_one_that_no_signal_wakes_is_killed_once() -> None:
    watch = Watch()
    for now_s in (10.0, 11.5):
        watch.looked([7], now_s)

    assert watch.looked([7], 12.25) == []
    assert watch.looked([7], 12.5) == [Seen(7, "killed", 2.5)]
    assert watch.looked([7], 12.75) == []
    assert watch.looked([], 13.0) == [], "its end is told by its parent"


def test_a_short_stop_is_nobodys_business() -> None:
    watch = Watch()

    for now_s in (10.0, 12.0, 14.0):
        assert watch.looked([7], now_s) == []
        assert watch.looked([], now_s + 1.0) == []


def test_each_is_counted_for_itself() -> None:
    watch = Watch()
    watch.looked([7], 10.0)
    watch.looked([7, 8], 11.0)

    assert watch.looked([7, 8], 11.5) == [Seen(7, "frozen", 1.5)]
    assert watch.looked([8], 12.5) == [Seen(7, "recovered", 2.5), Seen(8, "frozen", 1.5)]


def test_a_second_watch_is_more_patient_than_the_first() -> None:
    watch = Watch(found_s=2.5)
    watch.looked([7], 10.0)

    assert watch.looked([7], 12.25) == []
    assert watch.looked([7], 12.5) == [Seen(7, "frozen", 2.5)]
    assert watch.looked([7], 13.5) == [Seen(7, "killed", 3.5)]
