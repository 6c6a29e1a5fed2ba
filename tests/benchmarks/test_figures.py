"""Percentiles and stamps: what all figures rest on."""

import base64
import time

import pytest

from voicebus.benchmarks import capacity, figures, goals
from voicebus.benchmarks.capacity import Quality
from voicebus.benchmarks.shared import stamps


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [float(n) for n in range(1, 201)]

    found = figures.ages(values)

    assert (found.frames, found.p50, found.p99, found.max) == (200, 100.0, 198.0, 200.0)


def test_a_stamp_survives_sound_base64_and_words() -> None:
    before_ns = time.monotonic_ns()

    made_ns, number = stamps.read(stamps.frame(7))
    encoded = stamps.frame_base64(8)
    said = stamps.read_words(stamps.words(9))

    assert stamps.read_words(stamps.words(8) + stamps.words(9))[1] == 9  # type: ignore[index]
    assert stamps.read_words("hello") is None
    assert (number, stamps.read_base64(encoded)[1]) == (7, 8)
    assert len(base64.b64decode(encoded)) == len(stamps.frame(1)) == stamps.FRAME_BYTES
    assert said is not None
    assert said[1] == 9
    assert before_ns <= made_ns <= said[0]


def test_a_goal_is_missed_when_one_repetition_misses_it() -> None:
    found = {"tools.dead.p99": [20.0, 70.0], "chaos.lost": [0.0], "chaos.twice": [0.0]}

    assert goals.missed(found) == ["stuck in C: dead after its grace, p99"]


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    rows = goals.table({}).rows

    assert {row[-1] for row in rows} == {""}


def test_a_floor_is_the_best_that_a_bare_program_did_in_the_same_run_or_what_nothing_is_below() -> (
    None
):
    found = {
        "tools.dead.p99": [20.0, 30.0],
        "floor.killed.p99": [2.0, 1.0],
        "chaos.lost": [0.0],
        "chaos.twice": [0.0],
        "growth.event.1.1000": [200.0],
    }

    floors = {row[0]: row[4] for row in goals.table(found).rows}

    assert floors["stuck in C: dead after its grace, p99"] == 1.0
    assert floors["calls under random kills: lost or doubled"] == 0.0
    assert floors["an event through the session process, CPU"] == ""


def test_how_near_the_floor_a_frame_of_sound_is() -> None:
    found = {
        "floor.wakes.p50": [0.010, 0.020],
        "floor.WebSocket frame built": [1.0, 2.0],
        "floor.JSON parsed": [4.0, 5.0],
        "floor.base64 decoded": [5.0, 6.0],
        "stall.bare.no tool.p50": [0.1, 0.2],
        "stall.voicebus.no tool.p50": [0.4, 0.3],
    }

    assert goals.near(found).rows == [
        ("the floor", 20.0, 1.0, 0.2),
        ("the bare client", 100.0, 5.0, 1.0),
        ("voicebus", 300.0, 15.0, 3.0),
    ]


def test_what_was_not_measured_is_not_near_anything() -> None:
    assert goals.near({"floor.wakes.p50": [0.01]}).rows == []


def test_more_and_more_sessions_are_tried_and_at_last_the_most() -> None:
    assert list(capacity.more(100, 200)) == [100, 125, 156, 195, 200]
    assert list(capacity.more(1, 3)) == [1, 2, 3]
    assert list(capacity.more(20, 20)) == [20]


@pytest.mark.parametrize(
    ("quality", "joined_ms", "is_held"),
    [
        (Quality(out_ms=20, in_ms=20, lost=0.01, lost_in=0.01), 0, True),
        (Quality(out_ms=20.1, in_ms=5, lost=0, lost_in=0), 0, False),
        (Quality(out_ms=5, in_ms=85, lost=0, lost_in=0), 0, False),
        (Quality(out_ms=5, in_ms=85, lost=0, lost_in=0), 80, True),
        (Quality(out_ms=5, in_ms=5, lost=0.02, lost_in=0), 0, False),
        (Quality(out_ms=5, in_ms=5, lost=0, lost_in=0.02), 0, False),
        (Quality(out_ms=float("nan"), in_ms=5, lost=1, lost_in=0), 0, False),
    ],
)
def test_calls_are_held_while_their_sound_is_neither_late_nor_missing(
    quality: Quality, joined_ms: float, is_held: bool
) -> None:
    assert quality.is_held(joined_ms) == is_held


def test_what_is_missing_is_a_share_of_what_was_made() -> None:
    assert capacity.lost(99, 100) == pytest.approx(0.01)
    assert capacity.lost(101, 100) == 0.0
    assert capacity.lost(0, 0) == 0.0
