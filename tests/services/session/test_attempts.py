"""The attempt mark survives the death of the process, and only then is it left behind."""

import os
import subprocess
import sys
from pathlib import Path

from voicebus.services.session.attempts import AttemptMark

SESSION = "s0-00000000000000000000000000"


def test_a_clean_mark_leaves_nothing_behind(tmp_path: Path) -> None:
    mark = AttemptMark(tmp_path / "mark")
    mark.begin(SESSION)
    mark.clear()
    mark.close()

    assert AttemptMark(tmp_path / "mark").left_behind == ""


def test_who_was_being_decided_at_a_death_is_known_afterwards(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from voicebus.services.session.attempts import AttemptMark\n"
        f"AttemptMark(pathlib.Path(sys.argv[1])).begin({SESSION!r})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "mark"
    subprocess.run([sys.executable, "-P", "-c", code, str(path)], check=False)

    assert AttemptMark(path).left_behind == SESSION


def test_the_mark_is_closed_to_others(tmp_path: Path) -> None:
    AttemptMark(tmp_path / "mark")

    assert os.stat(tmp_path / "mark").st_mode & 0o077 == 0
