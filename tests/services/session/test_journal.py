"""What was committed is there again; what was not is not."""

import random
import sqlite3
from pathlib import Path

import pytest

from voicebus.services.session import journal as module
from voicebus.services.session.journal import (
    Commit,
    Journal,
    JournalUnusable,
    StoredReply,
    forget,
)

LEDGER = b'{"seq":2,"heads":{},"down_n":1,"up_n":0}'


def commit(**fields: object) -> Commit:
    base = {"session_id": "s0-a", "created_us": 1, "ledger": LEDGER}
    return Commit(**{**base, **fields})  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "session-0.db"


def test_a_live_conversation_is_found_again(path: Path) -> None:
    journal = Journal(path)
    journal.write(
        [
            commit(
                inputs=[(1, b"i1"), (2, b"i2")],
                events=[(1, b"e1"), (2, b"e2")],
                outbox=[(1, b"h1", b"p1"), (2, b"h2", None)],
            )
        ]
    )
    journal.close()

    (stored,) = Journal(path).live()

    assert stored.session_id == "s0-a"
    assert stored.inputs == [(1, b"i1"), (2, b"i2")]
    assert stored.outbox == [(1, b"h1", b"p1"), (2, b"h2", None)]
    assert stored.ledger["seq"] == 2


def test_when_something_last_happened_is_known_also_where_a_snapshot_stands_for_all_inputs(
    path: Path,
) -> None:
    journal = Journal(path)
    inputs = [(1, b'{"now_us":70}'), (2, b'{"now_us":90}')]
    journal.write([commit(inputs=inputs, snapshot=(2, "1.0", b"state"))])
    journal.write([commit(session_id="s0-b", created_us=50)])

    stored = {one.session_id: one.last_us for one in journal.live()}

    assert stored == {"s0-a": 90, "s0-b": 50}


def test_a_snapshot_stands_for_the_inputs_before_it(path: Path) -> None:
    journal = Journal(path)
    journal.write([commit(inputs=[(1, b"i1"), (2, b"i2")])])
    journal.write([commit(inputs=[(3, b"i3")], snapshot=(2, "1.0", b"state"))])

    (stored,) = journal.live()

    assert stored.snapshot == (2, "1.0", b"state")
    assert stored.inputs == [(3, b"i3")]


def test_what_the_transport_has_done_leaves_the_outbox(path: Path) -> None:
    journal = Journal(path)
    journal.write([commit(outbox=[(1, b"h1", None), (2, b"h2", None)])])
    journal.write([commit(delivered=1)])

    assert journal.live()[0].outbox == [(2, b"h2", None)]


def test_an_ended_conversation_is_not_live_but_can_be_read(path: Path) -> None:
    journal = Journal(path)
    journal.write([commit(events=[(1, b"e1"), (2, b"e2")], ended_us=9)])

    assert journal.live() == []
    assert journal.events("s0-a", 1, None, 200) == [b"e1", b"e2"]
    assert journal.last_seq("s0-a") == 2
    assert journal.last_seq("s0-b") is None


def test_events_are_read_up_to_one_that_is_missing(path: Path) -> None:
    journal = Journal(path)
    journal.write([commit(events=[(1, b"e1"), (2, b"e2"), (5, b"e5"), (6, b"e6")])])

    assert journal.events("s0-a", 1, None, 9) == [b"e1", b"e2"]
    assert journal.events("s0-a", 3, None, 9) == []
    assert journal.events("s0-a", 5, None, 9) == [b"e5", b"e6"]


def test_a_batch_is_written_whole_or_not_at_all(path: Path) -> None:
    journal = Journal(path)
    broken = commit(session_id="s0-b", events=[(1, object())])

    with pytest.raises(sqlite3.Error):
        journal.write([commit(events=[(1, b"e1")]), broken])

    assert journal.live() == []
    journal.write([commit(events=[(1, b"e1")])])
    assert len(journal.live()) == 1


def test_nothing_is_written_to_a_file_that_no_next_process_would_find(path: Path) -> None:
    journal = Journal(path)
    journal.write([commit(events=[(1, b"e1")])])
    elsewhere = path.rename(path.with_suffix(".moved"))

    with pytest.raises(sqlite3.Error, match="deleted or replaced"):
        journal.write([commit(events=[(2, b"e2")])])
    path.write_bytes(elsewhere.read_bytes())
    with pytest.raises(sqlite3.Error, match="deleted or replaced"):
        journal.write([commit(events=[(2, b"e2")])])
    elsewhere.rename(path)
    journal.write([commit(events=[(2, b"e2")])])

    assert journal.events("s0-a", 1, None, 9) == [b"e1", b"e2"]


