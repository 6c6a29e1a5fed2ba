"""The command as a person or a script meets it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from voicebus.bus.endpoints import Endpoints
from voicebus.cli import stack
from voicebus.cli.main import VERBS
from voicebus.cli.plan import Wish
from voicebus.cli.restart import ORDER

Start = Callable[..., stack.StackStatus]


def voicebus(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-c", "from voicebus.cli.main import run; run()", *words],
        env={"PATH": "/usr/bin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_verb_and_loads_none_of_them() -> None:
    done = voicebus("--help")

    assert done.returncode == 0
    for verb in VERBS:
        assert f"  {verb.name} " in done.stdout
        assert verb.help in done.stdout, "it is cut off"
    modules = subprocess.run(
        [
            sys.executable, "-P", "-c",
            "import sys\nfrom voicebus.cli.main import build\nbuild(['--help'])\n"
            "print([m for m in sys.modules if m.startswith('zmq')])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert modules.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_its_own_help(verb: str) -> None:
    done = voicebus(verb, "--help")

    assert done.returncode == 0
    assert f"voicebus {verb}" in done.stdout


def test_a_verbs_own_help_says_more_than_the_list() -> None:
    told = " ".join(voicebus("audit", "--help").stdout.split())

    assert "Exit code 0 when all of it holds, 1 with each fault on a line." in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("stattus",), "Did you mean 'status'?"),
        (("up", "--rundir", "x"), "No such option: --rundir"),
        (("up", "--run-dir", "/tmp/" + "x" * 100), "too long for Unix sockets"),
    ],
)
def test_what_cannot_be_understood_ends_with_code_2_and_a_sentence(
    words: tuple[str, ...], told: str
) -> None:
    done = voicebus(*words)

    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "code", "told"),
    [
        (("up",), {"VOICEBUS_RUM": "x"}, 2, "VOICEBUS_RUM (did you mean VOICEBUS_RUN?)"),
        (("up", "--tools", "nowhere.py"), {}, 1, "--tools nowhere.py: there is no file"),
        (("up", "--tools", "no where"), {}, 1, "no spaces are possible"),
        (("up", "--no-simulator"), {}, 1, "no provider: there is no key in OPENAI_API_KEY"),
        (("up", "--provider-key-file", "/nowhere"), {}, 1, "the provider's key from /nowhere"),
        (("restart", "relya"), {}, 1, "no role 'relya' to restart (did you mean relay?)"),
        (("status",), {"VOICEBUS_CONFIG": "/nowhere.toml"}, 2, "/nowhere.toml"),
        (("down", "--run-dir", "/tmp/" + "x" * 100), {}, 2, "too long"),
        (("talk", "--text", "x", "--out", "/no/a.wav"), {}, 1, "there is no folder /no; make it"),
    ],
)
def test_a_users_mistake_is_a_sentence_and_starts_nothing(
    run_dir: Path, words: tuple[str, ...], environment: dict[str, str], code: int, told: str
) -> None:
    done = voicebus(*words, **{"VOICEBUS_RUN": str(run_dir), **environment})

    assert done.returncode == code
    assert done.stderr.startswith(f"voicebus {words[0]}: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert list(run_dir.iterdir()) == []


def test_the_help_of_restart_names_every_role() -> None:
    told = " ".join(voicebus("restart", "--help").stdout.split())

    assert f"{', '.join(ORDER)}; or all." in told


def test_status_of_nothing_is_code_3(run_dir: Path) -> None:
    done = voicebus("status", "--run-dir", str(run_dir))
    as_json = voicebus("status", "--run-dir", str(run_dir), "--json")

    assert done.returncode == as_json.returncode == 3
    assert "does not run" in done.stdout
    assert json.loads(as_json.stdout) == []


def test_status_as_json_names_state_and_pid_of_each_process(start: Start, run_dir: Path) -> None:
    started = start()

    done = voicebus("status", "--json", VOICEBUS_RUN=str(run_dir))

    assert done.returncode == 0
    shown = [(one["name"], one["state"], one["pid"]) for one in json.loads(done.stdout)]
    assert shown == [(one.name, "ready", one.pid) for one in started.processes]
    stack.stop(run_dir)


def test_up_returns_when_all_is_ready_and_down_ends_it(
    wish: Callable[..., Wish], run_dir: Path
) -> None:
    environment = dict(wish().environment or {}) | {"VOICEBUS_RUN": str(run_dir)}

    up = voicebus("up", **environment)
    status = voicebus("status", **environment)
    down = voicebus("down", **environment)

    assert (up.returncode, status.returncode, down.returncode) == (0, 0, 0)
    assert "Voicebus is ready: simulator-0, transport-0" in up.stdout
    assert "Voicebus has stopped" in down.stdout
    assert not stack.status(run_dir).is_running
    assert "nothing was running" in voicebus("down", **environment).stdout


def test_endpoints_are_told_whether_or_not_anything_runs(run_dir: Path) -> None:
    done = voicebus("endpoints", "--json", "--run-dir", str(run_dir))

    assert done.returncode == 0
    assert json.loads(done.stdout) == Endpoints(run_dir).every()


def test_a_reader_that_has_read_enough_is_no_error(run_dir: Path) -> None:
    command = (
        f"{sys.executable} -P -c 'from voicebus.cli.main import run; run()' endpoints | head -1"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={"PATH": "/usr/bin:/bin", "VOICEBUS_RUN": str(run_dir)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.startswith("session-0.commands")


def test_doctor_ends_with_code_1_only_if_something_is_missing(run_dir: Path) -> None:
    well = voicebus("doctor", "--json", VOICEBUS_RUN=str(run_dir))
    ill = voicebus("doctor", VOICEBUS_RUN="/proc/nowhere")

    assert well.returncode == 0
    assert {one["verdict"] for one in json.loads(well.stdout)} <= {"ok", "warning"}
    assert ill.returncode == 1
    assert "missing" in ill.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("down", "--wait", "nan"), "--wait"),
        (("restart", "session", "--wait", "nan"), "--wait"),
        (("talk", "--text", "hello", "--timeout", "nan"), "give a number of seconds above 0"),
        (("chaos", "--minutes", "nan"), "give --minutes above 0"),
        (("soak", "--minutes", "nan"), "give --minutes above 0"),
    ],
)
def test_a_time_that_is_no_number_is_refused(
    words: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    done = voicebus(*words, VOICEBUS_RUN=str(tmp_path / "run"))

    assert done.returncode != 0
    assert why in done.stderr
