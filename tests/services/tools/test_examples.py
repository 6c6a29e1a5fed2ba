"""The example tools do what their docstrings tell a model."""

from pathlib import Path

import pytest

import voicebus
from voicebus import Cancelled, ToolContext
from voicebus.services.tools import toolbox

DEMO = Path(voicebus.__file__).parents[2] / "examples" / "tools" / "demo.py"


@pytest.fixture(scope="module")
def tools() -> dict[str, toolbox.Tool]:
    return toolbox.load([str(DEMO)])


def test_the_weather_is_known_however_the_city_is_written(tools: dict[str, toolbox.Tool]) -> None:
    assert tools["get_weather"].target(city=" new YORK ") == {
        "city": "New York",
        "temperature": 18,
        "sky": "cloudy",
    }


def test_an_unknown_city_is_an_error_that_names_the_known_ones(
    tools: dict[str, toolbox.Tool],
) -> None:
    with pytest.raises(ValueError, match=r"no weather for 'Atlantis'.*Berlin"):
        tools["get_weather"].target(city="Atlantis")


def test_the_time_is_told_for_a_time_zone(tools: dict[str, toolbox.Tool]) -> None:
    assert tools["current_time"].target(timezone="Asia/Tokyo")["timezone"] == "Asia/Tokyo"
    with pytest.raises(ValueError, match="no time zone 'Mars'"):
        tools["current_time"].target(timezone="Mars")


def test_the_archive_search_stops_and_records_when(
    tools: dict[str, toolbox.Tool], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Cancelled):
        tools["search_archive"].target(ctx=ToolContext(poll=lambda: "interrupt"), query="x")

    assert "seen_monotonic_us" in capsys.readouterr().out


def test_the_archive_search_finds_something_in_the_end(tools: dict[str, toolbox.Tool]) -> None:
    said: list[str] = []

    found = tools["search_archive"].target(
        ctx=ToolContext(tell=said.append), query="tea", seconds=0.02
    )

    assert found["query"] == "tea"
    assert said


@pytest.mark.parametrize("tool", ["burn_cpu", "block_gil", "nap"])
def test_the_others_take_as_long_as_they_are_told(
    tools: dict[str, toolbox.Tool], tool: str
) -> None:
    assert tools[tool].target(seconds=0.01)["seconds"] >= 0.01