def prune(journal: Journal, ended_before_us: int, replies_before_us: int) -> bool:
    """Whether the file must be written anew."""
    while journal.forget_ended(ended_before_us) or journal.forget_replies(replies_before_us):
        pass
    return journal.has_leftovers()


def test_old_replies_are_forgotten_some_at_a_time_and_young_ones_are_kept(path: Path) -> None:
    journal = Journal(path)
    replies = [StoredReply("s0-a", "say", f"c{k}", b"h", b"r", at_us=k) for k in range(250)]
    journal.write([commit(replies=replies)])

    assert journal.forget_replies(240), "there are more"
    assert not journal.forget_replies(240)

    kept = [k for k in range(250) if journal.reply("s0-a", "say", f"c{k}")]
    assert kept == list(range(240, 250))


def test_what_is_looked_for_all_the_time_is_found_without_reading_all_rows(path: Path) -> None:
    Journal(path).close()
    sql = sqlite3.connect(path)
    sql.execute("drop index sessions_by_end")  # as in a file that older code has written
    sql.close()
    Journal(path).close()

    sql = sqlite3.connect(path)
    plans = [
        str(sql.execute(f"explain query plan {looked}").fetchall())
        for looked in (
            "select session_id from sessions where ended_us < 5 limit 1",
            "select session_id, created_us, ledger from sessions where ended_us is null",
            "select session_id, command, id from replies where at_us < 5 limit 9",
        )
    ]
    sql.close()
    assert [plan for plan in plans if "SEARCH" not in plan] == []


def test_a_full_disk_that_has_no_room_for_indexes_is_used_without_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(path).close()
    sql = sqlite3.connect(path, isolation_level=None)
    sql.execute("drop index sessions_by_end")  # as in a file that older code has written
    sql.execute("vacuum")
    sql.close()
    connect = module._connect

    def full(path: Path) -> sqlite3.Connection:
        sql = connect(path)
        (pages,) = sql.execute("pragma page_count").fetchone()
        sql.execute(f"pragma max_page_count = {pages}")
        return sql

    monkeypatch.setattr(module, "_connect", full)

    journal = Journal(path)

    assert journal.live() == []
    assert not journal.forget_ended(9)
    left = journal._reader.execute("select name from sqlite_master where name = 'sessions_by_end'")
    assert left.fetchall() == [], "else this shows nothing"


def test_retention_leaves_no_word_of_an_old_conversation(path: Path) -> None:
    journal = Journal(path)
    reply = StoredReply("s0-a", "send_text", "c1", b"h", b"secret words", 5)
    journal.write(
        [
            commit(
                inputs=[(1, b"secret words")],
                events=[(1, b"secret words")],
                outbox=[(1, b"h", b"secret words")],
                replies=[reply],
                snapshot=(0, "1", b"secret words"),
                ended_us=5,
            ),
            commit(session_id="s0-live", events=[(1, b"kept")]),
        ]
    )

    prune(journal, ended_before_us=6, replies_before_us=6)

    tables = ("sessions", "inputs", "events", "outbox", "replies", "snapshots")
    sql = sqlite3.connect(path)
    left = {t: sql.execute(f"select count(*) from {t}").fetchone()[0] for t in tables}
    sql.close()
    assert left == {
        "sessions": 1,
        "inputs": 0,
        "events": 1,
        "outbox": 0,
        "replies": 0,
        "snapshots": 0,
    }


def test_a_reply_is_found_by_its_command_also_in_the_next_life(path: Path) -> None:
    reply = StoredReply("s0-a", "send_text", "c1", b"h", b"{}", 5)
    Journal(path).write([commit(replies=[reply])])

    journal = Journal(path)

    assert journal.reply("s0-a", "send_text", "c1") == reply
    assert journal.reply("s0-a", "send_text", "c2") is None
    assert journal.reply("", "send_text", "c1") is None


def test_the_file_is_closed_to_others(path: Path) -> None:
    Journal(path)

    assert path.stat().st_mode & 0o077 == 0


