import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicebus.bus import locks
from voicebus.bus.locks import AlreadyRunning, RoleLock

HOLDER = """
import sys
from pathlib import Path
from voicebus.bus.locks import RoleLock
RoleLock(Path(sys.argv[1])).take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session-0.lock"


@pytest.fixture
def other(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the role."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.communicate()


def test_a_role_that_nobody_holds_is_taken_and_given_up_again(path: Path) -> None:
    with RoleLock(path):
        assert path.read_text() == f"{os.getpid()}\n"
        assert locks.holder(path) == os.getpid()

    assert not path.exists()
    assert locks.holder(path) is None


def test_a_role_that_another_process_holds_is_refused_and_names_it(
    path: Path, other: "subprocess.Popen[str]"
) -> None:
    with pytest.raises(AlreadyRunning, match=f"process {other.pid} holds {path}.*voicebus down"):
        RoleLock(path).take()

    assert locks.holder(path) == other.pid


def test_a_refused_lock_leaves_the_holder_its_file(
    path: Path, other: "subprocess.Popen[str]"
) -> None:
    lock = RoleLock(path)
    with pytest.raises(AlreadyRunning):
        lock.take()
    lock.release()

    assert path.read_text() == f"{other.pid}\n"


def test_the_role_of_a_killed_process_is_free(path: Path, other: "subprocess.Popen[str]") -> None:
    other.send_signal(signal.SIGKILL)
    other.wait(20)
    assert path.exists()
    assert locks.holder(path) is None

    with RoleLock(path):
        assert locks.holder(path) == os.getpid()


def test_a_longer_pid_of_the_last_holder_is_overwritten_whole(path: Path) -> None:
    path.write_text("123456789\n")

    with RoleLock(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_does_not_pass_to_child_processes(path: Path) -> None:
    with RoleLock(path):
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            close_fds=False,
        )
    try:
        with RoleLock(path):
            assert locks.holder(path) == os.getpid()
    finally:
        child.communicate()


def test_only_its_owner_may_read_the_file(path: Path) -> None:
    with RoleLock(path):
        assert path.stat().st_mode & 0o777 == 0o600
