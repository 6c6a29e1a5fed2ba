import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.locks import RoleLock
from voicebus.bus.messages.system import State
from voicebus.cli import processes, stack
from voicebus.cli.plan import Wish
from voicebus.cli.problems import Problem
from voicebus.cli.restart import Restart
from voicebus.services.supervisor import Leaving, Supervisor

Start = Callable[..., stack.StackStatus]
ROLES = ["simulator-0", "transport-0", "session-0", "dispatcher-0", "toolhost-0", "health-0"]


def test_starting_returns_when_every_process_is_ready(start: Start, run_dir: Path) -> None:
    started = start()

    assert [one.name for one in started.processes] == ROLES
    assert started.is_ready
    assert stack.status(run_dir).is_ready


def test_status_and_start_tell_the_same_pids(start: Start, run_dir: Path) -> None:
    started = start()

    told = {one.name: one.pid for one in stack.status(run_dir).processes}
    assert told == {one.name: one.pid for one in started.processes}


def test_stopping_leaves_no_process_no_socket_no_lock_and_no_key(
    start: Start, run_dir: Path
) -> None:
    started = start(toolhost="parent")
    assert started.supervisor is not None
    family = processes.family([psutil.Process(started.supervisor)])
    assert len(family) == len(ROLES) + 2  # supervisord, and the toolhost's child

    ended = stack.stop(run_dir)

    assert ended.stragglers == ()
    assert testing.left_behind(run_dir, family) == []


def test_processes_stop_in_the_reverse_order_of_their_start(start: Start, run_dir: Path) -> None:
    start()
    stack.stop(run_dir)

    log = (run_dir / "supervisord.log").read_text().splitlines()
    spawned = [line.split("'")[1] for line in log if "spawned:" in line]
    stopped = [line.split("stopped: ")[1].split()[0] for line in log if "stopped:" in line]
    assert spawned == ROLES
    assert stopped == ROLES[::-1]


def test_without_the_simulator_it_does_not_run(wish: Callable[..., Wish], run_dir: Path) -> None:
    started = stack.start(wish(environment={"OPENAI_API_KEY": "sk-of-the-user"}))

    assert [one.name for one in started.processes] == ROLES[1:]
    assert [one.name for one in stack.status(run_dir).processes] == ROLES[1:]
    stack.stop(run_dir)


def test_the_key_is_in_a_file_for_its_owner_and_in_no_environment(
    wish: Callable[..., Wish], run_dir: Path
) -> None:
    started = stack.start(wish(environment={"OPENAI_API_KEY": "sk-of-the-user"}))
    assert started.supervisor is not None

    key_file = run_dir / "provider.key"
    assert key_file.read_text().strip() == "sk-of-the-user"
    assert key_file.stat().st_mode & 0o777 == 0o600
    for process in processes.family([psutil.Process(started.supervisor)]):
        assert "sk-of-the-user" not in " ".join([*process.environ().values(), *process.cmdline()])
    stack.stop(run_dir)
    assert not key_file.exists()


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("failing", "session-0 is not ready: the moon is not there"),
        ("refusing", "session-0: there is no moon; wait for the night"),
        ("refusing later", "session-0: there is no moon; wait for the night"),
        ("crashing", "session-0 could not start: terminated by SIGKILL"),
    ],
)
def test_a_process_that_does_not_get_ready_is_named_with_its_reason_and_everything_is_stopped(
    start: Start, run_dir: Path, part: str, told: str
) -> None:
    with pytest.raises(Problem) as problem:
        start(session=part, within_s=60)

    assert told in str(problem.value)
    assert str(run_dir / "session-0.log") in str(problem.value)
    assert testing.left_behind(run_dir) == []


def test_an_older_run_is_not_quoted_as_the_reason(start: Start, run_dir: Path) -> None:
    (run_dir / "session-0.log").write_text("session-0: the sun was there\n")

    with pytest.raises(Problem) as problem:
        start(session="crashing")

    assert "the sun" not in str(problem.value)


def test_a_start_that_takes_too_long_shows_who_is_waited_for_and_is_given_up(
    start: Start, run_dir: Path
) -> None:
    told: list[str] = []

    with pytest.raises(Problem, match="session-0 is not ready: it waits for the moon"):
        start(session="waiting", within_s=8, tell=told.append)

    assert "waiting for session-0: it waits for the moon" in told
    assert "transport-0 is ready" in told
    assert testing.left_behind(run_dir) == []


def test_a_run_folder_in_use_is_refused_and_names_the_process(start: Start, run_dir: Path) -> None:
    started = start()

    with pytest.raises(Problem, match=f"supervisord is process {started.supervisor}"):
        start()

    assert stack.status(run_dir).is_ready
    stack.stop(run_dir)


def test_only_one_command_at_a_time_works_on_a_run_folder(start: Start, run_dir: Path) -> None:
    with (
        RoleLock(run_dir / processes.UP_LOCK),
        pytest.raises(Problem, match=f"process {os.getpid()} is starting or stopping"),
    ):
        start()


def test_sockets_of_a_killed_run_are_no_obstacle(start: Start, run_dir: Path) -> None:
    first = start()
    assert first.supervisor is not None
    family = processes.family([psutil.Process(first.supervisor)])
    for process in family:
        process.kill()
    assert all(processes.wait(one, 10) for one in family)
    assert testing.left_behind(run_dir) != []

    second = start()

    assert second.is_ready
    stack.stop(run_dir)


def test_what_a_killed_supervisord_leaves_is_found_and_ended(start: Start, run_dir: Path) -> None:
    started = start(dispatcher="deaf", toolhost="parent")
    assert started.supervisor is not None
    family = processes.family([psutil.Process(started.supervisor)])
    os.kill(started.supervisor, signal.SIGKILL)
    assert processes.wait(family[0], 10)

    with pytest.raises(Problem, match="no supervisord is there"):
        start()
    assert "dispatcher-0" in [one.name for one in stack.status(run_dir).processes]
    assert stack.status(run_dir).supervisor is None

    stack.stop(run_dir)

    assert testing.left_behind(run_dir, family) == []


