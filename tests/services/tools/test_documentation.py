"""The snippets of docs/tools.md do what the page says."""

import re
from pathlib import Path

import pytest

import voicebus
from voicebus.services.tools import toolbox

PAGE = Path(voicebus.__file__).parents[2] / "docs" / "tools.md"
SNIPPETS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))


def load(name: str, folder: Path) -> dict[str, toolbox.Tool]:
    file = folder / f"documented_{name}"
    file.write_text(SNIPPETS[name])
    return toolbox.load([str(file)])


def test_the_first_function_needs_nothing_of_ours(tmp_path: Path) -> None:
    found = load("weather.py", tmp_path)["get_weather"]

    assert found.signature.description == "Look up the weather in a city."
    assert found.signature.parameters == {
        "type": "object",
        "properties": {
            "city": {"description": "the city's English name", "type": "string"},
            "days": {"description": "how many days ahead", "type": "integer", "default": 1},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    assert found.target(city="Rome")["temperature"] == 21


def test_a_tool_that_listens_stops_when_it_is_told(tmp_path: Path) -> None:
    found = load("archive.py", tmp_path)["search"]
    said: list[str] = []

    pages = found.target(ctx=voicebus.ToolContext(tell=said.append), words="7 9", pages=200)

    assert pages == [7, 9]
    assert said == ["page 0 of 200", "page 100 of 200"]
    assert "ctx" not in found.signature.parameters["properties"]
    with pytest.raises(voicebus.Cancelled):
        found.target(ctx=voicebus.ToolContext(poll=lambda: "interrupt"), words="7")