def test_a_newer_file_is_refused_with_both_versions(path: Path) -> None:
    Journal(path).close()
    sql = sqlite3.connect(path)
    sql.execute("update meta set value = '99' where key = 'schema'")
    sql.commit()
    sql.close()

    with pytest.raises(JournalUnusable, match="schema 99, this one knows 1"):
        Journal(path)


def test_nothing_is_written_to_a_newer_file(path: Path) -> None:
    path.parent.mkdir()
    sql = sqlite3.connect(path)
    sql.execute("create table meta (key text primary key, value text not null)")
    sql.execute("insert into meta values ('schema', '99')")
    sql.commit()

    with pytest.raises(JournalUnusable, match="schema 99"):
        Journal(path)

    assert sql.execute("select name from sqlite_master where type = 'table'").fetchall() == [
        ("meta",)
    ]
    sql.close()


def test_an_older_file_is_brought_up_step_by_step_with_what_it_holds(path: Path) -> None:
    before = Journal(path)
    before.write([commit(events=[(1, b"kept")])])
    before.close()
    steps = (
        "create table colours (name text); insert into colours values ('red')",
        "alter table colours add column hex text",
    )

    after = Journal(path, steps)

    assert after.events("s0-a", 1, None, 9) == [b"kept"]
    after.close()
    sql = sqlite3.connect(path)
    assert sql.execute("select name, hex from colours").fetchall() == [("red", None)]
    assert sql.execute("select value from meta where key = 'schema'").fetchone() == ("3",)
    sql.close()
    Journal(path, steps).close()


def test_a_step_that_fails_changes_nothing(path: Path) -> None:
    Journal(path).close()
    steps = ("create table colours (name text); insert into nowhere values (1)",)

    with pytest.raises(JournalUnusable, match="no such table: nowhere"):
        Journal(path, steps)

    Journal(path).close()
    sql = sqlite3.connect(path)
    assert not sql.execute("select 1 from sqlite_master where name = 'colours'").fetchall()
    sql.close()


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, it is a letter to a friend" * 100)

    with pytest.raises(JournalUnusable, match=r"session-0\.db cannot be used"):
        Journal(path)


def test_a_file_that_is_damaged_in_its_middle_is_named_and_not_taken_for_half_of_it(
    path: Path,
) -> None:
    journal = Journal(path)
    for k in range(200):
        journal.write([commit(session_id=f"s0-{k}", inputs=[(1, b"said " * 100)])])
    journal.checkpoint(empty_log=True)
    journal.close()
    page = 4096
    whole = path.read_bytes()
    at = whole.index(b"s0-150") // page * page
    path.write_bytes(whole[:at] + b"\xa5" * page + whole[at + page :])

    with pytest.raises(JournalUnusable, match=r"session-0\.db cannot be used: .* malformed"):
        Journal(path).live()


def test_deaths_count_that_come_soon_after_each_other(path: Path) -> None:
    journal = Journal(path)

    assert [journal.strike("s0-a", at) for at in (10, 12, 112)] == [1, 2, 3]
    assert journal.strike("s0-a", 213) == 1, "it has decided a hundred inputs since"
    assert journal.strike("s0-b", 213) == 1
    journal._writer.execute("pragma query_only = on")
    assert journal.strike("s0-b", 213) == 2, "also on a disk that takes nothing"
    journal.close()


def bytes_of(path: Path) -> bytes:
    """Everything that lies on the disk."""
    return b"".join(one.read_bytes() for one in sorted(path.parent.iterdir()))


def fill(journal: Journal, *, ended_us: int | None = 5) -> None:
    """Two conversations that grow side by side, so that their pages are mixed and rearranged."""
    for k in range(300):
        for name in ("secret", "public"):
            said = f"{name} words {k} ".encode() * (1 + k % 40)
            journal.write(
                [
                    commit(
                        session_id=f"s0-{name}",
                        inputs=[(k, said)],
                        events=[(k, said)],
                        outbox=[(k, b"h", said)],
                        delivered=k - 5,
                        replies=[StoredReply(f"s0-{name}", "say", f"c{k}", b"h", said, 5)],
                        snapshot=(k, "1", said),
                        ended_us=ended_us if name == "secret" else None,
                    )
                ]
            )
        if k % 50 == 0:
            journal.checkpoint()


