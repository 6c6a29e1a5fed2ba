"""docs/benchmarks.md shows what was measured: its tables are those of the runs that are kept."""

import json
from pathlib import Path

import pytest

from voicebus.benchmarks import page, report
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


def test_another_run_takes_the_place_of_the_one_that_is_shown() -> None:
    old = _main_run().read_text("utf-8")
    new = old.replace("reached", "missed").replace("| 1 ", "| 7 ").replace("cores: 2", "cores: 9")

    there = page.shown(PAGE, old, new)

    assert [title for title, table in page.sections(new).items() if table not in there] == []
    assert page.shown(there, new, old) == PAGE != there


def test_a_table_that_is_new_stands_after_the_one_it_follows_in_the_run() -> None:
    old = "- at: then\n\n### A\n\n| 1 |\n\n### B\n\n| 2 |\n"
    new = "- at: now\n\n### A\n\n| 3 |\n\n### New\n\n| 4 |\n\n### B\n\n| 5 |\n"
    shows = "# Page\n\n- at: then\n\nSome words.\n\n### A\n\n| 1 |\n\nMore.\n\n### B\n\n| 2 |\n"

    assert page.shown(shows, old, new) == (
        "# Page\n\n- at: now\n\nSome words.\n\n### A\n\n| 3 |\n\n### New\n\n| 4 |\n\nMore.\n\n"
        "### B\n\n| 5 |\n"
    )


def test_a_page_that_shows_something_else_is_left_alone() -> None:
    run = "- at: then\n\n### A\n\n| 1 |\n"

    with pytest.raises(ValueError, match="'A' of the old run"):
        page.shown("- at: then\n\n### A\n\n| 2 |\n", run, run)
