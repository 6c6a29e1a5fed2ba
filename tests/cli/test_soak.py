import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from voicebus.cli import main
from voicebus.cli.soak import Sample, _own_kb, draw, growth, judge, verdict


def samples(
    minutes: int,
    *,
    mb_per_hour: float = 0.0,
    code_mb_per_hour: float = 0.0,
    fds_per_hour: float = 0.0,
) -> list[Sample]:
    """One in ten seconds; the first ten minutes fill buffers up."""
    found = []
    for n in range(minutes * 6):
        at_s = n * 10.0
        kb = 400_000 - max(0.0, 600 - at_s) * 100 + mb_per_hour * 1024 * at_s / 3600
        code_kb = 9000 + code_mb_per_hour * 1024 * at_s / 3600
        fds = 200 + fds_per_hour * at_s / 3600
        found.append(
            Sample(
                at_s,
                {
                    "session-0": int(kb / 2 + code_kb),
                    "transport-0": int(kb / 2),
                    "simulator-0": n * 999,
                },
                {"session-0": int(kb / 2), "transport-0": int(kb / 2), "simulator-0": n * 999},
                {"session-0": int(fds), "simulator-0": n * 9},
            )
        )
    return found


def test_what_fills_up_in_the_first_ten_minutes_is_no_growth() -> None:
    found = judge(samples(60))

    assert found["is_long_enough"]
    assert not found["grows"]
    assert abs(found["own_percent_per_hour"]) < 0.1


@pytest.mark.parametrize("grow", [{"mb_per_hour": 8.0}, {"fds_per_hour": 6.0}])
def test_more_than_a_percent_an_hour_is_growth(grow: dict[str, float]) -> None:
    assert judge(samples(60, **grow))["grows"]


def test_a_short_run_is_not_judged() -> None:
    found = judge(samples(3, mb_per_hour=1000.0))

    assert not found["is_long_enough"]
    assert not found["grows"]
    assert found["own_percent_per_hour"] > 1


def test_a_larger_share_of_code_is_growth_and_told_apart_from_memory_of_its_own() -> None:
    found = judge(samples(60, code_mb_per_hour=20.0))

    assert found["grows"]
    assert found["own_percent_per_hour"] < 1 < found["pss_percent_per_hour"]
    assert "let no other program end beside it" in verdict(found)
    assert "beside it" not in verdict(judge(samples(60, mb_per_hour=8.0)))


def test_what_was_judged_is_said() -> None:
    assert verdict(judge(samples(3, mb_per_hour=1000.0))) == "too short to judge"
    assert verdict(judge(samples(60))) == "no growth"


def test_a_process_tells_what_memory_is_its_own() -> None:
    before = _own_kb(os.getpid())
    kept = bytearray(os.urandom(1)) * 64_000_000
    after = _own_kb(os.getpid())

    if before is None or after is None:
        pytest.skip("only Linux tells")
    assert 60_000 < after - before < 70_000
    assert len(kept) == 64_000_000


def test_growth_is_percent_of_the_mean_per_hour() -> None:
    assert growth([(0.0, 99.0), (3600.0, 101.0)]) == pytest.approx(2.0)
    assert growth([(0.0, 99.0)]) == 0.0


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    assert draw(samples(3), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("mb_per_hour", "lost", "code", "told"),
    [
        (0.0, [], 0, "no growth"),
        (8.0, [], 1, "GROWS by more than 1 %"),
        (0.0, ["an event was lost"], 1, "1 lost or repeated"),
    ],
)
def test_a_soak_in_which_memory_grows_or_anything_is_lost_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mb_per_hour: float,
    lost: list[str],
    code: int,
    told: str,
) -> None:
    """An hour is told here; the conversations of a real one are those of chaos."""

    async def an_hour(*given: Any) -> None:
        *_, result, taken = given
        result.tally.faults += lost
        taken += samples(60, mb_per_hour=mb_per_hour)

    stack = SimpleNamespace(start=lambda wish: None, stop=lambda folder: None)
    monkeypatch.setattr("voicebus.cli.soak.stack", stack)
    monkeypatch.setattr("voicebus.cli.soak._run", an_hour)
    words = ["soak", "--out", str(tmp_path)]

    done = CliRunner().invoke(main.build(words), words)

    assert done.exit_code == code, done.output
    assert told in done.output
    assert json.loads((tmp_path / "soak.json").read_text())["grows"] == (mb_per_hour > 0)
