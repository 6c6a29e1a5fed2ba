"""A journal read from outside, while its session process writes to it or on another machine."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from voicebus.services.session.journal import SCHEMA_VERSION, JournalUnusable


class Kept(msgspec.Struct, frozen=True):
    """A conversation as the journal knows it."""

    session_id: str
    created_us: int
    ended_us: int | None
    seq: int
    """Its last event, by its ledger."""


class Archive:
    """One file, for reading only."""

    def __init__(self, path: Path) -> None:
        """Raises JournalUnusable."""
        self.path = path
        try:
            if not path.is_file():
                raise JournalUnusable(f"there is no journal {path}")
            self._sql = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            self._sql.execute("pragma busy_timeout = 5000")
            row = self._sql.execute("select value from meta where key = 'schema'").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise JournalUnusable(f"{path} cannot be read as a journal: {error}") from None
        if row is None or int(row[0]) > SCHEMA_VERSION:
            raise JournalUnusable(
                f"{path} has schema {row[0] if row else '?'}, this version reads up to "
                f"{SCHEMA_VERSION}: upgrade"
            )

    def sessions(self, session_id: str | None = None) -> list[Kept]:
        """All conversations, the oldest first, or the one that is asked for."""
        rows = self._sql.execute(
            "select session_id, created_us, ended_us, ledger from sessions "
            "where ? is null or session_id = ? order by created_us",
            (session_id, session_id),
        )
        return [
            Kept(sid, created_us, ended_us, int(msgspec.json.decode(ledger)["seq"]))
            for sid, created_us, ended_us, ledger in rows
        ]

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """Headers of its events, in order."""
        rows = self._sql.execute(
            "select header from events where session_id = ? order by seq", (session_id,)
        )
        return [msgspec.json.decode(row[0]) for row in rows]

    def inputs(self, session_id: str) -> Iterator[tuple[int, bytes]]:
        """Number and body of its inputs, in order."""
        yield from self._sql.execute(
            "select number, body from inputs where session_id = ? order by number", (session_id,)
        )

    def close(self) -> None:
        """Close the file."""
        self._sql.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_in_use(path: Path) -> bool:
    """Whether somebody has this file open as a database: a session process that writes to it, or a
    reader. Raises sqlite3.Error.

    Each connection shares a lock of the file for as long as it is there, and whoever is alone can
    have it exclusively. SQLite itself asks so which connection is the last to leave.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as sql:
        sql.execute("pragma locking_mode = exclusive")
        try:
            sql.execute("begin exclusive")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                return True
            raise
        sql.execute("rollback")
    return False
