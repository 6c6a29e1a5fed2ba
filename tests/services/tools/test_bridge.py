"""MCP servers as workers: their tools beside the others, with the same deadlines and outcomes."""

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed: pip install 'voicebus[mcp]'")

from tests.ports import free_port
from tests.services.tools.conftest import Cell
from voicebus.bus.messages import work
from voicebus.services.runtime import CannotStart
from voicebus.services.tools import bridge, settings

LITTLE = Path(__file__).parent / "samples" / "little_mcp.py"
COMMAND = shlex.join([sys.executable, str(LITTLE)])


@asynccontextmanager
async def pool(folder: Path, server: str) -> AsyncIterator[Cell]:
    """A dispatcher and a host with tools of its own, and an MCP server beside them."""
    tools_file = folder / "tools.toml"
    tools_file.write_text(f"[mcp.little]\n{server}\n")
    settings = {"VOICEBUS_TOOLHOST_TOOLS_FILE": str(tools_file), "OPENAI_API_KEY": "sk-secret"}
    cell = Cell(folder, settings=settings)
    try:
        cell.start("dispatcher")
        cell.start("toolhost")
        cell.follow()
        await cell.until(lambda: any("add" in name for name in cell.catalogue))
        await cell.until(lambda: "echo" in cell.catalogue)
        yield cell
    finally:
        cell.close()


@pytest.fixture
async def bridged(folder: Path) -> AsyncIterator[Cell]:
    async with pool(folder, f"command = {COMMAND!r}\ntimeout_s = 30.0") as cell:
        yield cell


