"""Each benchmark in its one-second form: they keep working. What they find is not looked at."""

import importlib
import json
from pathlib import Path

import pytest

from voicebus.benchmarks import bus_cost, core_step, goals, machine, report
from voicebus.benchmarks.__main__ import NAMES
from voicebus.benchmarks.harness import QUICK


@pytest.mark.parametrize("name", [*NAMES, "transports"])
def test_it_runs_and_finds_something(name: str, tmp_path: Path) -> None:
    result = importlib.import_module(f"voicebus.benchmarks.{name}").run(QUICK)

    assert result.figures
    assert all(table.rows for table in result.tables)

    path = report.save(tmp_path, machine.about(), {name: result}, goals.table(result.figures))

    saved = json.loads(path.read_text("utf-8"))
    assert saved["figures"] == result.figures
    for table in result.tables:
        assert table.title in (tmp_path / "run.md").read_text("utf-8")


def test_how_long_a_step_of_the_core_takes_is_found() -> None:
    found = core_step.measure(steps=20)

    assert len(found) > 10
    assert all(took_us > 0 for _, took_us in found)


def test_what_the_bus_alone_costs_is_found(tmp_path: Path) -> None:
    assert bus_cost.main(["--quick", "--out", str(tmp_path / "bus.json")]) == 0

    found = json.loads((tmp_path / "bus.json").read_text("utf-8"))
    assert [row["subscribers"] for row in found["publisher"]] == [1, 4, 16, 64]
    assert all(row["events"] > 1_000 for row in found["flood"])
    assert all(row["events"] > 0 for row in found["age"])
