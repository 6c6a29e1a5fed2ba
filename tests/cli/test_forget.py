"""`voicebus forget`: no word is left, wherever it stands."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from voicebus.bus import ids
from voicebus.cli.forget import HELD_S, forget
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


def _unfinished(path: Path) -> tuple[str, Journal]:
    session_id = ids.session_id(0)
    journal = Journal(path)
    journal.write([Commit(session_id=session_id, created_us=1, ledger=LEDGER)])
    return session_id, journal


@pytest.mark.parametrize("named", ["run_dir", "data"])
def test_an_open_conversation_is_not_forgotten(run_dir: Path, named: str) -> None:
    session_id, journal = _unfinished(run_dir / "data" / "session-0.db")
    where = {"run_dir": run_dir} if named == "run_dir" else {"data": run_dir / "data"}

    with pytest.raises(Problem, match=r"has not ended.* close the call first"):
        forget(session_id, **where)

    assert [one.session_id for one in journal.live()] == [session_id]
    journal.close()


def test_an_open_conversation_between_two_lives_of_its_process_is_not_forgotten_either(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_id, journal = _unfinished(run_dir / "data" / "session-0.db")
    journal.close()
    words = ["sh", "-c", "read line", "supervisord"]
    environment = {**os.environ, "VOICEBUS_RUN": str(run_dir)}

    with subprocess.Popen(words, stdin=subprocess.PIPE, env=environment) as supervisor:
        (run_dir / "supervisord.pid").write_text(f"{supervisor.pid}\n")
        for where in ({"run_dir": run_dir}, {"run_dir": run_dir, "data": run_dir / "data"}):
            with pytest.raises(Problem, match=r"has not ended.* close the call first"):
                forget(session_id, **where)
        supervisor.communicate()
    forget(session_id, run_dir=run_dir)

    assert capsys.readouterr().out == f"forgotten: {session_id}\n"


@pytest.mark.parametrize("is_open", [True, False])
def test_one_that_ended_just_now_waits_for_the_process_that_still_holds_it(
    data: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    waited: list[float] = []
    clock = SimpleNamespace(time=lambda: 40.0, sleep=waited.append)
    monkeypatch.setattr("voicebus.cli.forget.time", clock)
    session_id = ids.session_id(0)
    journal = Journal(data / "session-0.db")
    ended = Commit(session_id=session_id, created_us=1, ended_us=20_000_000, ledger=LEDGER)
    journal.write([ended])
    if not is_open:
        journal.close()

    forget(session_id, data=data)

    assert waited == ([20.0 + HELD_S - 40.0] if is_open else [])
    if is_open:
        journal.close()
