"""The write path: one batch at a time goes to the journal's thread; meanwhile the next collects."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from voicebus.services.session.conversation import Work
from voicebus.services.session.journal import Commit, Journal

log = structlog.get_logger("session.writer")


class Writer:
    """Commits work, then hands it on to be published and acknowledged."""

    def __init__(
        self,
        journal: Journal,
        collect: Callable[[], list[Work]],
        committed: Callable[[list[Work], bool], None],
    ) -> None:
        """`committed(work, safe)`: `safe` is False when the journal could not take it."""
        self._journal = journal
        self._collect = collect
        self._committed = committed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._busy: asyncio.Task[None] | None = None
        self.usable = True

    def wake(self) -> None:
        """There is work; a batch under way takes it along afterwards."""
        if self._busy is None:
            self._busy = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while batch := self._collect():
                safe = await self._write([work.commit for work in batch])
                self._committed(batch, safe)
        finally:
            self._busy = None

    async def _write(self, commits: list[Commit]) -> bool:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._journal.write, commits)
        except sqlite3.Error as error:
            if self.usable:
                log.error("journal.lost", path=str(self._journal.path), why=str(error))
            self.usable = False
            return False
        self.usable = True
        return True

    async def tidy(self, ended_before_us: int, replies_before_us: int) -> None:
        """Retention and a checkpoint, between batches."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(
                self._thread, self._journal.prune, ended_before_us, replies_before_us
            )
        except sqlite3.Error as error:
            log.warning("journal.not_pruned", why=str(error))
        await asyncio.to_thread(self._journal.checkpoint)

    async def drain(self) -> None:
        """Wait until all work is written."""
        while self._busy is not None:
            await asyncio.shield(self._busy)
        self._thread.shutdown(wait=True)
