"""The write path's thread: one batch at a time, nothing acknowledged that is not safe."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from voicebus.services.session import writer
from voicebus.services.session.conversation import Work
from voicebus.services.session.journal import Commit, Journal, StoredReply
from voicebus.services.session.writer import Writer

LEDGER = b'{"seq":1,"heads":{},"down_n":0,"up_n":0}'


def work(session_id: str, size: int = 10) -> Work:
    event = (1, b"x" * size)
    return Work(Commit(session_id=session_id, created_us=1, ledger=LEDGER, events=[event]))


class Desk:
    """What waits to be written, and what came of it."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.waiting: list[Work] = []
        self.done: list[tuple[list[str], bool]] = []
        self.slow: asyncio.Queue[bool] = asyncio.Queue()
        self.failures: list[BaseException | None] = []
        self.writer = Writer(
            self.journal,
            self._collect,
            self._committed,
            lambda task: self.failures.append(task.exception()),
            self._whole,
            slow=self.slow.put_nowait,
        )

    def _collect(self) -> list[Work]:
        batch, self.waiting = self.waiting, []
        return batch

    def _committed(self, batch: list[Work], safe: bool) -> None:
        self.done.append(([one.commit.session_id for one in batch], safe))

    def _whole(self) -> None:
        self.waiting.append(work("s0-whole"))

    async def write(self, *works: Work) -> None:
        self.waiting.extend(works)
        self.writer.wake()
        await self.writer.idle()

    def fill(self) -> None:
        """No page more may be allocated: what SQLite says then is "database or disk is full"."""
        self._limit(self._pages())

    def free(self) -> None:
        self._limit(1_000_000)

    def _pages(self) -> int:
        return int(self.journal._writer.execute("pragma page_count").fetchone()[0])

    def _limit(self, pages: int) -> None:
        self.journal._writer.execute(f"pragma max_page_count = {pages}")


async def test_what_came_meanwhile_is_the_next_batch(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "j.db")

    await desk.write(work("s0-a"), work("s0-b"))
    await desk.write(work("s0-c"))

    assert desk.done == [(["s0-a", "s0-b"], True), (["s0-c"], True)]
    await desk.writer.drain()


async def test_a_commit_that_takes_long_is_told_while_it_does_and_is_as_safe_as_any(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path / "j.db")
    desk.journal._writer.execute("pragma busy_timeout = 60000")
    other = sqlite3.connect(desk.journal.path, isolation_level=None)
    other.execute("begin immediate")
    writing = asyncio.create_task(desk.write(work("s0-a")))

    assert await desk.slow.get() is True
    assert desk.done == []
    other.execute("rollback")
    await writing
    assert await desk.slow.get() is False
    assert desk.done == [(["s0-a"], True)]
    other.close()
    await desk.writer.drain()


async def test_on_a_full_disk_nothing_is_called_safe_and_nothing_is_lost_when_it_is_free_again(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path / "j.db")
    await desk.write(work("s0-a"))
    desk.fill()
    await desk.write(work("s0-b", size=100_000))
    await desk.write(work("s0-c", size=100_000))

    assert [safe for _, safe in desk.done] == [True, False, False]
    assert not desk.writer.usable

    desk.free()
    await desk.write(work("s0-d"))

    assert desk.done[-1] == (["s0-d"], True)
    sql = sqlite3.connect(tmp_path / "j.db")
    known = [row[0] for row in sql.execute("select session_id from sessions order by 1")]
    sql.close()
    assert known == ["s0-a", "s0-b", "s0-c", "s0-d"]
    await desk.writer.drain()


def forgotten(path: Path) -> int:
    """How many rows of `meta` say that words may be left."""
    sql = sqlite3.connect(path)
    (count,) = sql.execute("select count(*) from meta where key = 'leftovers'").fetchone()
    sql.close()
    return int(count)


async def test_what_is_given_up_leaves_a_journal_that_knows_who_is_there_and_who_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BACKLOG_BYTES", 150_000)
    desk = Desk(tmp_path / "j.db")
    await desk.write(work("s0-a"))
    desk.fill()
    ended = work("s0-b", size=100_000)
    ended.commit.replies = [StoredReply("s0-b", "close", "c1", b"h", b"reply", 5)]
    ended.commit.ended_us = 5
    await desk.write(ended)
    await desk.write(work("s0-c", size=100_000))
    desk.free()
    await desk.write(work("s0-d", size=100_000))
    assert [safe for _, safe in desk.done] == [True, False, False, False]

    desk.writer.retry()
    desk.waiting.append(work("s0-e"))
    await desk.writer.idle()

    assert desk.done[4:] == [(["s0-e", "s0-whole"], True)]
    live = {one.session_id for one in desk.journal.live()}
    assert live == {"s0-a", "s0-c", "s0-d", "s0-e", "s0-whole"}
    assert desk.journal.reply("s0-b", "close", "c1") is not None
    assert desk.journal.events("s0-c", 1, None, 9) == []
    await desk.writer.drain()


