"""Every cell of: what the tool does, how it ends, what a second run would do. Real processes.

What must come out is the table of docs/tools.md.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

import voicebus
from tests.services.tools.conftest import Cell

DEEDS = str(Path(__file__).parent / "samples" / "deeds.py")
PAGE = Path(voicebus.__file__).parents[2] / "docs" / "tools.md"
EFFECTS = ("none", "idempotent", "once")
TIME_S = 10.0
"""What a deed has that never ends, and takes all of it: enough to begin and to start fifty
processes on a machine that others use."""
AMPLE_S = 60.0
"""What one has that ends; only a failure takes all of it."""
REFUSED = "gets_wrong_arguments"


def _table() -> dict[str, dict[str, str]]:
    """Ending -> deed -> outcome, as the page tells it."""
    text = PAGE.read_text("utf-8").split("| the tool |", 1)[1].split("\n\n", 1)[0]
    head, _, *rows = ("| the tool |" + text).splitlines()
    endings = [one.strip() for one in head.strip("|").split("|")][1:]
    found: dict[str, dict[str, str]] = {one: {} for one in endings}
    for row in rows:
        deed, *outcomes = [one.strip() for one in row.strip("|").split("|")]
        name = re.sub(r"\W+_?", "_", deed.lower().replace("os._exit", "os_exit"))
        for ending, outcome in zip(endings, outcomes, strict=True):
            found[ending][name] = outcome
    return found


TABLE = _table()


@asynccontextmanager
async def pool(
    folder: Path, effects: str, timeout_s: float, patience_s: float = AMPLE_S
) -> AsyncIterator[Cell]:
    """A dispatcher and one host with a runner for each deed. Those that never end have
    `timeout_s`, the others `patience_s`."""
    tools_file = folder / "tools.toml"
    tools_file.write_text(
        '[tools]\nenvironment = ["DEEDS_FOLDER", "DEEDS_EFFECTS", "DEEDS_PATIENCE_S"]\n'
        f"[limits]\ntimeout_s = {timeout_s}\n"
    )
    cell = Cell(
        folder,
        tools=DEEDS,
        settings={
            "DEEDS_FOLDER": str(folder),
            "DEEDS_EFFECTS": effects,
            "DEEDS_PATIENCE_S": str(patience_s),
            "VOICEBUS_TOOLHOST_TOOLS_FILE": str(tools_file),
            "VOICEBUS_TOOLHOST_RUNNERS": str(len(TABLE["by itself"])),
            "VOICEBUS_DISPATCHER_PER_SESSION_RUNNING": "50",
        },
    )
    try:
        cell.start("dispatcher")
        cell.start("toolhost")
        cell.follow()
        await cell.until(lambda: "returns" in cell.catalogue)
        yield cell
    finally:
        cell.close()


async def submit(cell: Cell, folder: Path) -> dict[str, str]:
    """One call of each deed: deed -> call. The one with much to do before it has begun goes ahead:
    beside those that take all there is, its time could be up before that."""
    busiest = "starts_fifty_processes"
    calls = {busiest: cell.submit(busiest)}
    await noted(folder, {*calls.values()})
    return calls | {deed: cell.submit(deed) for deed in TABLE["by itself"] if deed != busiest}


async def noted(folder: Path, calls: set[str]) -> None:
    """Until these have said themselves that they have begun."""
    begun = folder / "begun"
    async with asyncio.timeout(AMPLE_S):
        while not begun.exists() or not calls <= {*begun.read_text().split()}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def all_run(cell: Cell, folder: Path, calls: dict[str, str]) -> None:
    """Until each deed has begun; the one that is called wrongly never does."""
    waited = {call for deed, call in calls.items() if deed != REFUSED}
    await noted(folder, waited)
    try:
        await cell.until(lambda: waited <= cell.begun | cell.outcomes.keys())
    except TimeoutError:
        missing = [deed for deed, call in calls.items() if call not in cell.begun]
        raise AssertionError(f"nobody said that these began: {missing}") from None


async def ended(
    cell: Cell, folder: Path, calls: dict[str, str], runs: Callable[[str], int]
) -> dict[str, str]:
    """How each call ended; and that each began so often, and left no process behind."""
    try:
        await cell.until(lambda: set(calls.values()) <= cell.outcomes.keys())
    except TimeoutError:
        missing = {deed: call for deed, call in calls.items() if call not in cell.outcomes}
        logs = [cell.log_of(one, *missing.values()) for one in ("toolhost", "dispatcher")]
        raise AssertionError("\n".join([f"these calls did not end: {missing}", *logs])) from None
    found: dict[str, str] = {deed: cell.outcomes[call].status for deed, call in calls.items()}
    times = Counter((folder / "begun").read_text().split())
    assert {deed: times[call] for deed, call in calls.items()} == {
        deed: 0 if deed == REFUSED else runs(deed) for deed in calls
    }
    pids = [int(pid) for pid in (folder / "children").read_text().split()]
    children = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(children, timeout=AMPLE_S)
    assert len(pids) >= 50
    assert alive == []
    return found


def test_the_page_tells_of_every_deed_that_is_tried() -> None:
    text = Path(DEEDS).read_text("utf-8")

    assert set(TABLE["by itself"]) == set(re.findall(r"@(?:marked|ending)\ndef (\w+)", text))


@pytest.mark.parametrize("effects", EFFECTS)
async def test_calls_that_end_by_themselves(folder: Path, effects: str) -> None:
    (folder / "go").touch()
    async with pool(folder, effects, timeout_s=TIME_S) as cell:
        found = await ended(cell, folder, await submit(cell, folder), lambda _deed: 1)

    assert found == TABLE["by itself"]


@pytest.mark.parametrize("effects", EFFECTS)
async def test_calls_that_are_cancelled(folder: Path, effects: str) -> None:
    async with pool(folder, effects, timeout_s=60) as cell:
        calls = await submit(cell, folder)
        await all_run(cell, folder, calls)
        for call in calls.values():
            cell.cancel(call)
        found = await ended(cell, folder, calls, lambda _deed: 1)

    assert found == TABLE["cancelled"]


@pytest.mark.parametrize("effects", EFFECTS)
async def test_calls_whose_time_is_up(folder: Path, effects: str) -> None:
    async with pool(folder, effects, timeout_s=TIME_S, patience_s=TIME_S) as cell:
        found = await ended(cell, folder, await submit(cell, folder), lambda _deed: 1)

    assert found == TABLE["past its deadline"]


@pytest.mark.parametrize("effects", EFFECTS)
async def test_calls_whose_host_is_killed(folder: Path, effects: str) -> None:
    async with pool(folder, effects, timeout_s=TIME_S) as cell:
        calls = await submit(cell, folder)
        await all_run(cell, folder, calls)
        cell.kill("toolhost-0")
        cell.start("toolhost")
        found = await ended(cell, folder, calls, lambda _deed: 1 if effects == "once" else 2)

    column = "`once`" if effects == "once" else "`none` or `idempotent`"
    assert found == TABLE[f"host killed, {column}"]


@pytest.mark.parametrize("effects", EFFECTS)
async def test_calls_whose_dispatcher_is_restarted(folder: Path, effects: str) -> None:
    async with pool(folder, effects, timeout_s=TIME_S) as cell:
        calls = await submit(cell, folder)
        await all_run(cell, folder, calls)
        cell.kill("dispatcher-0")
        cell.start("dispatcher")
        cell.follow()
        for call in calls.values():
            cell.submit_again(call)
        (folder / "go").touch()
        found = await ended(cell, folder, calls, lambda _deed: 1)

    assert found == TABLE["dispatcher restarted"]
