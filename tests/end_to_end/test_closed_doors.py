"""The run folder and what is in it are closed to other users of the machine."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from voicebus.cli.testing import Stack

NOBODY = 65_534
INTRUDER = """
import os, socket, sys
run, *names = sys.argv[1:]
try:
    print("listed", os.listdir(run))
except PermissionError:
    print("cannot list")
for name in names:
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(os.path.join(run, name))
        print("entered", name)
    except PermissionError:
        print("refused", name)
for name in ("provider.key", "session-0.log", "data/session-0.db"):
    try:
        open(os.path.join(run, name)).close()
        print("read", name)
    except PermissionError:
        print("refused", name)
"""


def _sockets(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir() if path.is_socket())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_can_neither_look_nor_connect_nor_read(shared_stack: Stack) -> None:
    names = _sockets(shared_stack.run_dir)
    assert len(names) >= 12

    told = subprocess.run(
        ["/usr/bin/env", "python3", "-I", "-c", INTRUDER, str(shared_stack.run_dir), *names],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={"PATH": f"/usr/bin:/bin:{Path(sys.executable).parent}"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.splitlines()

    assert told[0] == "cannot list"
    assert all(line.startswith("refused ") for line in told[1:]), told
    assert len(told) == 1 + len(names) + 3


def test_everything_in_it_belongs_to_its_user_alone(shared_stack: Stack) -> None:
    for path in (shared_stack.run_dir, *shared_stack.run_dir.rglob("*")):
        status = path.lstat()
        assert status.st_uid == os.geteuid()
        assert not stat.S_IMODE(status.st_mode) & 0o077, f"{path} is open to others"