async def test_what_comes_while_a_full_disk_is_tried_again_waits_for_nobody_else(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path / "j.db")
    desk.fill()
    await desk.write(work("s0-a", size=100_000))

    desk.writer.retry()
    await desk.write(work("s0-b"))

    assert [known for known, _ in desk.done] == [["s0-a"], [], ["s0-b"]]
    await desk.writer.drain()


async def test_after_retention_the_file_is_written_anew_in_the_first_quiet_moment(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j.db"
    desk = Desk(path)
    ended = work("s0-a")
    ended.commit.ended_us = 5
    await desk.write(ended)

    await desk.writer.tidy(6, 0, is_quiet=False)
    assert forgotten(path) == 1
    await desk.writer.tidy(6, 0, is_quiet=True)
    assert forgotten(path) == 0
    await desk.writer.drain()


async def test_what_is_to_be_written_does_not_wait_until_all_old_conversations_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FORGOTTEN_TOGETHER", 20)
    desk = Desk(tmp_path / "j.db")
    old = [work(f"s0-old-{k:02}") for k in range(30)]
    for one in old:
        one.commit.ended_us = 5
    await desk.write(*old)
    left: list[int] = []

    def committed(batch: list[Work], safe: bool) -> None:
        left.append(count(desk.journal.path))

    desk.writer._committed = committed
    tidying = asyncio.create_task(desk.writer.tidy(6, 0, is_quiet=True))
    await asyncio.sleep(0)  # now the first is being forgotten
    await desk.write(work("s0-new"))
    await tidying

    assert left[0] > 20, "it is written while the old ones are still there"
    assert count(desk.journal.path) == 10 + 1, "the others have their turn after a checkpoint"
    await desk.writer.tidy(6, 0, is_quiet=True)
    assert count(desk.journal.path) == 1
    await desk.writer.drain()


def count(path: Path) -> int:
    """The conversations in the file."""
    sql = sqlite3.connect(path)
    (found,) = sql.execute("select count(*) from sessions").fetchone()
    sql.close()
    return int(found)


async def test_who_writes_ends_the_rewriting_of_the_file(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "j.db")
    many = work("s0-a")
    many.commit.events = [(k, b"x") for k in range(10_000)]
    await desk.write(many)

    rewriting = asyncio.create_task(desk.writer._rewrite())
    await desk.write(work("s0-new"))

    assert not await rewriting
    assert desk.done[-1] == (["s0-new"], True)
    assert await desk.writer._rewrite()
    await desk.writer.drain()


async def test_a_rewriting_that_failed_or_was_ended_stays_owed(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    desk = Desk(path)
    ended = work("s0-a")
    ended.commit.ended_us = 5
    await desk.write(ended)
    await desk.writer.tidy(6, 0, is_quiet=False)
    desk.journal._writer.execute("pragma busy_timeout = 0")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")

    assert not await desk.writer._rewrite()
    other.execute("rollback")
    await desk.writer.tidy(6, 0, is_quiet=True)

    assert forgotten(path) == 1, "a failure is not repeated at once"
    other.close()
    await desk.writer.drain()


async def test_the_journal_is_in_nobodys_hands_once_it_is_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path / "j.db")
    begun, may_end = threading.Event(), threading.Event()
    ended = []

    def checkpoint(*, empty_log: bool) -> bool:
        begun.set()
        ended.append(may_end.wait(30))
        return True

    monkeypatch.setattr(desk.journal, "checkpoint", checkpoint)
    tidying = asyncio.create_task(desk.writer.tidy(0, 0, is_quiet=True))
    await asyncio.to_thread(begun.wait, 30)
    tidying.cancel()
    threading.Timer(0.05, may_end.set).start()

    await desk.writer.drain()

    assert ended == [True]


async def test_while_somebody_reads_the_file_is_not_written_anew_into_its_log(
    tmp_path: Path,
) -> None:
    path = tmp_path / "j.db"
    desk = Desk(path)
    ended = work("s0-a")
    ended.commit.ended_us = 5
    await desk.write(ended, work("s0-large", size=100_000))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from sessions").fetchone()
    log = path.with_name("j.db-wal")
    before = log.stat().st_size

    for _ in range(3):
        await desk.writer.tidy(6, 0, is_quiet=True)
    while_reading = log.stat().st_size
    reader.close()
    await desk.writer.tidy(6, 0, is_quiet=True)

    assert while_reading < before + 100_000
    assert forgotten(path) == 0
    await desk.writer.drain()


async def test_a_rewriting_that_a_full_disk_has_ended_leaves_the_disk_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j.db"
    desk = Desk(path)
    ended = work("s0-a")
    ended.commit.ended_us = 5
    await desk.write(ended)

    def rewrite(is_over: object) -> None:
        desk.journal._writer.execute("create table copied as select zeroblob(100000)")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(desk.journal, "rewrite", rewrite)
    await desk.writer.tidy(6, 0, is_quiet=True)

    assert path.with_name("j.db-wal").stat().st_size == 0
    assert forgotten(path) == 1
    await desk.writer.drain()


async def test_a_bug_behind_the_commit_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "j.db")
    desk.done = None  # type: ignore[assignment]

    with pytest.raises(AttributeError):
        await desk.write(work("s0-a"))

    (failure,) = desk.failures
    assert isinstance(failure, AttributeError)
    await desk.writer.drain()
