"""Every snippet of docs/tools.md does what the page says: the page itself is what is run."""

import ast
import asyncio
import inspect
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import voicebus
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import scene
from tests.services.tools.conftest import Cell, DrivenPool, value
from voicebus.bus import testing
from voicebus.cli import stack as cells
from voicebus.cli.testing import Stack
from voicebus.services.tools import runner, settings, toolbox

HERE = Path(__file__).parent
TEXT = (Path(voicebus.__file__).parents[2] / "docs" / "tools.md").read_text("utf-8")
FENCES = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", TEXT, re.DOTALL | re.MULTILINE)
SNIPPETS = {code.splitlines()[0].lstrip("# ").split("  ")[0]: code for _, code in FENCES}
"""First line, without what it says at its end -> snippet."""
RUN: set[str] = set()
MODULES = ("weather.py", "archive.py", "notes.py", "refunds.py")


def runs(first_line: str) -> pytest.MarkDecorator:
    """The test gets this snippet of the page as `code`."""
    RUN.add(first_line)
    return pytest.mark.parametrize("code", [SNIPPETS[first_line]], ids=[first_line])


def written(name: str, folder: Path) -> Path:
    """A module of the page, as a file."""
    file = folder / name
    file.write_text(SNIPPETS[name])
    return file


async def awaited(code: str, **names: Any) -> dict[str, Any]:
    """Run code that awaits, as if it stood in an async function. Its variables."""
    compiled = compile(code, "docs/tools.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(compiled, names)
    if inspect.isawaitable(running):
        await running
    return names


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack, home: Path) -> Stack:
    return start_shared_stack(
        scenario=HERE / "scenarios" / "tools_page.toml",
        tools=[str(written(name, home)) for name in MODULES],
        environment={**os.environ, "HOME": str(home)},
    )


def test_no_snippet_of_the_page_is_left_out() -> None:
    assert len(SNIPPETS) == len(FENCES) == TEXT.count("```") // 2
    assert set(SNIPPETS) == RUN
    assert {name for name in SNIPPETS if re.fullmatch(r"\w+\.py", name)} == set(MODULES)


# --- the first function -------------------------------------------------------------------------


@runs("weather.py")
def test_the_first_function_needs_nothing_of_ours(code: str, tmp_path: Path) -> None:
    found = toolbox.load([str(written("weather.py", tmp_path))])["get_weather"]

    assert "import" not in code
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