@pytest.fixture
def served() -> Iterator[str]:
    """The address of a server that speaks HTTP."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(LITTLE), str(port)], stderr=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


async def test_the_tools_of_a_server_stand_beside_the_others(bridged: Cell) -> None:
    added = await bridged.run("add", a=2, b=3)
    shaped = await bridged.run("table", rows=2)
    own = await bridged.run("echo", text="hello")

    assert (added.status, added.result) == ("ok", {"result": "2 and 3 are 5"})
    assert shaped.result == {"rows": 2, "cells": 4}
    assert own.result == "hello"


async def test_a_tool_whose_name_no_provider_takes_is_left_out_and_said_so(bridged: Cell) -> None:
    said = bridged.log_of("toolhost", "tool.left_out")

    assert [one for one in bridged.catalogue if "files" in one] == []
    assert "'files.read' is not 1 to 64 letters" in said


async def test_what_goes_wrong_there_is_told_to_the_model(bridged: Cell) -> None:
    failed = await bridged.run("fail")
    wrong = await bridged.run("add", a="two")
    long = await bridged.run("much")

    assert failed.failure is not None
    assert "no such city" in failed.failure.message
    assert wrong.failure is not None
    assert "b" in wrong.failure.message
    assert long.failure is not None
    assert "the limit is 262144" in long.failure.message
    assert {one.status for one in (failed, wrong, long)} == {"error"}


async def test_a_cancel_reaches_the_server(bridged: Cell) -> None:
    call_id = await bridged.running("count")
    await bridged.until(lambda: bool(bridged.said.get(call_id)))

    bridged.broadcast(call_id)
    outcome = await bridged.outcome(call_id)

    assert outcome.status == "cancelled"
    assert (await bridged.run("cancels")).result == {"result": "1"}


class Heard:
    """A membership that keeps what it is told."""

    def __init__(self) -> None:
        self.results: list[work.Result] = []

    def ended(self, result: work.Result) -> None:
        self.results.append(result)

    def changed(self) -> None:
        """No matter."""


async def test_a_cancel_that_comes_along_with_its_call_ends_it_and_frees_its_place() -> None:
    heard: Any = Heard()
    spec = work.ToolSpec(name="add", parameters={"type": "object"})
    server = settings.McpServer(command="little", concurrency=1)
    one = bridge.Bridge(cast(Any, None), {"add": spec}, server, result_bytes=1024)
    one.member = heard
    call = work.Call(session_id="s", call_id="c", tool="add", args={}, epoch=0, budget_ms=60_000)

    one.call(call)
    one.cancel(("s", "c"), "interrupt")
    for _ in range(3):  # the task's only step, and its end
        await asyncio.sleep(0)

    assert [(said.status, said.started) for said in heard.results] == [("cancelled", False)]
    assert one.free("sync") == 1


async def test_its_calls_have_deadlines(bridged: Cell) -> None:
    outcome = await bridged.run("count", budget_ms=2000)

    assert outcome.status == "timeout"
    assert bridged.said[outcome.call_id][:2] == ["0 of 600", "1 of 600"]


async def test_a_server_that_ends_is_started_again(bridged: Cell) -> None:
    died = await bridged.run("die")

    added = await bridged.run("add", a=1, b=1)

    assert died.status == "crashed"
    assert added.status == "ok"


def test_a_server_whose_program_is_not_there_is_told_by_its_name() -> None:
    server = settings.McpServer(command="no-such-program --x")

    with pytest.raises(CannotStart, match=r"\[mcp.little\] command: .* 'no-such-program'; install"):
        bridge.where("little", server)


async def test_a_server_that_floods_leaves_the_log_readable(folder: Path) -> None:
    # Before the server speaks: written beside it, garbage would also cut its lines in two.
    flood = shlex.join(["sh", "-c", f"yes garbage | head -n 5000; exec {COMMAND}"])
    async with pool(folder, f"command = {flood!r}\ntimeout_s = 30.0") as cell:
        async with asyncio.timeout(60):
            while not cell.log_of("toolhost", "Failed to parse"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

        assert not cell.log_of("toolhost", "Traceback")


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's help")


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=ON_LINUX)])
async def test_a_host_that_ends_takes_a_server_along_that_never_answered(
    folder: Path, how: signal.Signals
) -> None:
    tools_file = folder / "tools.toml"
    tools_file.write_text('[mcp.mute]\ncommand = "sleep 1000"\n')
    cell = Cell(folder, settings={"VOICEBUS_TOOLHOST_TOOLS_FILE": str(tools_file)})
    try:
        cell.start("dispatcher")
        cell.start("toolhost")
        cell.follow()
        await cell.until(lambda: "echo" in cell.catalogue)
        host = psutil.Process(cell.processes["toolhost-0"].pid)
        async with asyncio.timeout(30):
            while not (mute := _mutes_below(host)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

        cell.kill("toolhost-0", how)

        left = psutil.wait_procs(mute, timeout=10)[1]
        for one in left:
            one.kill()
        assert left == []
    finally:
        cell.close()


def _mutes_below(host: psutil.Process) -> list[psutil.Process]:
    found = []
    for one in host.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if one.cmdline() == ["sleep", "1000"]:
                found.append(one)
    return found


async def test_a_server_gets_no_key_and_ends_with_its_host(bridged: Cell) -> None:
    names = (await bridged.run("surroundings")).result["result"].split()
    family = psutil.Process(bridged.processes["toolhost-0"].pid).children(recursive=True)

    bridged.kill("toolhost-0")
    _, alive = psutil.wait_procs(family, timeout=10)

    assert "PATH" in names
    assert [one for one in names if one.startswith(("VOICEBUS_", "OPENAI"))] == []
    assert alive == []


async def test_a_server_makes_way_for_the_sound_and_its_bridge_does_not(bridged: Cell) -> None:
    host = psutil.Process(bridged.processes["toolhost-0"].pid)
    (server,) = [one for one in host.children(recursive=True) if str(LITTLE) in one.cmdline()]

    async with asyncio.timeout(30):  # nobody tells of it: it is looked at again
        while _nices(server) != {19}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    bridge_process = server.parent()
    assert bridge_process is not None
    assert "voicebus.services.tools.bridge" in bridge_process.cmdline()
    assert bridge_process.nice() == host.nice()
    assert (await bridged.run("add", a=2, b=3)).status == "ok"


def _nices(process: psutil.Process) -> set[int]:
    """Of each of its threads, and of its session where the system weighs those."""
    found = {process.nice()}
    for thread in process.threads():
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            found.add(os.getpriority(os.PRIO_PROCESS, thread.id))
    with contextlib.suppress(OSError, IndexError):
        found.add(int(Path(f"/proc/{process.pid}/autogroup").read_text().split()[-1]))
    return found


async def test_a_stopped_bridge_is_woken(bridged: Cell) -> None:
    host = psutil.Process(bridged.processes["toolhost-0"].pid)
    (bridge_process,) = [
        one for one in host.children() if "voicebus.services.tools.bridge" in one.cmdline()
    ]

    bridge_process.suspend()
    async with asyncio.timeout(30):
        while not bridged.log_of("toolhost", "process.recovered"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    assert "toolhost-0/bridge" in bridged.log_of("toolhost", "process.frozen")
    assert (await bridged.run("add", a=2, b=3)).status == "ok"


async def test_a_server_is_reached_by_http_too(folder: Path, served: str) -> None:
    wish = f'url = "{served}"\nprefix = "little_"\ntools = ["add", "count"]'
    async with pool(folder, wish) as cell:
        added = await cell.run("little_add", a=2, b=3)

        assert added.result == {"result": "2 and 3 are 5"}
        assert [one for one in cell.catalogue if one.startswith("little_")] == [
            "little_add",
            "little_count",
        ]
