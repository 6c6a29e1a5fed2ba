"""`voicebus forget`: leave no word of a conversation behind."""

import sqlite3
import time
from typing import Annotated

import typer

from voicebus.cli import folders, journals, processes
from voicebus.cli.journals import DataDir
from voicebus.cli.options import RunDir
from voicebus.cli.problems import Problem
from voicebus.services.session import journal

HELD_S = 61.0
"""So long a session process holds an ended conversation in memory, and may write of it."""


def forget(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    run_dir: RunDir = None,
    data: DataDir = None,
) -> None:
    """Delete a conversation that has ended from the journal: its events, inputs, replies and
    snapshot, also from the write-ahead log and the unused pages. Works beside a running Voicebus.
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
    print(f"forgotten: {session}")


def _owner(role: str, run_dir: object) -> int | None:
    """The session process that writes this journal."""
    folder = folders.choose(run_dir if run_dir is None else str(run_dir))
    return processes.holders(folder).get(role)