def test_a_frozen_supervisord_does_not_stop_the_stop(start: Start, run_dir: Path) -> None:
    started = start()
    assert started.supervisor is not None
    os.kill(started.supervisor, signal.SIGSTOP)

    stack.stop(run_dir)

    assert testing.left_behind(run_dir) == []


def test_without_its_socket_supervisord_is_said_to_be_out_of_reach_and_ended_in_order(
    start: Start, run_dir: Path
) -> None:
    started = start()
    assert started.supervisor is not None
    family = processes.family([psutil.Process(started.supervisor)])
    (run_dir / "supervisor.sock").unlink()

    shown = stack.status(run_dir)
    with pytest.raises(Problem, match=f"supervisord is process {started.supervisor}"):
        start()
    with pytest.raises(Problem, match=r"supervisor.sock was deleted; `voicebus down`"):
        Restart(run_dir)
    ended = stack.stop(run_dir)

    assert {one.name: (one.state, one.pid) for one in shown.processes} == {
        one.name: ("ready", one.pid) for one in started.processes
    }
    assert shown.supervisor == started.supervisor
    assert not shown.is_ready
    assert shown.note is not None
    assert f"process {started.supervisor}" in shown.note
    assert f"{run_dir / 'supervisor.sock'} was deleted" in shown.note
    assert "voicebus down, then voicebus up" in shown.note
    log = (run_dir / "supervisord.log").read_text().splitlines()
    stopped = [line.split("stopped: ")[1].split()[0] for line in log if "stopped:" in line]
    assert stopped == ROLES[::-1]
    assert ended.stragglers == ()
    assert testing.left_behind(run_dir, family) == []


def test_a_supervisord_that_is_ending_by_itself_is_given_its_time(
    start: Start, run_dir: Path
) -> None:
    started = start(transport="deaf")
    assert started.supervisor is not None
    deaf = next(one.pid for one in started.processes if one.name == "transport-0")
    assert deaf is not None
    os.kill(started.supervisor, signal.SIGTERM)
    while not _is_leaving(run_dir):
        time.sleep(0.01)

    shown = stack.status(run_dir)
    # It waits for the deaf one, longer than what is left behind would be waited for.
    ending = threading.Timer(processes.TERM_S + 2, os.kill, (deaf, signal.SIGKILL))
    ending.start()
    ended = stack.stop(run_dir)
    ending.join()

    assert shown.note == "going down: supervisord was told to end"
    assert ended.stragglers == ()
    assert testing.left_behind(run_dir) == []


def _is_leaving(run_dir: Path) -> bool:
    try:
        Supervisor(run_dir).pid()
    except Leaving:
        return True
    return False


def test_another_s_supervisord_is_none_of_this_folder(start: Start, run_dir: Path) -> None:
    started = start()
    with testing.run_folder() as other:
        (other / "supervisord.pid").write_text(f"{started.supervisor}\n")

        assert processes.recorded_supervisor(run_dir) is not None
        assert processes.recorded_supervisor(other) is None
        stack.stop(other)

    assert stack.status(run_dir).is_ready
    stack.stop(run_dir)


def test_who_is_ending_the_stack_is_shown(start: Start, run_dir: Path) -> None:
    start()

    with stack.going_down(run_dir):
        waits = stack.status(run_dir)
        with RoleLock(run_dir / processes.UP_LOCK):
            stops = stack.status(run_dir)

    assert waits.note is not None
    assert waits.note.startswith(f"going down (process {os.getpid()}): no new calls are taken")
    assert stops.note is not None
    assert "are stopped one after the other" in stops.note
    assert stack.status(run_dir).note is None
    stack.stop(run_dir)
    assert testing.left_behind(run_dir) == []


def test_a_stopped_process_is_shown_as_stopped(start: Start, run_dir: Path) -> None:
    start()
    Supervisor(run_dir).stop("session-0")

    shown = {one.name: one.state for one in stack.status(run_dir).processes}
    assert shown == {**dict.fromkeys(ROLES, "ready"), "session-0": "stopped"}
    assert not stack.status(run_dir).is_ready
    stack.stop(run_dir)


def test_any_single_process_can_be_stopped_and_started(start: Start, run_dir: Path) -> None:
    start()
    supervisor = Supervisor(run_dir)

    for name in ROLES:
        supervisor.stop(name)
        assert [path.name for path in run_dir.glob(f"{name}.*") if path.suffix != ".log"] == []
        supervisor.start(name, wait=False)
        role, _, instance = name.rpartition("-")
        asyncio.run(testing.next_state(Endpoints(run_dir), role, int(instance), _is_ready))

    assert stack.status(run_dir).is_ready
    stack.stop(run_dir)


def _is_ready(state: State) -> bool:
    return state.state == "ready"


def test_a_frozen_process_is_shown_as_silent(start: Start, run_dir: Path) -> None:
    started = start()
    pid = next(one.pid for one in started.processes if one.name == "session-0")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    found = {one.name: one for one in stack.status(run_dir).processes}

    assert found["session-0"].state in {"silent", "starting"}
    assert found["session-0"].why == "it runs but says nothing"
    os.kill(pid, signal.SIGCONT)
    stack.stop(run_dir)


def test_a_folder_where_nothing_runs_is_said_to_be_so(run_dir: Path) -> None:
    assert not stack.status(run_dir).is_running
    assert not stack.status(run_dir / "nowhere").is_running
    assert stack.stop(run_dir / "nowhere").processes == 0
