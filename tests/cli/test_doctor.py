import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from voicebus.cli import doctor, stack
from voicebus.cli.doctor import Finding
from voicebus.config import extras
from voicebus.services.supervisor import Supervisor

Start = Callable[..., stack.StackStatus]


def examine(run_dir: Path, **environment: str) -> dict[str, Finding]:
    return {one.what: one for one in doctor.examine(run_dir, environment)}


def test_where_everything_is_there_nothing_is_missing(run_dir: Path) -> None:
    found = examine(run_dir)

    assert [one for one in found.values() if one.verdict == "missing"] == []
    assert found["processes"].found == "none"
    assert list(run_dir.iterdir()) == []


def test_whatever_is_not_ok_comes_with_a_fix(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = examine(run_dir, VOICEBUS_RUM="x", VOICEBUS_TRANSPORT_PROVIDER_KEY_FILE="/nowhere")

    assert found["flite"].verdict == "warning"
    assert found["settings"].verdict == "missing"
    assert "did you mean VOICEBUS_RUN?" in found["settings"].found
    assert found["key"].verdict == "missing"
    assert all(one.fix for one in found.values() if one.verdict != "ok")


@pytest.mark.parametrize(
    ("folder", "told"),
    [("/tmp/" + "x" * 100, "too long"), ("/proc/nowhere", "/proc"), ("/dev/null", "/dev/null")],
)
def test_a_run_folder_that_cannot_be_one_is_missing(folder: str, told: str) -> None:
    found = examine(Path(folder))["run folder"]

    assert found.verdict == "missing"
    assert told in found.found


def test_a_key_file_that_others_may_read_is_a_warning(run_dir: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-of-the-user")
    key.chmod(0o644)

    found = examine(run_dir, VOICEBUS_TRANSPORT_PROVIDER_KEY_FILE=str(key))["key"]

    assert found == Finding("key", "warning", f"others may read {key}", f"chmod 600 {key}")


def test_the_key_itself_is_never_shown(run_dir: Path) -> None:
    found = examine(run_dir, OPENAI_API_KEY="sk-of-the-user")

    assert "sk-of-the-user" not in str(found)
    assert "dials the real provider" in found["key"].found


def test_processes_that_are_not_ready_are_named(start: Start, run_dir: Path) -> None:
    start()
    assert "supervisord is process" in examine(run_dir)["processes"].found

    Supervisor(run_dir).stop("session-0")

    assert examine(run_dir)["processes"].found == "session-0 is stopped"
    stack.stop(run_dir)


def test_the_gateways_packages_are_missed_only_where_it_is_wanted(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "WEB", ("no_such_package",))

    found = examine(run_dir, VOICEBUS_GATEWAY_BIND="127.0.0.1")["gateway"]
    assert (found.verdict, found.fix) == (
        "missing",
        f"{sys.executable} -m pip install 'voicebus[web]'",
    )
    assert "gateway" not in examine(run_dir)
