"""Percentiles and stamps: what all figures rest on."""

import base64
import time

from voicebus.benchmarks import figures, goals
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
