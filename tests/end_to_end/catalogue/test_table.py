"""The table of the scenarios is whole: every number once, every file there and played."""

import re
from pathlib import Path

import pytest

from tests.end_to_end.catalogue.playing import SCENARIOS
from voicebus.services.simulator import server
from voicebus.services.simulator.server import load_scenario

ROOT = Path(__file__).parents[3]
NUMBERS = [*range(1, 71), *range(74, 79)]
AT_A_PROVIDER_OF_THE_TESTS_OWN = {66, 67, 68}
FOLDERS = (SCENARIOS, SCENARIOS.parent / "scenarios", server.SCENARIOS)
_rows = re.findall(
    r"^\| (\d+) \| (?:.*?) \| (?:.*?) \| (.*?) \| (.*?) \| (.*?) \|$",
    (ROOT / "docs" / "scenarios.md").read_text("utf-8"),
    re.MULTILINE,
)
_files = {int(number): re.findall(r"`(\w+)`", files) for number, files, _, _ in _rows}


def test_the_table_has_every_number_once() -> None:
    assert [int(number) for number, *_ in _rows] == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_each_scenario_has_a_file_that_can_be_loaded_and_says_what_it_is(number: int) -> None:
    assert bool(_files[number]) != (number in AT_A_PROVIDER_OF_THE_TESTS_OWN)
    for name in _files[number]:
        (path,) = [folder / f"{name}.toml" for folder in FOLDERS if _is_in(folder, name)]
        assert load_scenario(str(path)).about
        assert name.startswith(f"{number:02}_") or not name[0].isdigit()


def _is_in(folder: Path, name: str) -> bool:
    return (folder / f"{name}.toml").is_file()


def test_each_scenario_is_shown_through_processes() -> None:
    end_to_end = {
        name
        for path in SCENARIOS.parent.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    }
    shown = {int(row): re.findall(r"`(test_\w+)`", tests) for row, _, tests, _ in _rows}

    assert [number for number, tests in shown.items() if not tests] == []
    assert {test for tests in shown.values() for test in tests} <= end_to_end


def test_each_file_of_the_catalogue_is_in_the_table_and_played() -> None:
    named = {name for names in _files.values() for name in names}
    played = {
        name
        for path in SCENARIOS.glob("test_*.py")
        for name in re.findall(r'"(\w+)"', path.read_text("utf-8"))
    }
    there = {path.stem for path in SCENARIOS.glob("*.toml")}

    assert there <= named
    assert there <= played