def test_retention_leaves_no_word_on_the_disk(path: Path) -> None:
    journal = Journal(path)
    fill(journal)

    assert b"secret" in bytes_of(path)
    assert prune(journal, ended_before_us=6, replies_before_us=0)
    journal.checkpoint(empty_log=True)

    assert b"secret words" not in bytes_of(path)
    assert b"public words" in bytes_of(path)
    journal.close()


def mix(journal: Journal, seed: int) -> None:
    """Rows of very different sizes, many sessions in turn, old replies deleted meanwhile."""
    chance = random.Random(seed)
    sessions = [f"s0-{what}-{k}" for what in ("secret", "public") for k in range(4)]
    for k in range(800):
        commits = []
        for session_id in sessions:
            said = f"{session_id[3:9]} words {k} ".encode() * chance.choice([1, 2, 5, 20, 80, 400])
            reply = StoredReply(session_id, "say", f"c{k}", b"h", said, k)
            commits.append(
                commit(
                    session_id=session_id,
                    inputs=[(k, said)],
                    events=[(k, said)],
                    replies=[reply],
                    snapshot=(k, "1", said) if k % 3 == 0 else None,
                    ended_us=5 if "secret" in session_id else None,
                )
            )
        journal.write(chance.sample(commits, 5))
        if k % 37 == 0:
            prune(journal, ended_before_us=0, replies_before_us=k - 100)
            journal.checkpoint()


def test_what_is_left_in_the_gaps_of_rearranged_pages_is_told_until_the_file_is_written_anew(
    path: Path,
) -> None:
    journal = Journal(path)
    mix(journal, seed=9)  # one of those for which SQLite 3.40 leaves words when rows are deleted
    assert prune(journal, ended_before_us=6, replies_before_us=0)
    journal.checkpoint(empty_log=True)
    journal.close()

    journal = Journal(path)
    assert prune(journal, ended_before_us=6, replies_before_us=0), "the next process knows it, too"
    journal.rewrite(lambda: False)
    assert journal.checkpoint(empty_log=True)
    journal.rewritten()

    assert b"secret" not in bytes_of(path)
    assert b"public words" in bytes_of(path)
    assert not prune(journal, ended_before_us=6, replies_before_us=0)
    journal.close()


def test_while_somebody_reads_the_log_is_not_emptied_and_that_is_told(path: Path) -> None:
    journal = Journal(path)
    journal.write([commit()])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from sessions").fetchall()
    journal.write([commit(session_id="s0-b")])

    assert not journal.checkpoint(empty_log=True)
    journal.write([commit(session_id="s0-c")])
    reader.execute("rollback")
    assert journal.checkpoint(empty_log=True)

    reader.close()
    journal.close()


def test_a_forgotten_conversation_leaves_no_word_while_the_journal_is_in_use(path: Path) -> None:
    journal = Journal(path)
    fill(journal)

    assert forget(path, "s0-secret")
    journal.write([commit(session_id="s0-public", events=[(300, b"and on")])])

    assert b"secret" not in bytes_of(path)
    assert journal.events("s0-public", 299, None, 9)[-1] == b"and on"
    assert not forget(path, "s0-secret")
    assert not journal.has_leftovers()
    journal.close()


def test_a_large_file_is_left_to_its_process_so_that_no_commit_waits_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORGET_BYTES", 0)
    journal = Journal(path)
    fill(journal)

    assert forget(path, "s0-secret")

    assert journal.last_seq("s0-secret") is None
    assert journal.events("s0-secret", 0, None, 9) == []
    (free,) = journal._writer.execute("pragma freelist_count").fetchone()
    assert free > 0, "a file that is written anew has none"
    assert journal.has_leftovers(), "it is owed"
    journal.rewrite(lambda: False)
    assert journal.checkpoint(empty_log=True)
    assert b"secret" not in bytes_of(path)
    journal.close()


def test_a_file_that_could_not_be_written_anew_is_owed_that(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path)
    fill(journal)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from sessions").fetchall()
    monkeypatch.setattr(module, "BUSY_MS", 0)

    with pytest.raises(sqlite3.Error, match="somebody reads"):
        forget(path, "s0-secret")

    assert journal.has_leftovers()
    reader.close()
    journal.close()
