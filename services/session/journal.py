"""The journal of a shard: SQLite, WAL, one writer. Commit, then publish, then acknowledge.

What was committed here happened; what was not will be told again by those who still hold it.
"""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

log = structlog.get_logger("session.journal")

STEPS: tuple[str, ...] = ()
"""SQL that makes a file of schema n + 1 one of schema n + 2. Never changed once it was released;
`_TABLES` holds what a new file begins with, the outcome of all of them."""
SCHEMA_VERSION = 1 + len(STEPS)
BUSY_MS = 5_000
FORGIVEN_AFTER = 100
"""Inputs, after which a death while deciding was not the conversation's fault: an event that kills
comes again at once, a killer by chance at any time."""
LEFTOVERS = "leftovers"
"""In `meta`: conversations were deleted since the file was last written anew. Deleting overwrites,
but SQLite moves rows between pages, and copies stay in the gaps that it leaves."""
REPLIES_TOGETHER = 200
"""Old ones forgotten in one go: some ten milliseconds, which a commit may have to wait."""
LOOK_EVERY = 1000
"""Steps of SQLite's machine, a millisecond, between two looks whether to go on."""
FORGET_BYTES = 512 * 1024 * 1024
"""`forget` does not write a larger file anew. It takes a second or more per 200 MB, and the commits
of a session process that writes to it wait for that; after BUSY_MS they fail."""
JANITOR_BUSY_MS = 100
"""To empty the log means to keep the writer out until all readers are gone: not for long."""

