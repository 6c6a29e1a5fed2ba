"""`voicebus forget`: leave no word of a conversation behind."""

import sqlite3
import time
from pathlib import Path
from typing import Annotated

import typer

from voicebus.cli import folders, journals, processes
from voicebus.cli.journals import DataDir
from voicebus.cli.options import RunDir
from voicebus.cli.problems import Problem
from voicebus.config import loader
from voicebus.config.settings import RecorderSettings
from voicebus.services.recorder import files
from voicebus.services.session import journal

HELD_S = 61.0
"""So long a session process holds an ended conversation in memory, and may write of it."""


def forget(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    run_dir: RunDir = None,
    data: DataDir = None,
) -> None:
    """Delete a conversation that has ended from the journal: its events, inputs, replies and
    snapshot, also from the write-ahead log and the unused pages; and its recordings, wherever the
    recorder of this data folder has written. Works beside a running Voicebus.
    """
    path = journals.of_session(session, run_dir, data)
    with journals.opened(path) as archive:
        (kept,) = archive.sessions(session)
    owner = None if data is not None else _owner(path.stem, run_dir)
    if owner is not None and kept.ended_us is None:
        raise Problem(f"session {session} is open (process {owner} holds it): close it first")
    if owner is not None and kept.ended_us is not None:
        left_s = kept.ended_us / 1e6 + HELD_S - time.time()
        if left_s > 0:
            print(f"it ended just now; waiting {left_s:.0f} s until its process has let it go")
            time.sleep(left_s)
    try:
        journal.forget(path, session)
    except sqlite3.Error as error:
        raise Problem(f"{path} could not be written: {error}; try again") from None
    for folder in _recordings(path.parent):
        _forget_recording(folder / session, session)
    print(f"forgotten: {session}")


def _recordings(data: Path) -> list[Path]:
    """Where the recorder wrote by its own note, and where the settings here say."""
    _, recorder = loader.load(RecorderSettings, loader.current_environment(), {})
    noted = files.places(data)
    return [*noted, Path(recorder.folder).expanduser()] if recorder.folder else noted


def _forget_recording(folder: Path, session: str) -> None:
    if not folder.is_dir():
        return
    try:
        files.delete(folder)
    except OSError as error:
        raise Problem(
            f"the journal has forgotten {session}, but its recording {folder} could not be "
            f"deleted: {error.strerror or error}; delete it yourself"
        ) from None


def _owner(role: str, run_dir: object) -> int | None:
    """The session process that writes this journal."""
    folder = folders.choose(run_dir if run_dir is None else str(run_dir))
    return processes.holders(folder).get(role)
