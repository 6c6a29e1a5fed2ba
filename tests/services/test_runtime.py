import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from voicebus.bus import testing
from voicebus.bus.endpoints import BadRunFolder, Endpoints
from voicebus.bus.messages.system import State
from voicebus.bus.sockets import Sockets
from voicebus.services.runtime import prepare_folder

SERVICE = """
import asyncio
import os
import resource
import signal
from voicebus.config.settings import SessionSettings
from voicebus.services.runtime import CannotStart, Runtime, run

async def refuse():
    raise CannotStart("there is no moon; wait for the night")

async def serve(runtime):
    match PART:
        case "ready":
            runtime.ready()
            await runtime.stopping.wait()
        case "draining":
            runtime.ready()
            await runtime.stopping.wait()
            runtime.draining("one conversation goes on")
            await asyncio.Event().wait()
        case "healed":
            runtime.ready()
            while not runtime.is_leaving:
                await asyncio.sleep(0.01)
            runtime.failing("the disk is full")
            runtime.count("healed")
            runtime.ready()
            await runtime.stopping.wait()
        case "short of descriptors":
            enough = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, enough.set)
            runtime.ready()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            few = len(os.listdir("/dev/fd")) + 12
            resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
            await enough.wait()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await runtime.stopping.wait()
        case "waiting":
            for which in (1, 2):
                runtime.refused("frames_refused", "frame.refused", which=which)
            runtime.waiting("the moon is not there")
            await runtime.stopping.wait()
        case "refusing":
            await refuse()
        case "refusing in a group":
            async with asyncio.TaskGroup() as group:
                group.create_task(refuse())
        case "broken":
            raise RuntimeError("a bug")
        case "broken handler":
            def bug(route, frames):
                raise RuntimeError("a bug in a handler")
            runtime.sockets.router(runtime.endpoints.commands(0), bug)
            runtime.ready()
            await runtime.stopping.wait()

run(serve, SessionSettings, role="session")
"""

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with testing.run_folder() as folder:
        yield folder