_TABLES = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists sessions (
    session_id text primary key,
    created_us integer not null,
    ended_us   integer,
    ledger     blob not null          -- JSON: numbers, version of the code, transport, generation
) without rowid;
create table if not exists inputs (
    session_id text not null, number integer not null, body blob not null,
    primary key (session_id, number)
) without rowid;
create table if not exists events (
    session_id text not null, seq integer not null, header blob not null,
    primary key (session_id, seq)
) without rowid;
create table if not exists outbox (
    session_id text not null, n integer not null, header blob not null, payload blob,
    primary key (session_id, n)
) without rowid;
create table if not exists replies (
    session_id text not null, command text not null, id text not null,
    body_hash blob not null, reply blob not null, at_us integer not null,
    primary key (session_id, command, id)
) without rowid;
create table if not exists snapshots (
    session_id text primary key, number integer not null, version text not null, body blob not null
) without rowid;
"""


_INDEXES = """
create index if not exists sessions_by_end on sessions (ended_us);
create index if not exists replies_by_age on replies (at_us);
"""
"""For what is looked for every ten seconds: without them all rows are read each time, in the way of
the commits. Older code neither needs nor minds them, so that they are no step of the schema."""


class JournalUnusable(RuntimeError):
    """The journal cannot be opened. The text says which file, why, and what to do."""


class StoredReply(msgspec.Struct, frozen=True):
    """The reply to a command id."""

    session_id: str
    command: str
    id: str
    body_hash: bytes
    reply: bytes
    at_us: int


class Commit(msgspec.Struct):
    """What one conversation adds in one transaction."""

    session_id: str
    created_us: int = 0
    inputs: list[tuple[int, bytes]] = []
    events: list[tuple[int, bytes]] = []
    outbox: list[tuple[int, bytes, bytes | None]] = []
    forget_outbox: bool = False
    """The transport was restarted: its numbers begin anew."""
    delivered: int = 0
    """Frames down up to here are done and may be forgotten."""
    replies: list[StoredReply] = []
    ledger: bytes = b"{}"
    snapshot: tuple[int, str, bytes] | None = None
    ended_us: int | None = None


class Stored(msgspec.Struct, frozen=True):
    """A live conversation as the journal knows it."""

    session_id: str
    created_us: int
    ledger: dict[str, Any]
    snapshot: tuple[int, str, bytes] | None
    inputs: list[tuple[int, bytes]]
    """Those after the snapshot."""
    outbox: list[tuple[int, bytes, bytes | None]]
    last_us: int = 0
    """When something last happened in it, as far as that was written."""

    def last_input(self) -> int:
        """The number of its last input."""
        if self.inputs:
            return self.inputs[-1][0]
        return self.snapshot[0] if self.snapshot else 0


class _Moment(msgspec.Struct):
    """Of an input, all that matters here."""

    now_us: int = 0


_moments = msgspec.json.Decoder(_Moment)


class Journal:
    """One file per shard. `write` belongs to the writer's thread, the rest to the loop's."""

    def __init__(self, path: Path, steps: tuple[str, ...] = STEPS) -> None:
        """Raises JournalUnusable. A file of an older version is brought up to this one."""
        self.path = path
        self._steps = steps
        with self._told():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = _connect(path)
            self._check_version()
            self._speed_up()
            self._reader = _connect(path)
            self._janitor = _connect(path)
            self._janitor.execute(f"pragma busy_timeout = {JANITOR_BUSY_MS}")
        path.chmod(0o600)
        self._file = path.stat()

    def is_there(self) -> bool:
        """Whether its path still leads to the file that is written, and found by a next process."""
        try:
            return os.path.samestat(self._file, self.path.stat())
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What is wrong with the file becomes a JournalUnusable."""
        try:
            yield
        except (OSError, ValueError, sqlite3.Error, msgspec.MsgspecError) as error:
            raise JournalUnusable(
                f"the journal {self.path} cannot be used: {error}; free the disk, make the folder "
                "writable, or move a damaged file away (its conversations are then lost)"
            ) from None

    def _check_version(self) -> None:
        """Nothing is written to a file that this version does not know."""
        newest = 1 + len(self._steps)
        found = _schema(self._writer)
        if found is None:
            self._writer.executescript(_TABLES)
            self._writer.execute("insert into meta values ('schema', ?)", (str(newest),))
            return
        if found > newest:
            self._writer.close()
            raise JournalUnusable(
                f"the journal {self.path} was written by a newer version (schema {found}, this "
                f"one knows {newest}): upgrade, or choose another data folder"
            )
        for version in range(found, newest):
            with _transaction(self._writer) as sql:
                for statement in filter(str.strip, self._steps[version - 1].split(";")):
                    sql.execute(statement)
                sql.execute("update meta set value = ? where key = 'schema'", (str(version + 1),))

    def _speed_up(self) -> None:
        # A full disk has no room for it, and conversations must go on there.
        with contextlib.suppress(sqlite3.OperationalError):
            self._writer.executescript(_INDEXES)

    def write(self, commits: list[Commit]) -> None:
        """All of it or nothing. Raises sqlite3.Error."""
        if not self.is_there():
            raise sqlite3.OperationalError("its file was deleted or replaced")
        with _transaction(self._writer) as sql:
            for commit in commits:
                self._write_one(sql, commit)

    @staticmethod
    def _write_one(sql: sqlite3.Connection, commit: Commit) -> None:
        session_id = commit.session_id
        if session_id:
            sql.execute(
                "insert into sessions values (?, ?, ?, ?) on conflict (session_id) do update set "
                "ended_us = excluded.ended_us, ledger = excluded.ledger",
                (session_id, commit.created_us, commit.ended_us, commit.ledger),
            )
        sql.executemany(
            "insert or ignore into inputs values (?, ?, ?)",
            [(session_id, *row) for row in commit.inputs],
        )
        sql.executemany(
            "insert or ignore into events values (?, ?, ?)",
            [(session_id, *row) for row in commit.events],
        )
        if commit.forget_outbox:
            sql.execute("delete from outbox where session_id = ?", (session_id,))
        sql.executemany(
            "insert or ignore into outbox values (?, ?, ?, ?)",
            [(session_id, *row) for row in commit.outbox],
        )
        if commit.delivered:
            sql.execute(
                "delete from outbox where session_id = ? and n <= ?",
                (session_id, commit.delivered),
            )
        sql.executemany(
            "insert or replace into replies values (?, ?, ?, ?, ?, ?)",
            [
                (r.session_id, r.command, r.id, r.body_hash, r.reply, r.at_us)
                for r in commit.replies
            ],
        )
        if commit.snapshot is not None:
            # The inputs before it stay until the retention ends: a conversation can be replayed
            # whole, and audited. Recovery begins at the snapshot.
            sql.execute(
                "insert or replace into snapshots values (?, ?, ?, ?)",
                (session_id, *commit.snapshot),
            )

    def strike(self, session_id: str, at_input: int) -> int:
        """The process died while deciding this conversation after that input: how often by now,
        without those that it has left far behind. Raises JournalUnusable."""
        key = f"strikes:{session_id}"
        with self._told():
            row = self._writer.execute("select value from meta where key = ?", (key,)).fetchone()
            count, _, last_at = row[0].partition("@") if row else ("0", "", "")
            is_again = at_input - int(last_at or at_input) <= FORGIVEN_AFTER
            strikes = 1 + (int(count) if is_again else 0)
        # On a full disk nothing is counted; the others must be able to go on.
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute(
                "insert or replace into meta values (?, ?)", (key, f"{strikes}@{at_input}")
            )
        return strikes

    def live(self) -> list[Stored]:
        """All conversations that have not ended. Raises JournalUnusable: a file may be damaged
        in its middle, and half of them are none."""
        with self._told():
            return self._live()

    def _live(self) -> list[Stored]:
        found = []
        rows = self._reader.execute(
            "select session_id, created_us, ledger from sessions where ended_us is null"
        ).fetchall()
        for session_id, created_us, ledger in rows:
            snapshot = self._reader.execute(
                "select number, version, body from snapshots where session_id = ?", (session_id,)
            ).fetchone()
            inputs = self._reader.execute(
                "select number, body from inputs where session_id = ? and number > ? "
                "order by number",
                (session_id, snapshot[0] if snapshot else 0),
            ).fetchall()
            outbox = self._reader.execute(
                "select n, header, payload from outbox where session_id = ? order by n",
                (session_id,),
            ).fetchall()
            found.append(
                Stored(
                    session_id,
                    created_us,
                    msgspec.json.decode(ledger),
                    snapshot,
                    inputs,
                    outbox,
                    self._last_us(session_id, created_us),
                )
            )
        return found

    def _last_us(self, session_id: str, created_us: int) -> int:
        row = self._reader.execute(
            "select body from inputs where session_id = ? order by number desc limit 1",
            (session_id,),
        ).fetchone()
        with contextlib.suppress(msgspec.MsgspecError):
            return max(created_us, _moments.decode(row[0]).now_us) if row else created_us
        return created_us

    def reply(self, session_id: str, command: str, command_id: str) -> StoredReply | None:
        """The reply to a command, also of a former life; an old one may be there a little longer
        than it is remembered. Raises sqlite3.Error."""
        row = self._reader.execute(
            "select * from replies where session_id = ? and command = ? and id = ?",
            (session_id, command, command_id),
        ).fetchone()
        return StoredReply(*row) if row else None

    def events(self, session_id: str, first: int, last: int | None, limit: int) -> list[bytes]:
        """Headers of a session's events from the first on, in order, up to one that was never
        written; also of a session that has ended."""
        rows = self._reader.execute(
            "select seq, header from events where session_id = ? and seq between ? and ? "
            "order by seq limit ?",
            (session_id, first, last if last is not None else 2**62, limit),
        ).fetchall()
        return [header for n, (seq, header) in enumerate(rows, first) if seq == n]

    def last_seq(self, session_id: str) -> int | None:
        """The last event of a session, None for one the journal does not know."""
        row = self._reader.execute(
            "select ledger from sessions where session_id = ?", (session_id,)
        ).fetchone()
        return int(msgspec.json.decode(row[0])["seq"]) if row else None

    def forget_ended(self, before_us: int) -> bool:
        """Forget one conversation that ended before, so that a commit waits for no more than that.
        Whether there may be more. Runs in the writer's thread."""
        old = self._writer.execute(
            "select session_id from sessions where ended_us < ? limit 1", (before_us,)
        ).fetchone()
        if old is None:
            return False
        with _transaction(self._writer) as sql:
            _delete(sql, old[0])
            sql.execute("insert or replace into meta values (?, 'yes')", (LEFTOVERS,))
        return True

    def forget_replies(self, before_us: int) -> bool:
        """Forget some that are older. Whether there may be more. Runs in the writer's thread."""
        with _transaction(self._writer) as sql:
            gone = sql.execute(
                "delete from replies where (session_id, command, id) in "
                "(select session_id, command, id from replies where at_us < ? limit ?)",
                (before_us, REPLIES_TOGETHER),
            )
            return bool(gone.rowcount == REPLIES_TOGETHER)

    def has_leftovers(self) -> bool:
        """Whether words of forgotten conversations may be left, so that the file must be written
        anew. Runs in the writer's thread."""
        row = self._writer.execute("select 1 from meta where key = ?", (LEFTOVERS,)).fetchone()
        return row is not None

    def rewrite(self, is_over: Callable[[], bool]) -> None:
        """Write the file anew, which takes a second or more per 200 MB. Runs in the writer's
        thread. Raises sqlite3.Error; where `is_over` has ended it, which it can do in the first
        half, all is as before."""
        self._writer.set_progress_handler(is_over, LOOK_EVERY)
        try:
            self._writer.execute("vacuum")
        finally:
            self._writer.set_progress_handler(None, 0)

    def size_bytes(self) -> int:
        """Of the file without its log. Raises OSError."""
        return self.path.stat().st_size

    def rewritten(self) -> None:
        """The log is empty, too: nothing is left. Runs in the writer's thread."""
        self._writer.execute("delete from meta where key = ?", (LEFTOVERS,))

    def checkpoint(self, *, empty_log: bool = False) -> bool:
        """Move the write-ahead log into the file; on a connection of its own.

        With `empty_log` nothing stays behind in the log, either; while somebody reads that cannot
        be had. Whether it was done.
        """
        with contextlib.suppress(sqlite3.Error):
            self._janitor.execute("pragma wal_checkpoint(passive)")
            if not empty_log:
                return True
            # This one keeps writers out, but has little left to do.
            (is_busy, *_) = self._janitor.execute("pragma wal_checkpoint(truncate)").fetchone()
            return not is_busy
        return False

    def close(self) -> None:
        """Close all connections."""
        for connection in (self._reader, self._janitor, self._writer):
            connection.close()


