"""The listener under the real supervisord, with small programs that misbehave when asked to."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.system import ProcessReport, State
from voicebus.bus.sockets import Sockets
from voicebus.config.settings import CellSettings, HealthSettings
from voicebus.services.health.listener import Listener
from voicebus.services.health.notices import Notice
from voicebus.services.runtime import Runtime
from voicebus.services.supervisor import Supervisor

CONF = """
[unix_http_server]
file={run}/supervisor.sock
[supervisord]
pidfile={run}/supervisord.pid
logfile={run}/supervisord.log
childlogdir={run}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[eventlistener:health-0]
command={python} -P -m voicebus.services.health
events=PROCESS_STATE,SUPERVISOR_STATE_CHANGE
buffer_size=1024
priority=900
stdout_logfile=NONE
stderr_logfile={run}/health-0.log
"""
PROGRAM = """
[program:{role}-0]
command={python} -P {script} {role}
startsecs={startsecs}
startretries={startretries}
autorestart=true
stopwaitsecs=5
redirect_stderr=true
stdout_logfile={run}/{role}-0.log
"""
SCRIPT = """
import asyncio, pathlib, signal, sys, time
from voicebus.config import settings
from voicebus.services.runtime import run

role = sys.argv.pop()
if role == "toolhost" and not pathlib.Path("toolhost.may").exists():
    sys.exit(4)

def stuck_for_ever():
    time.sleep(600)

async def now_and_then():
    for _ in range(3):
        time.sleep(1.2)
        await asyncio.sleep(0.6)

async def serve(runtime):
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, stuck_for_ever)
    loop.add_signal_handler(signal.SIGALRM, lambda: loop.create_task(now_and_then()))
    runtime.ready()
    await runtime.stopping.wait()

run(serve, settings.SECTIONS[role], role=role)
"""


class Cell:
    """A supervisord, its listener, and four programs."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.endpoints = Endpoints(run_dir)
        self.supervisor = Supervisor(run_dir)

    def pid(self, name: str) -> int:
        return self.supervisor.now()[name].pid

    def log(self, name: str) -> str:
        return (self.run_dir / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    with testing.run_folder() as run:
        script = run / "role.py"
        script.write_text(SCRIPT)
        conf = CONF.format(run=run, python=sys.executable)
        for role, startsecs, retries in (
            ("session", 0, 100),
            ("dispatcher", 0, 100),
            ("transport", 0, 100),
            ("toolhost", 1, 0),
        ):
            conf += PROGRAM.format(
                role=role,
                run=run,
                python=sys.executable,
                script=script,
                startsecs=startsecs,
                startretries=retries,
            )
        (run / "supervisord.conf").write_text(conf)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-n", "-c", "supervisord.conf"],
            cwd=run,
            env={
                "PATH": os.environ["PATH"],
                "VOICEBUS_RUN": str(run),
                "VOICEBUS_HEALTH_SILENT_S": "2.5",
                "VOICEBUS_HEALTH_GRACE_S": "0.3",
                "VOICEBUS_HEALTH_REVIVE_S": "0.3",
            },
            stdout=subprocess.DEVNULL,
        )
        try:
            one = Cell(run)
            for role in ("session", "dispatcher", "transport", "health"):
                asyncio.run(testing.next_state(one.endpoints, role, 0, _ready))
            yield one
        finally:
            process.terminate()
            process.wait(30)
        left = [one for one in testing.left_behind(run) if one.startswith("process ")]
        assert left == [], "a process outlived its supervisord"


def _ready(state: State) -> bool:
    return state.state == "ready"


class Ear:
    """What the listener reports from now on."""

    def __init__(self) -> None:
        self.heard: list[ProcessReport] = []
        self.changed = asyncio.Event()

    def take(self, frames: list[bytes]) -> None:
        with contextlib.suppress(msgspec.ValidationError):
            self.heard.append(msgspec.json.decode(frames[1], type=ProcessReport))
            self.changed.set()

    def of(self, process: str) -> list[str]:
        return [one.what for one in self.heard if one.process == process]

    async def report(self, process: str, what: str, within_s: float = 15.0) -> ProcessReport:
        async with asyncio.timeout(within_s):
            while True:
                for one in self.heard:
                    if (one.process, one.what) == (process, what):
                        return one
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def ear(cell: Cell) -> AsyncIterator[Ear]:
    one, welcome = Ear(), asyncio.Event()

    def heard(frames: list[bytes]) -> None:
        welcome.set()
        one.take(frames)

    with Sockets() as sockets:
        sockets.subscriber([cell.endpoints.state("health", 0)], [b"system/health/0/"], heard)
        await asyncio.wait_for(welcome.wait(), 10)
        yield one


