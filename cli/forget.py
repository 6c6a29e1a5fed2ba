"""`voicebus forget`: leave no word of a conversation behind."""

import sqlite3
import time
from pathlib import Path
from typing import Annotated

import typer

from voicebus.cli import folders, journals, processes
from voicebus.cli.journals import DataDir, NotKept
from voicebus.cli.options import RunDir
from voicebus.cli.problems import Problem
from voicebus.config import loader
from voicebus.config.settings import RecorderSettings
from voicebus.services.recorder import files
from voicebus.services.session import journal
from voicebus.services.session.archive import is_in_use

HELD_S = 61.0
"""So long a session process holds an ended conversation in memory, and may write of it."""


def forget(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    run_dir: RunDir = None,
    data: DataDir = None,
) -> None:
    """Delete a conversation that has ended from the journal: its events, inputs, replies and
    snapshot, also from the write-ahead log and the unused pages; and its recordings, wherever the
    recorder of this data folder has written, also when the journal has forgotten it before.

    Works beside a running Voicebus, where a call that is open is refused. What never ended, in a
    copy or after `voicebus down`, is forgotten as well.
    """
    folder = folders.data(run_dir) if data is None else data
    try:
        path = journals.of_session(session, run_dir, data)
    except NotKept:
        # Its time in the journal is over; recordings may be kept longer, or for ever.
        if not _forget_recordings(folder, session):
            raise
        print(f"forgotten: the recording of {session}; no journal in {folder} knows it")
    else:
        _forget_in_journal(path, session, run_dir)
        _forget_recordings(folder, session)
        print(f"forgotten: {session}")


def _forget_in_journal(path: Path, session: str, run_dir: Path | None) -> None:
    with journals.opened(path) as archive:
        (kept,) = archive.sessions(session)
    try:
        if kept.ended_us is None:
            _check_nobody_goes_on(path, session, run_dir)
        else:
            _wait_for_process(path, kept.ended_us)
        journal.forget(path, session)
    except sqlite3.Error as error:
        raise Problem(f"{path} could not be written: {error}; try again") from None


def _check_nobody_goes_on(path: Path, session: str, run_dir: Path | None) -> None:
    """Who holds the conversation would write of it again, and could not go on with the rest."""
    if is_in_use(path) or _is_supervised(path, run_dir):
        raise Problem(
            f"session {session} has not ended, and Voicebus runs with its journal {path}: "
            "close the call first, or stop Voicebus"
        )


def _is_supervised(path: Path, run_dir: Path | None) -> bool:
    """Between two lives of a session process nobody has its journal open."""
    if folders.data(run_dir).resolve() != path.parent.resolve():
        return False
    return processes.recorded_supervisor(folders.choose(run_dir)) is not None


def _wait_for_process(path: Path, ended_us: int) -> None:
    left_s = ended_us / 1e6 + HELD_S - time.time()
    if left_s > 0 and is_in_use(path):
        print(f"it ended just now; waiting {left_s:.0f} s until its process has let it go")
        time.sleep(left_s)


def _forget_recordings(data: Path, session: str) -> bool:
    """Whether there was one."""
    was_there = False
    for folder in _recordings(data):
        recording = folder / session
        if not recording.is_dir():
            continue
        was_there = True
        try:
            files.delete(recording)
        except OSError as error:
            raise Problem(
                f"the journal does not know {session} any more, but its recording {recording} "
                f"could not be deleted: {error.strerror or error}; delete it yourself"
            ) from None
    return was_there


def _recordings(data: Path) -> list[Path]:
    """Where the recorder wrote by its own note, and where the settings here say."""
    _, recorder = loader.load(RecorderSettings, loader.current_environment(), {})
    noted = files.places(data)
    return [*noted, Path(recorder.folder).expanduser()] if recorder.folder else noted
