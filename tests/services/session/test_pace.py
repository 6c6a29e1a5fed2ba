"""A few commits go out at once; many go together."""

import pytest

from voicebus.services.session.pace import BURST, TOGETHER_S, Pace


def test_a_burst_waits_for_nobody() -> None:
    pace = Pace()

    for _ in range(BURST):
        assert pace.rest_s(10.0) == 0
        pace.commit(10.0)
    pace.commit(10.0)

    assert pace.rest_s(10.0) == pytest.approx(TOGETHER_S)


def test_under_load_each_commit_waits_for_its_time() -> None:
    pace = Pace()
    now_s, commits = 10.0, 0
    while now_s < 11.0:
        now_s += max(pace.rest_s(now_s), 0.0001)
        pace.commit(now_s)
        commits += 1

    assert commits == pytest.approx(1 / TOGETHER_S + BURST, abs=2)


def test_what_was_owed_is_forgotten_in_a_silence() -> None:
    pace = Pace()
    for _ in range(1000):
        pace.commit(10.0)

    assert pace.rest_s(10.0 + 1000 * TOGETHER_S) == 0


def test_commits_that_come_seldom_never_wait() -> None:
    pace = Pace()
    for number in range(1000):
        pace.commit(10.0 + number * TOGETHER_S)

        assert pace.rest_s(10.0 + number * TOGETHER_S) == 0
