"""Tools written for Mojentic, on its own LLMTool class, run unchanged through the pool.

Needs the `mojentic` package: in this environment, or in benchmarks/.venvs/mojentic
(`make bench-peers` makes it). Skipped where it is in neither.
"""

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import voicebus
from tests.services.tools.conftest import Cell

VENV = Path(voicebus.__file__).parents[2] / "benchmarks" / ".venvs" / "mojentic"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
TOOLS = '''
from mojentic.llm.tools.date_resolver import ResolveDateTool
from mojentic.llm.tools.llm_tool import LLMTool


class Greeter(LLMTool):
    """A user's own, as Mojentic's documentation shows it."""

    def __init__(self, greeting):
        super().__init__()
        self.greeting = greeting

    def run(self, name, ctx=None):
        if not name:
            raise ValueError("whom?")
        return {"text": f"{self.greeting}, {name}!", "stopped": ctx.cancelled}

    @property
    def descriptor(self):
        return {
            "type": "function",
            "function": {
                "name": "greet",
                "description": "Greet somebody.",
                "parameters": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}},
                    "required": ["name"],
                },
            },
        }


greeter = Greeter("Good day")
resolver = ResolveDateTool()
'''


def packages() -> list[str]:
    """The folders to search besides, for `import mojentic`. Skips where there is none."""
    if importlib.util.find_spec("mojentic") is not None:
        return []
    found = VENV / "lib" / VERSION / "site-packages"
    if not (found / "mojentic").is_dir():
        pytest.skip(f"mojentic is installed neither here nor in {VENV} for {VERSION}")
    return [str(found)]


@pytest.fixture
async def mojentic(folder: Path) -> AsyncIterator[Cell]:
    """A pool whose tools are objects of Mojentic's class."""
    tools_file = folder / "tools.toml"
    tools_file.write_text(f"[tools]\npath = {packages()}\n")
    module = folder / "llm_tools.py"
    module.write_text(TOOLS)
    made = Cell(
        folder, tools=str(module), settings={"VOICEBUS_TOOLHOST_TOOLS_FILE": str(tools_file)}
    )
    made.start("dispatcher")
    made.start("toolhost")
    made.follow()
    try:
        await made.until(lambda: bool(made.catalogue))
        yield made
    finally:
        made.close()


async def test_objects_of_mojentics_own_class_run_unchanged(mojentic: Cell) -> None:
    date = await mojentic.run("resolve_date", relative_date_found="tomorrow")
    greeting = await mojentic.run("greet", name="Ada")
    nobody = await mojentic.run("greet", name="")

    assert sorted(mojentic.catalogue) == ["greet", "resolve_date"]
    assert date.status == "ok"
    assert date.result["relative_date"] == "tomorrow"
    assert date.result["resolved_date"]
    assert (greeting.status, greeting.result) == (
        "ok",
        {"text": "Good day, Ada!", "stopped": False},
    )
    assert nobody.status == "error"
    assert nobody.failure is not None
    assert nobody.failure.message == "ValueError: whom?"
