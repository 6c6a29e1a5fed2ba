"""The write path: one batch at a time goes to the journal's thread; meanwhile the next collects."""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from voicebus.services.session.conversation import Work
from voicebus.services.session.journal import Commit, Journal
from voicebus.services.session.pace import Pace
from voicebus.services.session.thread import Thread

log = structlog.get_logger("session.writer")

SLOW_S = 1.0
"""A commit takes a millisecond; a disk that needs so long is about to be a trouble."""

BACKLOG_BYTES = 256 * 1024 * 1024
"""Of what could not be written; then the words are given up."""
REPLIES_KEPT = 10_000
"""Of those that were given up: so that a repeated command is still known."""
REWRITE_BYTES = 1024 * 1024 * 1024
"""A larger file is not written anew while the process runs: the second half of it cannot be ended,
and who opens a session then would wait for longer than anybody does."""
FORGOTTEN_TOGETHER = 200
"""Conversations at each look, every 10 s: more than end in that time, and some 100 MB of log."""
REWRITE_AGAIN_S = 3600.0
"""After a failure: the disk that has no room for a second copy will not have it soon."""


def _remains(commits: list[Commit]) -> list[Commit]:
    """What must be known of a conversation without its words: that it is there, or has ended; and
    the last replies."""
    last: dict[str, Commit] = {}
    for commit in commits:
        last[commit.session_id] = Commit(
            commit.session_id,
            commit.created_us,
            forget_outbox=True,
            ledger=commit.ledger,
            ended_us=commit.ended_us,
        )
    replies = [reply for commit in commits for reply in commit.replies]
    return [*last.values(), Commit("", replies=replies[-REPLIES_KEPT:])]


def _size(commit: Commit) -> int:
    bodies = [body for _, body in (*commit.inputs, *commit.events)]
    bodies += [payload or b"" for _, _, payload in commit.outbox]
    bodies += [] if commit.snapshot is None else [commit.snapshot[2]]
    return sum(map(len, bodies))


