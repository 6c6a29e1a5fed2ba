"""Where commands find the journals, and the conversations in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from voicebus.bus import ids
from voicebus.cli import folders
from voicebus.cli.problems import Problem
from voicebus.services.session.archive import Archive
from voicebus.services.session.journal import JournalUnusable

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="The folder of the journal. Default: as `voicebus up` has it."
    ),
]


class NotKept(Problem):
    """No journal there knows the session."""


def files(run_dir: Path | None, data: Path | None) -> list[Path]:
    """The journals of a data folder. Raises Problem when there is none."""
    folder = data if data is not None else folders.data(run_dir)
    found = sorted(folder.glob("session-*.db")) if folder.is_dir() else []
    if not found:
        raise Problem(
            f"there is no journal (session-*.db) in {folder}; name its folder with --data, "
            "or the run folder with --run-dir"
        )
    return found


def of_session(session_id: str, run_dir: Path | None, data: Path | None) -> Path:
    """The journal that keeps this session. Raises NotKept, and Problem where none can be read."""
    shard = ids.shard_of(session_id)
    if shard is None:
        raise Problem(f"{session_id!r} is no session id (s<shard>-<26 characters>)")
    for path in files(run_dir, data):
        with opened(path) as archive:
            if archive.sessions(session_id):
                return path
    raise NotKept(
        f"no journal in {files(run_dir, data)[0].parent} knows session {session_id}: "
        "it was forgotten, or it belongs to another stack"
    )


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """A journal for reading. Raises Problem."""
    try:
        archive = Archive(path)
    except JournalUnusable as error:
        raise Problem(str(error)) from None
    with archive:
        yield archive