@pytest.fixture
def spawn(run_dir: Path) -> Iterator[Spawn]:
    """`spawn("ready", "--instance", "1", VOICEBUS_…="…")`: a service in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(part: str, *flags: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"PART = {part!r}\n{SERVICE}", *flags],
            env={"VOICEBUS_RUN": str(run_dir), "PATH": os.environ["PATH"], **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def state(run_dir: Path, fits: Callable[[State], bool], instance: int = 0) -> State:
    return asyncio.run(testing.next_state(Endpoints(run_dir), "session", instance, fits))


def is_ready(one: State) -> bool:
    return one.state == "ready"


def test_a_new_subscriber_hears_the_state_at_once_with_pid_and_incarnation(
    spawn: Spawn, run_dir: Path
) -> None:
    process = spawn("ready")

    told = state(run_dir, is_ready)

    assert (told.role, told.instance, told.pid) == ("session", 0, process.pid)
    assert told.why is None
    assert len(told.inc) == 8
    assert told.since_us <= told.at_us


def test_a_service_that_waits_says_for_what_and_what_it_counted(
    spawn: Spawn, run_dir: Path
) -> None:
    spawn("waiting")

    told = state(run_dir, lambda one: one.why == "the moon is not there")

    assert told.state == "starting"
    assert told.counters == {"frames_refused": 2}


def test_what_is_refused_again_and_again_is_counted_and_logged_once(
    spawn: Spawn, run_dir: Path
) -> None:
    process = spawn("waiting")
    state(run_dir, lambda one: one.counters == {"frames_refused": 2})
    process.terminate()
    out, _ = process.communicate(timeout=20)

    assert out.count('"event": "frame.refused"') == 1


def test_who_runs_out_of_descriptors_is_failing_until_there_are_enough_again(
    spawn: Spawn, run_dir: Path
) -> None:
    process = spawn("short of descriptors")

    short = state(run_dir, lambda one: one.state == "failing")
    process.send_signal(signal.SIGUSR1)
    again = state(run_dir, lambda one: one.state == "ready" and one.since_us > short.since_us)

    assert short.why is not None
    assert "file descriptors are in use" in short.why
    assert again.why is None


def test_a_socket_whose_file_was_deleted_can_be_found_again(spawn: Spawn, run_dir: Path) -> None:
    spawn("ready")
    before = state(run_dir, is_ready)
    Path(Endpoints(run_dir).state("session", 0).removeprefix("ipc://")).unlink()

    assert state(run_dir, is_ready).pid == before.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_cleanly_with_code_0(
    spawn: Spawn, run_dir: Path, number: signal.Signals
) -> None:
    process = spawn("ready")
    state(run_dir, is_ready)

    process.send_signal(number)

    assert process.wait(20) == 0
    assert testing.left_behind(run_dir) == []


def test_a_second_signal_ends_a_service_that_drains(spawn: Spawn, run_dir: Path) -> None:
    process = spawn("draining")
    state(run_dir, is_ready)
    process.send_signal(signal.SIGTERM)
    told = state(run_dir, lambda one: one.state == "draining")
    assert told.why == "one conversation goes on"

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 128 + signal.SIGTERM


def test_who_leaves_is_not_ready_again_when_it_is_healed(spawn: Spawn, run_dir: Path) -> None:
    process = spawn("healed")
    state(run_dir, is_ready)

    process.send_signal(signal.SIGUSR2)

    healed = state(run_dir, lambda one: "healed" in one.counters)
    assert healed.state == "draining"


def test_a_second_instance_of_a_role_is_refused_and_told_who_runs(
    spawn: Spawn, run_dir: Path
) -> None:
    first = spawn("ready")
    state(run_dir, is_ready)

    second = spawn("ready")
    _, said = second.communicate(timeout=20)

    assert second.returncode == 3
    assert f"session-0: already running: process {first.pid} holds" in said
    assert "Traceback" not in said
    assert state(run_dir, is_ready).pid == first.pid


def test_another_instance_runs_beside_it(spawn: Spawn, run_dir: Path) -> None:
    first, second = spawn("ready"), spawn("ready", "--instance", "1")

    assert state(run_dir, is_ready, 0).pid == first.pid
    assert state(run_dir, is_ready, 1).pid == second.pid


def test_a_role_can_be_taken_up_after_a_kill(spawn: Spawn, run_dir: Path) -> None:
    first = spawn("ready")
    state(run_dir, is_ready)
    first.kill()
    first.wait(20)

    second = spawn("ready")

    assert state(run_dir, lambda one: one.pid == second.pid and is_ready(one)).pid == second.pid


@pytest.mark.parametrize("part", ["refusing", "refusing in a group"])
def test_a_service_that_cannot_start_says_why_in_one_line(spawn: Spawn, part: str) -> None:
    process = spawn(part)
    out, said = process.communicate(timeout=20)

    assert process.returncode == 1
    assert said == "session-0: there is no moon; wait for the night\n"
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("flags", "environment", "told"),
    [
        ((), {"VOICEBUS_RUM": "x"}, "session: unknown environment variable VOICEBUS_RUM"),
        (("--max-sessions", "many"), {}, "session: --max-sessions='many': Expected `int`"),
        ((), {"VOICEBUS_LOG_LEVEL": "loud"}, "log_level='loud': use debug, info"),
        ((), {"VOICEBUS_RUN": "/tmp/" + "x" * 90}, "too long for Unix sockets"),
        ((), {"VOICEBUS_RUN": "/proc/nowhere"}, "cannot make the folder /proc/nowhere"),
        (("--instance", "one"), {}, "argument --instance"),
        (("--instance", "-1"), {}, "argument --instance"),
    ],
)
def test_bad_settings_end_a_service_with_code_2_and_one_sentence(
    spawn: Spawn, flags: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    process = spawn("ready", *flags, **environment)
    _, said = process.communicate(timeout=20)

    assert process.returncode == 2
    assert told in said
    assert "Traceback" not in said


def test_a_bug_ends_a_service_with_code_1_and_a_log_line(spawn: Spawn) -> None:
    process = spawn("broken")
    out, _ = process.communicate(timeout=20)

    assert process.returncode == 1
    assert '"event": "service.died"' in out
    assert "a bug" in out


def test_a_bug_in_a_handler_ends_a_service_rather_than_leave_it_half_alive(
    spawn: Spawn, run_dir: Path
) -> None:
    process = spawn("broken handler")
    state(run_dir, is_ready)

    asyncio.run(_send(Endpoints(run_dir).commands(0), process))
    out, _ = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "a bug in a handler" in out


async def _send(endpoint: str, process: "subprocess.Popen[str]") -> None:
    with Sockets() as sockets:
        sockets.dealer(endpoint, lambda frames: None, name="test").send([b"{}"])
        await asyncio.to_thread(process.wait, 20)


def test_a_new_run_folder_is_for_its_owner_alone(run_dir: Path) -> None:
    prepare_folder(run_dir / "a" / "b")

    assert (run_dir / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_an_empty_folder_that_is_open_to_others_is_closed_to_them(run_dir: Path) -> None:
    folder = run_dir / "a"
    folder.mkdir()
    folder.chmod(0o755)

    prepare_folder(folder)

    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_with_other_things_in_it_is_never_closed_to_others(run_dir: Path) -> None:
    folder = run_dir / "home"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "letter.txt").touch()

    with pytest.raises(BadRunFolder, match=r"others may enter .* choose an empty or a new folder"):
        prepare_folder(folder)

    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_file_is_no_run_folder(run_dir: Path) -> None:
    (run_dir / "file").touch()

    with pytest.raises(BadRunFolder, match="is a file"):
        prepare_folder(run_dir / "file")


def test_a_service_stops_though_nobody_reads_its_log_any_more(spawn: Spawn, run_dir: Path) -> None:
    process = spawn("ready")
    state(run_dir, is_ready)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()

    process.terminate()

    assert process.wait(20) == 0
