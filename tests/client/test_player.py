from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebus.bus.messages.commands import ReportPlayback
from voicebus.client.player import Player, Step
from voicebus.client.sound import Sound

SECOND = 24_000


def sound(
    samples: int, *, offset: int = 0, item: str = "i1", turn: str = "r1", value: int = 1
) -> Sound:
    data = value.to_bytes(2, "little") * samples
    return Sound(turn, item, 0, "pcm16", offset, data)


def heard(*steps: Step) -> int:
    """Samples."""
    return sum(len(one.samples) // 2 for step in steps for one in step.played)


def reports(*steps: Step) -> list[tuple[str, int, str]]:
    return [
        (report.item_id, report.played_ms, report.state)
        for step in steps
        for report in step.reports
    ]


def test_sound_is_heard_at_the_speed_of_time_however_fast_it_comes() -> None:
    player = Player()
    player.receive(sound(10 * SECOND), now=5.0)

    assert heard(player.advance(5.1)) == 2400
    assert heard(player.advance(5.1)) == 0
    assert heard(player.advance(5.15)) == 1200


def test_the_end_of_an_item_is_reported_as_done_with_its_length() -> None:
    player = Player()
    player.receive(sound(2400), now=0.0)
    player.end(("i1", 0), now=0.01)

    assert player.deadline() == pytest.approx(0.1)
    step = player.advance(0.11)

    assert reports(step) == [("i1", 100, "done")]
    assert player.is_idle
    assert player.has_finished(("i1", 0))


def test_playing_is_reported_every_quarter_of_a_second() -> None:
    player = Player()
    player.receive(sound(SECOND), now=0.0)

    steps = [player.advance(n / 100) for n in range(1, 100)]

    assert reports(*steps) == [
        ("i1", 250, "playing"),
        ("i1", 500, "playing"),
        ("i1", 750, "playing"),
    ]


def test_without_sound_the_clock_stands_still_and_goes_on_when_sound_comes() -> None:
    player = Player()
    player.receive(sound(2400), now=0.0)
    first = player.advance(3.0)
    assert player.deadline() is None

    player.receive(sound(2400, offset=2400), now=3.0)

    assert heard(first) == 2400
    assert heard(player.advance(3.05)) == 1200


def test_a_flush_stops_at_once_and_says_how_much_was_heard() -> None:
    player = Player()
    player.receive(sound(SECOND), now=0.0)
    player.receive(sound(SECOND, item="i2"), now=0.0)

    step = player.flush(["r1"], now=0.3)

    assert heard(step) == 7200
    assert reports(step) == [("i1", 300, "playing"), ("i1", 300, "stopped"), ("i2", 0, "stopped")]
    assert player.is_idle


def test_flushed_sound_that_comes_late_is_not_played_and_not_reported_again() -> None:
    player = Player()
    player.receive(sound(SECOND), now=0.0)
    player.flush(["r1"], now=0.1)

    late = player.receive(sound(100, offset=SECOND), now=0.2)
    again = player.flush(["r1"], now=0.3)

    assert player.is_idle
    assert (late, again) == (Step(), Step())


def test_a_flush_leaves_other_responses_alone() -> None:
    player = Player()
    player.receive(sound(SECOND), now=0.0)
    player.receive(sound(2400, item="i2", turn="r2"), now=0.0)

    player.flush(["r1"], now=0.1)

    assert heard(player.advance(0.15)) == 1200


def test_items_are_heard_one_after_the_other_without_a_pause() -> None:
    player = Player()
    player.receive(sound(2400), now=0.0)
    player.end(("i1", 0), now=0.0)
    player.receive(sound(2400, item="i2", value=2), now=0.0)

    step = player.advance(0.15)

    assert [(one.item_id, len(one.samples) // 2) for one in step.played] == [
        ("i1", 2400),
        ("i2", 1200),
    ]


def test_what_was_dropped_on_the_way_is_silence_and_counted() -> None:
    player = Player()
    player.receive(sound(100), now=0.0)
    player.receive(sound(100, offset=150), now=0.0)

    step = player.advance(1.0)

    assert step.played[0].samples == b"\1\0" * 100 + b"\0\0" * 50 + b"\1\0" * 100
    assert player.missing_samples == 50


def test_an_overlap_is_played_once() -> None:
    player = Player()
    player.receive(sound(100), now=0.0)
    player.receive(sound(100, offset=60, value=2), now=0.0)

    assert player.advance(1.0).played[0].samples == b"\1\0" * 100 + b"\2\0" * 60


def test_a_lost_end_holds_nobody_up() -> None:
    player = Player()
    player.receive(sound(2400), now=0.0)
    player.receive(sound(2400, item="i2"), now=0.0)

    assert heard(player.advance(0.2)) == 4800


def test_the_end_of_a_turn_ends_items_whose_end_was_lost() -> None:
    player = Player()
    player.receive(sound(2400), now=0.0)
    player.advance(1.0)

    assert reports(player.end_turn("r1", now=2.0)) == [("i1", 100, "done")]


def test_g711_has_its_own_rate() -> None:
    player = Player()
    player.receive(Sound("r1", "i1", 0, "g711_ulaw", 0, b"\xff" * 8000), now=0.0)
    step = player.flush(["r1"], now=0.1)

    assert step.reports[-1] == ReportPlayback(item_id="i1", played_ms=100, state="stopped")


@given(
    pieces=st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 0.3)), min_size=1, max_size=20),
    ticks=st.integers(0, 3),
)
def test_whatever_the_rhythm_everything_is_heard_once_and_never_before_it_came(
    pieces: Sequence[tuple[int, float]], ticks: int
) -> None:
    player = Player()
    now, came, steps = 0.0, 0, []
    for samples, pause in pieces:
        steps.append(player.receive(sound(samples, offset=came), now))
        came += samples
        for _ in range(ticks):
            now += pause / (ticks + 1)
            steps.append(player.advance(now))
        now += pause / (ticks + 1)
        assert heard(*steps) <= min(came, now * SECOND + 1)
    steps.append(player.end(("i1", 0), now))
    steps.append(player.advance(now + came / SECOND + 0.001))

    assert heard(*steps) == came
    assert reports(*steps)[-1] == ("i1", came * 1000 // SECOND, "done")