async def test_a_dead_process_is_named_with_its_signal_and_so_is_its_successor(
    cell: Cell, ear: Ear
) -> None:
    pid = cell.pid("session-0")

    os.kill(pid, signal.SIGKILL)
    died = await ear.report("session-0", "died")
    back = await ear.report("session-0", "restarted")

    assert (died.pid, died.signal, died.exit_code) == (pid, "SIGKILL", None)
    assert back.pid == cell.pid("session-0") != pid


async def test_a_stuck_loop_says_where_it_hangs_and_is_replaced(cell: Cell, ear: Ear) -> None:
    pid = cell.pid("session-0")

    os.kill(pid, signal.SIGHUP)
    frozen = await ear.report("session-0", "frozen")
    killed = await ear.report("session-0", "killed")
    await ear.report("session-0", "restarted")

    assert frozen.pid == killed.pid == pid
    assert frozen.silent_ms is not None
    assert 2500 <= frozen.silent_ms < 3500
    assert "in stuck_for_ever" in cell.log("session-0")


async def test_a_busy_process_is_left_alone(cell: Cell, ear: Ear) -> None:
    pid = cell.pid("dispatcher-0")

    os.kill(pid, signal.SIGALRM)
    late = await testing.next_state(
        cell.endpoints, "dispatcher", 0, lambda state: state.lag_ms > 1000
    )
    await testing.next_state(
        cell.endpoints, "dispatcher", 0, lambda state: state.at_us > late.at_us + 4_000_000
    )

    assert ear.of("dispatcher-0") == []
    assert cell.pid("dispatcher-0") == pid


async def test_a_process_that_is_being_stopped_is_left_to_supervisord(cell: Cell, ear: Ear) -> None:
    os.kill(cell.pid("transport-0"), signal.SIGHUP)  # then it hears no TERM

    await asyncio.to_thread(cell.supervisor.stop, "transport-0")
    await asyncio.to_thread(cell.supervisor.start, "transport-0")
    await testing.next_state(cell.endpoints, "transport", 0, _ready)

    assert ear.of("transport-0") == []


async def test_a_program_that_was_given_up_is_started_again(cell: Cell, ear: Ear) -> None:
    given_up = await ear.report("toolhost-0", "given_up")
    (cell.run_dir / "toolhost.may").touch()
    await ear.report("toolhost-0", "revived")
    state = await testing.next_state(cell.endpoints, "toolhost", 0, _ready)

    assert given_up.why is not None
    assert cell.pid("toolhost-0") == state.pid


async def test_a_frozen_supervisord_goes_on(cell: Cell, ear: Ear) -> None:
    pid = cell.supervisor.pid()
    assert pid is not None

    os.kill(pid, signal.SIGSTOP)
    frozen = await ear.report("supervisord", "frozen")

    assert frozen.pid == pid
    assert await asyncio.to_thread(cell.supervisor.pid) == pid


async def test_a_killed_listener_is_replaced_and_goes_on_telling(cell: Cell, ear: Ear) -> None:
    before = cell.pid("health-0")
    os.kill(before, signal.SIGKILL)
    await testing.next_state(cell.endpoints, "health", 0, lambda one: one.pid != before)
    pid = cell.pid("session-0")

    os.kill(pid, signal.SIGKILL)
    died = await ear.report("session-0", "died")

    assert died.pid == pid


async def test_a_listener_that_supervisord_is_out_of_reach_for_says_so(cell: Cell) -> None:
    path = cell.run_dir / "supervisor.sock"
    hidden = path.rename(cell.run_dir / "supervisor.hidden")
    failing = await testing.next_state(
        cell.endpoints, "health", 0, lambda one: one.state == "failing"
    )
    hidden.rename(path)
    await testing.next_state(cell.endpoints, "health", 0, _ready)

    assert failing.why is not None
    assert "voicebus down, then voicebus up" in failing.why


async def test_a_notice_that_comes_late_makes_no_word_unheard() -> None:
    pid = os.getpid()
    with testing.run_folder() as run:
        runtime = Runtime("health", 0, CellSettings(), HealthSettings(), Endpoints(run))
        with runtime.sockets:
            listener = Listener(runtime, protocol=-1)
            listener._noticed(Notice("PROCESS_STATE_RUNNING", "session-0", pid))
            word = State(
                role="session", instance=0, inc="1", pid=pid, state="ready", since_us=0, at_us=0
            )
            listener._heard([b"system/session/0/state", encode(word)])

            listener._noticed(Notice("PROCESS_STATE_STARTING", "session-0"))
            listener._noticed(Notice("PROCESS_STATE_RUNNING", "session-0", pid))
            watched = listener._processes["session-0"].watched
            listener._noticed(Notice("PROCESS_STATE_STOPPED", "session-0"))

    assert watched is not None
    assert watched.has_spoken
