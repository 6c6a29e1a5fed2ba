"""docs/benchmarks.md shows what was measured: its tables are those of the runs that are kept."""

import json
from pathlib import Path

from voicebus.benchmarks import report
from voicebus.benchmarks.figures import Table

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")


def _runs(name: str) -> list[Path]:
    return sorted((ROOT / "benchmarks" / "results").glob(f"*/{name}"))


def _main_run() -> Path:
    """The one whose machine the page describes."""
    (found,) = [run for run in _runs("run.md") if run.read_text("utf-8").split("\n", 1)[0] in PAGE]
    return found


def test_each_table_of_the_main_run_stands_on_the_page_as_it_was_printed() -> None:
    sections = _main_run().read_text("utf-8").split("\n### ")[1:]
    tables = ["### " + one.strip() for one in sections]

    assert "### Goals" in {table.split("\n", 1)[0] for table in tables}
    assert [table.split("\n", 1)[0] for table in tables if table not in PAGE] == []


def test_each_table_of_the_latest_peers_run_stands_on_the_page_as_it_was_printed() -> None:
    run = json.loads(_runs("peers.json")[-1].read_text("utf-8"))
    tables = [Table(t["title"], tuple(t["columns"]), t["rows"]) for t in run["tables"]]

    assert [one.title for one in tables if report.text(one).strip() not in PAGE] == []


def test_the_table_of_bad_listeners_stands_on_the_page_as_it_was_printed() -> None:
    (run,) = (ROOT / "benchmarks" / "results").glob("*-listeners/run.json")
    (table,) = [
        Table(t["title"], tuple(t["columns"]), t["rows"])
        for t in json.loads(run.read_text("utf-8"))["tables"]
        if t["title"].startswith("Age of sound")
    ]

    assert report.text(table).strip() in PAGE