def forget(path: Path, session_id: str) -> bool:
    """Leave nothing of a conversation in the file, its log or its unused pages; also while a
    session process writes to it. Whether it was there. Raises sqlite3.Error.

    The file is written anew (see LEFTOVERS), and the session process waits for that. Larger than
    FORGET_BYTES it is left to that process, or to whoever reads the log, as after retention.
    """
    with contextlib.closing(_connect(path)) as sql:
        sql.execute("pragma temp_store = memory")
        known = sql.execute("select 1 from sessions where session_id = ?", (session_id,)).fetchone()
        if known is None:
            return False
        mine = secrets.token_hex(8)
        with _transaction(sql):
            _delete(sql, session_id)
            sql.execute("insert or replace into meta values (?, ?)", (LEFTOVERS, mine))
        size_bytes = path.stat().st_size
        if size_bytes <= FORGET_BYTES:
            sql.execute("vacuum")
        (is_busy, *_) = sql.execute("pragma wal_checkpoint(truncate)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError("somebody reads the journal all the time")
        if size_bytes <= FORGET_BYTES:
            # Unless the session process has forgotten another one meanwhile. It costs a rewriting
            # more where it cannot be said.
            with contextlib.suppress(sqlite3.Error):
                sql.execute("delete from meta where key = ? and value = ?", (LEFTOVERS, mine))
        else:
            why = f"it has {size_bytes} bytes; see docs/operations.md"
            log.warning("journal.not_rewritten", path=str(path), why=why)
    return True


def _delete(sql: sqlite3.Connection, session_id: str) -> None:
    for table in ("inputs", "events", "outbox", "replies", "snapshots", "sessions"):
        sql.execute(f"delete from {table} where session_id = ?", (session_id,))
    sql.execute("delete from meta where key = ?", (f"strikes:{session_id}",))
    # The reply to its `open` was sent before the session had a name.
    sql.execute(
        "delete from replies where session_id = '' and instr(reply, ?)", (session_id.encode(),)
    )


@contextlib.contextmanager
def _transaction(sql: sqlite3.Connection) -> Any:
    sql.execute("begin immediate")
    try:
        yield sql
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            sql.execute("rollback")
        raise
    sql.execute("commit")


def _schema(sql: sqlite3.Connection) -> int | None:
    """What the file says it is; nothing when it is new."""
    is_there = sql.execute("select 1 from sqlite_master where name = 'meta'").fetchone()
    row = is_there and sql.execute("select value from meta where key = 'schema'").fetchone()
    return int(row[0]) if row else None


def _connect(path: Path) -> sqlite3.Connection:
    # The writer's thread is not the one that opens; each connection is used by one at a time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"pragma busy_timeout = {BUSY_MS}")
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("pragma wal_autocheckpoint = 0")
        # What is deleted is overwritten: it is people's words. Costs 0-20 % of a commit.
        connection.execute("pragma secure_delete = on")
    except sqlite3.Error:
        connection.close()  # a damaged file
        raise
    return connection
