"""Frozen, stuck, dead: the health listener names it and the cell is whole again."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import msgspec
import psutil
import pytest

from tests.end_to_end.cells import SCENARIO
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import measured, scene
from voicebus.bus.messages.system import ProcessReport
from voicebus.bus.sockets import Sockets
from voicebus.cli.testing import Stack

ROLES = ("simulator-0", "transport-0", "session-0", "dispatcher-0", "toolhost-0")


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(scenario=SCENARIO)


class Reports:
    """What the listener tells."""

    def __init__(self) -> None:
        self.all: list[ProcessReport] = []
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def heard(self, frames: list[bytes]) -> None:
        with contextlib.suppress(msgspec.ValidationError):
            self.all.append(msgspec.json.decode(frames[1], type=ProcessReport))
        self._changed.set()

    async def of(self, process: str, what: str, within_s: float = 20.0) -> ProcessReport:
        """The first of that kind."""
        async with asyncio.timeout(within_s):
            while True:
                for one in self.all:
                    if (one.process, one.what) == (process, what):
                        return one
                self._changed.clear()
                await self._changed.wait()

    def of_kind(self, what: str) -> list[ProcessReport]:
        """All of that kind."""
        return [one for one in self.all if one.what == what]

    async def changed(self, within_s: float = 20.0) -> None:
        """Until something more is told."""
        self._changed.clear()
        async with asyncio.timeout(within_s):
            await self._changed.wait()

    async def listening(self) -> None:
        """Until the listener has been heard once."""
        await self._changed.wait()


@contextlib.asynccontextmanager
async def reports(cell: Stack, role: str = "health") -> AsyncIterator[Reports]:
    one = Reports()
    with Sockets() as sockets:
        topic = f"system/{role}/".encode()
        sockets.subscriber([cell.endpoints.state(role, 0)], [topic], one.heard)
        async with asyncio.timeout(10):
            await one.listening()
        yield one


def test_whoever_is_frozen_is_named_and_goes_on(cell: Stack) -> None:
    before = cell.pids()
    found: list[ProcessReport] = []

    async def story() -> None:
        async with scene(cell) as one, reports(cell) as told:
            caller = await one.caller()
            await caller.turn("short tone")
            begun = asyncio.get_running_loop().time()
            for name in ROLES:
                cell.kill(name, signal.SIGSTOP)
            found.extend([await told.of(name, "frozen") for name in ROLES])
            measured(
                "stop of five processes to the last being found",
                (asyncio.get_running_loop().time() - begun) * 1000,
            )
            for name in ROLES:
                await told.of(name, "recovered")
            await caller.turn("short tone")

    asyncio.run(story())

    assert [(one.process, one.pid) for one in found] == [(name, before[name]) for name in ROLES]
    assert all("stopped" in (one.why or "") for one in found)
    assert cell.pids() == before
    for name in ROLES:
        cell.wait_ready(name)


@pytest.mark.parametrize("stopped", ["runner", "forkserver"])
def test_a_stopped_child_of_the_tool_host_is_named_and_woken(cell: Stack, stopped: str) -> None:
    async def story() -> None:
        async with scene(cell) as one, reports(cell, "toolhost") as told:
            caller = await one.caller()
            server, runners = _pool(cell)
            pids = {server} if stopped == "forkserver" else runners
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            await caller.turn("nap")
            while len(told.of_kind("recovered")) < len(pids):
                await told.changed()

            assert not caller.found("tool_call_failed")
            assert {one.pid for one in told.of_kind("frozen")} == pids
            assert {one.process for one in told.all} == {f"toolhost-0/{stopped}"}
            assert _pool(cell) == (server, runners)

    asyncio.run(story())


def test_the_watchman_is_watched(cell: Stack) -> None:
    async def story() -> None:
        async with reports(cell, "toolhost") as told:
            pid = cell.kill("health-0", signal.SIGSTOP)
            frozen = await told.of("health-0", "frozen")
            await told.of("health-0", "recovered")

            assert frozen.pid == pid == cell.pids()["health-0"]

    asyncio.run(story())
    cell.wait_ready("health-0")


def test_the_watchman_and_who_watches_it_are_woken_when_both_are_stopped(cell: Stack) -> None:
    both = ("toolhost-0", "health-0")
    before = cell.pids()

    async def story() -> None:
        async with scene(cell) as one, reports(cell) as told:
            caller = await one.caller()
            for name in both:
                os.kill(before[name], signal.SIGSTOP)
            await told.of("toolhost-0", "recovered", within_s=60)
            await caller.turn("nap")

            assert not caller.found("tool_call_failed")

    asyncio.run(story())

    assert cell.pids() == before
    for name in both:
        cell.wait_ready(name)


def test_a_fork_server_that_stays_stopped_is_replaced(cell: Stack) -> None:
    async def story() -> None:
        async with scene(cell) as one, reports(cell, "toolhost") as told:
            caller = await one.caller()
            server, _ = _pool(cell)
            stopping = asyncio.create_task(_keep_stopped(server))
            killed = await told.of("toolhost-0/forkserver", "killed")
            await stopping
            await caller.turn("nap")

            assert killed.pid == server
            assert _pool(cell)[0] != server

    asyncio.run(story())


def _pool(cell: Stack) -> tuple[int, set[int]]:
    """The fork server and its runners."""
    host = psutil.Process(cell.pids()["toolhost-0"])
    (server,) = host.children()
    return server.pid, {one.pid for one in server.children()}


def test_a_session_process_that_stays_frozen_is_replaced_and_its_caller_goes_on(
    cell: Stack,
) -> None:
    async def story() -> None:
        async with scene(cell) as one, reports(cell) as told:
            caller = await one.caller()
            await caller.turn("short tone")
            pid = cell.pids()["session-0"]
            stopping = asyncio.create_task(_keep_stopped(pid))
            killed = await told.of("session-0", "killed")
            await stopping
            back = await told.of("session-0", "restarted")
            await caller.turn("short tone")

            assert killed.pid == pid
            assert back.pid == cell.pids()["session-0"] != pid
            assert not caller.found("session_reconnecting")

    asyncio.run(story())


async def _keep_stopped(pid: int) -> None:
    """Undo whatever wakes it, until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_process_without_descriptors_dies_loudly_and_its_conversations_go_on(cell: Stack) -> None:
    async def story() -> None:
        async with scene(cell) as one, reports(cell) as told:
            caller = await one.caller()
            await caller.turn("short tone")
            process = psutil.Process(cell.pids()["session-0"])
            few = process.num_fds() + 4
            process.rlimit(psutil.RLIMIT_NOFILE, (few, few))
            others = [await one.caller() for _ in range(6)]  # each needs two
            died = await told.of("session-0", "died")
            await told.of("session-0", "restarted")
            for each in (caller, *others):
                await each.turn("short tone")

            assert died.signal == "SIGABRT"
            assert died.pid == process.pid

    asyncio.run(story())


def test_a_killed_process_is_back_before_supervisord_would_have_looked(cell: Stack) -> None:
    async def story() -> None:
        async with reports(cell) as told:
            for name in ROLES[1:]:
                pid = cell.kill(name)
                died = await told.of(name, "died")
                back = await told.of(name, "restarted")
                measured(f"{name}: death told to successor ready", (back.at_us - died.at_us) / 1000)

                assert (died.pid, died.signal) == (pid, "SIGKILL")

    asyncio.run(story())
