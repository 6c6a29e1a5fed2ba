"""A journal looked at from outside."""

import subprocess
import sys
from pathlib import Path

from voicebus.services.session.archive import Archive, is_in_use
from voicebus.services.session.journal import Commit, Journal

LEDGER = b'{"seq":1}'
HOLDER = """
import pathlib, sys
from voicebus.services.session.journal import Journal
journal = Journal(pathlib.Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
journal.close()
"""


def test_a_journal_is_in_use_while_it_is_written_or_read_and_asking_disturbs_nobody(
    tmp_path: Path,
) -> None:
    path = tmp_path / "session-0.db"
    journal = Journal(path)
    journal.write([Commit(session_id="s0-a", created_us=1, ledger=LEDGER)])

    while_written = is_in_use(path)
    journal.write([Commit(session_id="s0-b", created_us=2, ledger=LEDGER)])
    journal.close()
    after = is_in_use(path)
    with Archive(path) as archive:
        while_read = is_in_use(path)
        known = [one.session_id for one in archive.sessions()]

    assert (while_written, after, while_read, is_in_use(path)) == (True, False, True, False)
    assert known == ["s0-a", "s0-b"]


def test_another_process_that_has_it_open_is_noticed_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "session-0.db"
    words = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"

        assert is_in_use(path)

        holder.communicate()
    assert holder.returncode == 0
    assert not is_in_use(path)