class Writer:
    """Commits work, then hands it on to be published and acknowledged."""

    def __init__(
        self,
        journal: Journal,
        collect: Callable[[], list[Work]],
        committed: Callable[[list[Work], bool], None],
        ended: Callable[[asyncio.Task[None]], None],
        whole: Callable[[], None],
        slow: Callable[[bool], None] = lambda is_slow: None,
    ) -> None:
        """`committed(work, safe)`: `safe` is False when the journal could not take it.
        `ended(task)` is told of each task that has written, which may have failed by a bug:
        what it had to write is told by nobody else.
        `whole()` has the next batch hold all of each conversation's state.
        `slow(True)` is told while a commit takes longer than `SLOW_S`, `slow(False)` after it."""
        self._journal = journal
        self._collect = collect
        self._committed = committed
        self._ended = ended
        self._whole = whole
        self._slow = slow
        self._is_slow = False
        self._thread = Thread("journal")
        self._checkpoints = Thread("checkpoint")
        self._busy: asyncio.Task[None] | None = None
        self._backlog: list[Commit] = []
        """What the journal could not take; written first when it can again."""
        self._backlog_bytes = 0
        self._has_hole = False
        """Some of it was given up."""
        self._is_mending = False
        self._pace = Pace()
        self._is_ending = False
        self._rewrite_at_s = 0.0
        """Not before; the loop's time."""
        self.usable = True

    def wake(self) -> None:
        """There is work; a batch under way takes it along afterwards."""
        if self._busy is None:
            self._begin(self._run())

    def _begin(self, writing: Coroutine[Any, Any, None]) -> None:
        self._busy = asyncio.get_running_loop().create_task(writing)
        self._busy.add_done_callback(self._ended)

    async def _run(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            while batch := self._collect():
                self._pace.commit(loop.time())
                safe = await self._write([work.commit for work in batch])
                self._committed(batch, safe)
                if rest_s := self._pace.rest_s(loop.time()):
                    await asyncio.sleep(rest_s)
        finally:
            self._busy = None

    async def _write(self, commits: list[Commit]) -> bool:
        loop = asyncio.get_running_loop()
        if self._has_hole and not self._is_mending:
            self._keep(commits)
            return False
        owed = [*self._backlog, *commits]
        began_s = loop.time()
        late = loop.call_later(SLOW_S, self._is_late)
        try:
            await self._thread.do(self._journal.write, owed)
        except sqlite3.Error as error:
            if self.usable:
                log.error("journal.lost", path=str(self._journal.path), why=str(error))
            self.usable = False
            self._keep(commits)
            return False
        finally:
            late.cancel()
            if self._is_slow:
                self._is_slow = False
                log.info("journal.was_slow", seconds=round(loop.time() - began_s, 1))
                self._slow(False)
        if not self.usable:
            log.info("journal.back", path=str(self._journal.path), commits=len(owed))
        self.usable = True
        self._backlog, self._backlog_bytes = [], 0
        return True

    def _is_late(self) -> None:
        self._is_slow = True
        log.warning("journal.slow", path=str(self._journal.path), seconds=SLOW_S)
        self._slow(True)

    def _keep(self, commits: list[Commit]) -> None:
        """For the next try; what is too much for that is given up. Without the inputs that led
        there, states stand for themselves: `whole` is asked for them before anything is written."""
        self._backlog.extend(commits)
        self._backlog_bytes += sum(_size(commit) for commit in commits)
        if self._backlog_bytes > BACKLOG_BYTES and not self._has_hole:
            log.error("journal.given_up", bytes=self._backlog_bytes)
            self._has_hole = True
        if self._has_hole:
            self._backlog = _remains(self._backlog)

    async def tidy(self, ended_before_us: int, replies_before_us: int, *, is_quiet: bool) -> None:
        """Retention and a checkpoint, between batches. In a quiet moment, which nobody's work ends
        later, the file is written anew, if that is owed."""
        is_all = owed = False
        try:
            is_all = await self._forget(self._journal.forget_ended, ended_before_us)
            await self._forget(self._journal.forget_replies, replies_before_us)
            owed = await self._thread.do(self._journal.has_leftovers)
        except sqlite3.Error as error:
            log.warning("journal.not_pruned", why=str(error))
        # The log still holds what the file forgot. While somebody reads it grows by the whole file
        # each time that is written anew.
        is_empty = await self._checkpoint(empty_log=owed)
        is_time = is_quiet and asyncio.get_running_loop().time() >= self._rewrite_at_s
        if not (owed and is_all and is_empty and is_time):
            return
        rewritten = await self._rewrite()
        # What a full disk has ended lies there, too, and fills it.
        is_empty = await self._checkpoint(empty_log=True)
        if rewritten and is_empty:
            with contextlib.suppress(sqlite3.Error):
                await self._thread.do(self._journal.rewritten)

    async def _forget(self, some: Callable[[int], bool], before_us: int) -> bool:
        """Whether those are all. Some after the other, with the commits that come between; what is
        left after so many waits until the log of these has gone into the file."""
        for _ in range(FORGOTTEN_TOGETHER):
            if not await self._thread.do(some, before_us):
                return True
        return False

    async def _checkpoint(self, *, empty_log: bool) -> bool:
        checkpoint = functools.partial(self._journal.checkpoint, empty_log=empty_log)
        return await self._checkpoints.do(checkpoint)

    async def _rewrite(self) -> bool:
        """Whether it was done. What waits to be written ends it."""
        try:
            size_bytes = self._journal.size_bytes()
            if size_bytes > REWRITE_BYTES:
                raise OSError(f"it has {size_bytes} bytes; see docs/operations.md")
            await self._thread.do(
                self._journal.rewrite, lambda: self._busy is not None or self._is_ending
            )
        except (OSError, sqlite3.Error) as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
                log.warning("journal.not_rewritten", why=str(error))
                self._rewrite_at_s = asyncio.get_running_loop().time() + REWRITE_AGAIN_S
            return False
        log.info("journal.rewritten")
        return True

    def retry(self) -> None:
        """Try again what the journal could not take, also when nothing new has come."""
        if not self.usable and self._busy is None:
            self._begin(self._retry())

    async def _retry(self) -> None:
        batch: list[Work] = []
        try:
            if self._has_hole:
                self._is_mending = True
                self._whole()
                batch = self._collect()
            safe = await self._write([work.commit for work in batch])
            self._committed(batch, safe)
            self._has_hole = self._has_hole and not safe
        except BaseException:
            self._busy = None
            raise
        finally:
            self._is_mending = False
        # What came meanwhile has woken nobody.
        await self._run()

    async def idle(self) -> None:
        """Wait until the batches under way are written."""
        while self._busy is not None:
            await asyncio.shield(self._busy)

    async def drain(self) -> None:
        """Write what is left, and end the threads. Then nobody uses the journal, and it may be
        closed: SQLite does not survive that a connection is closed which another thread uses."""
        await self.idle()
        self._is_ending = True
        self._thread.end()
        self._checkpoints.end()
