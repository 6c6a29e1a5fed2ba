"""`voicebus forget`: no word is left, wherever it stands."""

from pathlib import Path

import pytest

from voicebus.bus import ids
from voicebus.cli.forget import forget
from voicebus.cli.problems import Problem
from voicebus.services.recorder import files
from voicebus.services.session.journal import Commit, Journal

LEDGER = b'{"seq":2,"heads":{},"down_n":1,"up_n":0}'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with an empty journal, whose recorder writes to `recordings`."""
    folder = tmp_path / "data"
    Journal(folder / "session-0.db").close()
    files.note_place(folder, tmp_path / "recordings")
    return folder


def recorded(data: Path, session_id: str) -> Path:
    recording = data.parent / "recordings" / session_id
    files.Files(recording).open()
    return recording


def test_a_recording_that_the_journal_has_outlived_is_forgotten_too(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_id, other = ids.session_id(0), ids.session_id(0)
    recording, kept = recorded(data, session_id), recorded(data, other)

    forget(session_id, data=data)

    assert not recording.exists()
    assert kept.exists()
    assert f"no journal in {data} knows it" in capsys.readouterr().out


def test_journal_and_recording_are_forgotten_together(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_id = ids.session_id(0)
    recording = recorded(data, session_id)
    journal = Journal(data / "session-0.db")
    journal.write([Commit(session_id=session_id, created_us=1, ended_us=2, ledger=LEDGER)])
    journal.close()

    forget(session_id, data=data)

    assert not recording.exists()
    assert capsys.readouterr().out == f"forgotten: {session_id}\n"
    with pytest.raises(Problem, match="no journal in"):
        forget(session_id, data=data)


def test_what_nobody_knows_is_told(data: Path) -> None:
    with pytest.raises(Problem, match=r"no journal in .* it was forgotten"):
        forget(ids.session_id(0), data=data)
    with pytest.raises(Problem, match="is no session id"):
        forget("../recordings", data=data)