@runs("voicebus up --tools weather.py")
async def test_the_commands_start_it_ask_it_and_stop_it(code: str, tmp_path: Path) -> None:
    written("weather.py", tmp_path)
    bin_folder = Path(sys.executable).parent
    with testing.run_folder() as run_dir:
        ours = ("VOICEBUS_", "OPENAI_")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "VOICEBUS_RUN": str(run_dir),
            "VOICEBUS_SIMULATOR_SPEECH": "off",
        }
        try:
            shell = await asyncio.create_subprocess_exec(
                *("bash", "-euc", code),
                cwd=tmp_path,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said = (await shell.communicate())[0].decode()
        finally:
            cells.stop(run_dir)

    assert shell.returncode == 0, said
    assert "get_weather" in said
    assert "in Rome" in said, said


# --- in a conversation --------------------------------------------------------------------------


@runs("archive.py")
async def test_a_tool_that_listens_tells_how_far_it_is_and_stops(code: str, tmp_path: Path) -> None:
    found = toolbox.load([str(written("archive.py", tmp_path))])["search"]
    said: list[str] = []

    pages = found.target(ctx=voicebus.ToolContext(tell=said.append), words="7 9", pages=200)

    assert pages == [7, 9]
    assert said == ["page 0 of 200", "page 100 of 200"]
    assert "ctx" not in found.signature.parameters["properties"]
    with pytest.raises(voicebus.Cancelled):
        found.target(ctx=voicebus.ToolContext(poll=lambda: "interrupt"), words="7")
    assert code.count("raises Cancelled") == 1


@runs("notes.py")
async def test_a_second_attempt_writes_the_same_note(code: str, cell: Stack, home: Path) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.turn("a note, please")
        [begun] = caller.found("tool_call_dispatched")
    found = toolbox.load([str(written("notes.py", home))])["take_note"]
    note = home / f"note-{caller.id}-{begun.data.call_id}.txt"

    assert note.read_text() == "tea at five"
    assert found.options.effects == "idempotent"
    assert "ctx.idempotency_key" in code


@runs("refunds.py")
@pytest.mark.parametrize(
    ("words", "ends"),
    [("refund a little", "tool_call_completed"), ("refund a lot", "tool_call_failed")],
)
async def test_a_refund_asks_first_and_the_clients_loop_answers(
    code: str, words: str, ends: str, cell: Stack
) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        loop = asyncio.create_task(awaited(APPROVES, session=caller.session))
        await caller.turn(words)
        [asked] = caller.found("approval_requested")
        ended = await caller.event(ends)
        loop.cancel()

    assert asked.data.name == "refund"
    assert ended.data.call_id == asked.data.call_id
    if ends == "tool_call_failed":
        assert ended.data.reason == "denied"
        assert "ask the manager" in ended.data.error
    assert "approval=True" in code


APPROVES = SNIPPETS["In a client: who decides, and when nobody is asked."]


@runs("In a client: who decides, and when nobody is asked.")
def test_the_loop_that_answers_is_the_one_that_was_run(code: str) -> None:
    assert code is APPROVES


@runs("In a client: off by default.")
async def test_a_filler_is_said_while_a_tool_runs(code: str, cell: Stack) -> None:
    async with scene(cell) as on:
        session = (await awaited(code, client=on.client))["session"]
        await session.send_text("search the archive")
        await on.tape.until(
            lambda: len(on.tape.sent_to_provider(session.id, "response.create")) == 2,
            "the filler's response",
        )
        await session.close()
        _, filler = on.tape.sent_to_provider(session.id, "response.create")

    assert filler["response"]["tool_choice"] == "none"


# --- settings -----------------------------------------------------------------------------------


@runs("tools.toml, a secret")
async def test_the_secret_reaches_the_tool_that_is_named(code: str, tmp_path: Path) -> None:
    (tmp_path / "tools.toml").write_text(code)
    key = tmp_path / "weather.key"
    key.touch(0o600)
    key.write_text("w-secret\n")
    module = tmp_path / "weather.py"
    module.write_text(
        "from voicebus import ToolContext\n"
        "def get_weather(ctx: ToolContext) -> str:\n"
        '    """Tell the key."""\n'
        '    return ctx.secret("WEATHER_KEY")\n'
    )
    secrets = settings.read_secrets(settings.load(tmp_path / "tools.toml"))
    driven = DrivenPool(runner.Limits(), 1, specs=(str(module),), secrets=secrets)
    await driven.pool.start()
    try:
        assert value(await driven.run("get_weather")) == "w-secret"
    finally:
        driven.pool.close()


SERVER = """
from mcp.server import MCPServer
server = MCPServer("files")
@server.tool()
def read_file(path: str) -> str:
    "Read a file."
    return f"what is in {path}"
@server.tool()
def write_file(path: str) -> str:
    "Not for the model."
    return path
server.run()
"""


@runs("tools.toml, a server")
async def test_the_tools_of_the_server_have_their_prefix(code: str, tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="the MCP SDK is not installed: pip install 'voicebus[mcp]'")
    file = tmp_path / "tools.toml"
    file.write_text(code)
    documented = settings.load(file).mcp["files"]
    assert documented.command is not None
    stand_in = tmp_path / "server.py"
    stand_in.write_text(SERVER)
    # The server of the page comes over the network: another one answers in its place.
    file.write_text(code.replace(documented.command, shlex.join([sys.executable, str(stand_in)])))
    with testing.run_folder() as run_dir:
        pool = Cell(run_dir, settings={"VOICEBUS_TOOLHOST_TOOLS_FILE": str(file)})
        try:
            pool.start("dispatcher")
            pool.start("toolhost")
            pool.follow()
            await pool.until(lambda: "files_read_file" in pool.catalogue)
            outcome = await pool.run("files_read_file", path="/srv/notes/a")
        finally:
            pool.close()

    assert (outcome.status, outcome.result) == ("ok", {"result": "what is in /srv/notes/a"})
    assert not [name for name in pool.catalogue if "write" in name]
