"""The example workers serve a real dispatcher, and keep the protocol."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.services.tools.conftest import Cell
from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints

Need = Callable[[str], dict[str, str]]

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS: dict[str, list[str]] = {
    "python": [sys.executable, str(EXAMPLES / "workers" / "worker.py")],
    "node": ["node", str(EXAMPLES / "workers" / "worker.js")],
    "c": [str(EXAMPLES.parent / "var" / "examples" / "c" / "worker")],
}


def checked(worker: list[str], environment: dict[str, str], *calls: str) -> dict[str, str]:
    """Rule -> verdict of `voicebus worker check`, which finds none broken."""
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-c", "from voicebus.cli.main import run; run()"),
            *("worker", "check", shlex.join(worker), "--json", *calls),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {one["rule"]: one["verdict"] for one in json.loads(done.stdout)}


@pytest.fixture
def folder() -> Iterator[Path]:
    with testing.run_folder() as path:
        yield path


@asynccontextmanager
async def serving(
    folder: Path, command: list[str], environment: dict[str, str]
) -> AsyncIterator[Cell]:
    """A dispatcher that knows the worker's tool."""
    cell = Cell(folder)
    try:
        cell.start("dispatcher")
        cell.start_stranger(command, environment)
        cell.follow()
        await cell.until(lambda: "shout" in cell.catalogue)
        yield cell
    finally:
        cell.close()


@pytest.mark.parametrize("language", COMMANDS)
async def test_a_worker_in_any_language_serves_calls(
    need: Need, folder: Path, language: str
) -> None:
    async with serving(folder, COMMANDS[language], need(language)) as cell:
        answered = await cell.run("shout", text="hello", times=2)
        wrong = await cell.run("shout", times=2)
        stopped = await cell.running("shout", text="later", seconds=60)
        cell.cancel(stopped)
        late = await cell.run("shout", text="later", seconds=60, budget_ms=300)

        assert (answered.status, answered.result) == ("ok", "HELLO!HELLO!")
        assert cell.said[answered.call_id] == ["taking a deep breath"]
        assert wrong.status == "invalid_arguments"
        assert (await cell.outcome(stopped)).status == "cancelled"
        assert late.status == "timeout"


@pytest.mark.parametrize("language", ["node", "c"])
def test_a_worker_in_another_language_keeps_every_rule(need: Need, language: str) -> None:
    found = checked(
        COMMANDS[language],
        need(language),
        *("--quick", 'shout={"text":"hi"}'),
        *("--slow", 'shout={"text":"hi","seconds":30}'),
        *("--large", 'shout={"text":"ho","times":1000000}'),
        *("--crash", 'shout={"text":""}'),
    )

    assert set(found.values()) == {"kept"}, found


SHORT = {
    "python": [sys.executable, str(EXAMPLES / "workers" / "short.py")],
    "node": ["node", str(EXAMPLES / "workers" / "short.js")],
    "c": [str(EXAMPLES.parent / "var" / "examples" / "c" / "short")],
}


@pytest.mark.parametrize("language", SHORT)
def test_the_shortest_worker_keeps_every_rule_that_a_quick_tool_can_break(
    need: Need, language: str
) -> None:
    found = checked(SHORT[language], need(language), "--quick", 'shout={"text":"hi"}')

    assert [rule for rule, verdict in found.items() if verdict == "not tried"] == [
        "progress",
        "repeated_while_it_runs",
        "cancel",
        "cancel_before_its_call",
        "deadline",
        "oversize_result",
        "crash",
        "dispatcher_restart",
    ]
    assert "broken" not in found.values()


@pytest.mark.parametrize("language", SHORT)
async def test_the_shortest_worker_answers_or_says_what_is_wrong(
    need: Need, folder: Path, language: str
) -> None:
    async with serving(folder, SHORT[language], need(language)) as cell:
        answered = await cell.run("shout", text="grüß dich")
        wrong = await cell.run("shout", text="")

        assert answered.status == "ok"
        assert answered.result.startswith("GR")
        assert answered.result.endswith(" DICH!")
        assert wrong.status == "invalid_arguments"
        assert wrong.failure is not None
        assert "text" in wrong.failure.message


@pytest.mark.parametrize(("language", "command"), [*COMMANDS.items(), *SHORT.items()])
async def test_a_worker_says_where_it_waits_for_a_dispatcher(
    need: Need, folder: Path, language: str, command: list[str]
) -> None:
    environment = need(language)
    cell = Cell(folder)
    try:
        worker = cell.start_stranger(command, environment, stderr=subprocess.PIPE)
        assert worker.stderr is not None
        with worker.stderr as told:
            said = (await asyncio.to_thread(told.readline)).decode()

            assert said.startswith(f"nothing answers at {cell.endpoints.workers}: is voicebus up")
            cell.start("dispatcher")
            cell.follow()
            await cell.until(lambda: "shout" in cell.catalogue)
    finally:
        cell.close()


def test_the_endpoint_that_strangers_connect_to_follows_from_the_run_folder(folder: Path) -> None:
    assert Endpoints(folder).workers == f"ipc://{os.path.abspath(folder)}/tools.workers"
