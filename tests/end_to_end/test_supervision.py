"""The real processes under the real supervisord."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import StartStack, shared_one
from voicebus.cli import processes
from voicebus.cli import stack as stacks
from voicebus.cli.plan import Wish
from voicebus.cli.problems import Problem
from voicebus.cli.testing import Stack, running

ROLES = ("simulator-0", "transport-0", "session-0", "dispatcher-0", "toolhost-0", "health-0")


def test_everything_starts_and_is_ready(shared_stack: Stack) -> None:
    assert shared_stack.names == ROLES
    assert stacks.status(shared_stack.run_dir).is_ready


@pytest.mark.parametrize("name", ROLES)
def test_a_killed_process_comes_back_and_takes_no_other_with_it(
    shared_stack: Stack, name: str
) -> None:
    before = shared_stack.pids()

    killed = shared_stack.kill(name)
    state = shared_stack.wait_ready(name, after=killed)

    after = shared_stack.pids()
    assert after == {**before, name: state.pid}
    assert state.pid != killed


def test_a_killed_tool_host_leaves_no_runner_behind(shared_stack: Stack) -> None:
    runners = psutil.Process(shared_stack.pids()["toolhost-0"]).children(recursive=True)
    assert runners

    killed = shared_stack.kill("toolhost-0")

    assert all(processes.wait(one, 10) for one in runners)
    shared_stack.wait_ready("toolhost-0", after=killed)


@pytest.mark.parametrize("name", ROLES)
def test_supervisorctl_stops_and_starts_each_process_cleanly(
    shared_stack: Stack, name: str
) -> None:
    def control(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "supervisor.supervisorctl", "-c", CONF, *words],
            env={**os.environ, "VOICEBUS_RUN": str(shared_stack.run_dir)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    pid = shared_stack.pids()[name]
    family = processes.family([psutil.Process(pid)])

    # Transports and session processes may be several: each of these roles is a group.
    whole = {"transport-0": "transport:transport-0", "session-0": "session:session-0"}
    words = whole.get(name, name)

    stopped = control("stop", words)
    alive = processes.alive(family)
    log = shared_stack.log("supervisord", 200)
    left = {path.name: path.read_bytes() for path in shared_stack.run_dir.glob(f"{name}.*")}
    started = control("start", words)
    shared_stack.wait_ready(name, after=pid)

    assert stopped == f"{words}: stopped"
    assert [line for line in log if f"stopped: {name}" in line][-1].endswith("(exit status 0)")
    assert alive == []
    if name == "dispatcher-0":
        # Kept as room for the next one, should the disk be full by then; nobody is in it.
        assert left.pop("dispatcher-0.workers").strip() == b"[]"
    assert left.keys() == {f"{name}.log"}
    assert started == f"{words}: started"


def test_a_shared_cell_that_a_test_has_broken_is_made_anew(start_shared_stack: StartStack) -> None:
    cell = start_shared_stack(scenario=None)
    shared = shared_one(cell)
    broken = cell.run_dir
    cell.supervisor.stop("toolhost-0")

    fault = shared.fault()
    shared.renew()

    assert fault == "toolhost-0 is stopped"
    assert cell.run_dir != broken
    assert shared.fault() is None


CONF = str(stacks.supervisord_conf())


def test_all_processes_end_by_themselves_when_supervisord_is_killed(stack: Stack) -> None:
    supervisor = stack.supervisor.pid()
    assert supervisor is not None
    family = processes.family([psutil.Process(supervisor)])

    os.kill(supervisor, signal.SIGKILL)

    assert [one.pid for one in family if not processes.wait(one, 20)] == []


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ("import nowhere_at_all", "nowhere_at_all"),
        ("def f(:\n", "SyntaxError"),
        ("raise RuntimeError('the moon is not there')", "the moon is not there"),
    ],
)
def test_a_tool_module_that_cannot_be_imported_is_named_with_place_and_reason(
    tmp_path: Path, tools: str, told: str
) -> None:
    module = tmp_path / "my_tools.py"
    module.write_text(tools)

    with pytest.raises(Problem) as problem, running(_quiet(tools=(str(module),))):
        pass

    assert "toolhost-0" in str(problem.value)
    assert str(module) in str(problem.value)
    assert told in str(problem.value)
    assert "Traceback" not in str(problem.value)


def test_a_scenario_that_is_not_there_is_named() -> None:
    settings = {"VOICEBUS_SIMULATOR_SCENARIO": "/nowhere.toml"}

    with (
        pytest.raises(Problem, match=r"simulator-0(.|\n)*/nowhere\.toml"),
        running(_quiet(settings=settings)),
    ):
        pass


def _quiet(tools: tuple[str, ...] = (), settings: dict[str, str] | None = None) -> Wish:
    return Wish(tools=tools, settings={"VOICEBUS_SIMULATOR_SPEECH": "off", **(settings or {})})
