"""A journal that cannot be used or written: clear words, and never a wrong conversation."""

import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.cells import SCENARIO
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, Header, Scene, scene, voicebus
from voicebus.bus import testing
from voicebus.cli.testing import Stack
from voicebus.client import RealtimeClient
from voicebus.services.session.journal import Journal

LETTER = b"this is no database, it is a letter to a friend\n" * 100
CANNOT_BE_NOBODY = 3
AS_NOBODY = f"""
import os, pathlib, sys
from voicebus.services.session.journal import Journal, JournalUnusable
if os.geteuid() == 0:  # whom no permission binds
    try:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    except OSError as error:
        print(error)
        sys.exit({CANNOT_BE_NOBODY})
try:
    Journal(pathlib.Path(sys.argv[1]))
except JournalUnusable as error:
    print(error)
"""


def _newer(path: Path) -> None:
    sql = sqlite3.connect(path)
    sql.execute("pragma journal_mode = wal")
    sql.execute("create table meta (key text primary key, value text not null)")
    sql.execute("insert into meta values ('schema', '99')")
    sql.commit()
    sql.close()


def _damaged(path: Path) -> None:
    path.write_bytes(LETTER)


def _no_folder(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"a file where the folder should be")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_newer, ("schema 99", "upgrade")),
        (_damaged, ("file is not a database", "damaged file")),
        (_no_folder, ("cannot be used", "writable")),
    ],
    ids=["newer", "damaged", "no folder"],
)
async def test_a_journal_that_cannot_be_used_is_named_and_left_as_it_is(
    spoil: object, told: tuple[str, ...]
) -> None:
    with testing.run_folder() as folder:
        data = folder / "data"
        data.mkdir()
        path = data / "session-0.db"
        assert callable(spoil)
        spoil(path)
        before = path.read_bytes() if data.is_dir() else data.read_bytes()

        code, out, err = await voicebus(
            "up", "--run-dir", str(folder), VOICEBUS_SIMULATOR_SPEECH="off"
        )

        assert code == 1, out
        assert "session-0" in err
        assert str(path) in err
        assert all(word in err for word in told), err
        assert "Traceback" not in err
        assert (path.read_bytes() if data.is_dir() else data.read_bytes()) == before
        assert not testing.left_behind(folder)


@pytest.mark.parametrize("is_there", [False, True], ids=["no file", "a journal"])
def test_a_folder_that_may_only_be_read_is_named_and_left_as_it_is(is_there: bool) -> None:
    with testing.run_folder() as folder:
        folder.chmod(0o755)
        data = folder / "data"
        path = data / "session-0.db"
        data.mkdir()
        if is_there:
            Journal(path).close()
            path.chmod(0o644)
        before = {one.name: one.read_bytes() for one in data.iterdir()}

        data.chmod(0o555)
        words = [sys.executable, "-c", AS_NOBODY, str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        data.chmod(0o755)

        if done.returncode == CANNOT_BE_NOBODY:
            pytest.skip(f"root may write everywhere, and nobody can be had: {done.stdout}")
        assert done.returncode == 0, done.stderr
        assert f"the journal {path} cannot be used: " in done.stdout
        assert "make the folder writable" in done.stdout
        assert {one.name: one.read_bytes() for one in data.iterdir()} == before


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(scenario=SCENARIO)


def _states(on: Scene) -> list[Header]:
    return [one for one in on.tape.system if one.get("role") == "session"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
async def test_a_journal_that_takes_nothing_more_is_told_and_costs_no_word_when_it_does_again(
    cell: Stack,
) -> None:
    async with scene(cell, errors={"journal.lost"}) as on:
        caller = await on.caller()
        await caller.turn("short tone")
        process = psutil.Process(cell.pids()["session-0"])

        # No file may grow beyond one byte: each write fails, as on a disk that is full.
        process.rlimit(psutil.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        try:
            await caller.turn("short tone")
            lost = await caller.event("error", code="journal_lost")
            code, message = await on.line.refused("open", {"config": {}})
            await caller.turn("one second")
            failing = await on.tape.until(
                lambda: next((one for one in _states(on) if one["state"] == "failing"), None),
                "the journal's loss to be told",
            )
        finally:
            process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await on.tape.until(lambda: _states(on)[-1]["state"] == "ready", "all well again")
        told = [one.seq for one in caller.events if one.seq is not None]
        on.session_was_killed = True
        pid = cell.kill("session-0")
        await cell.ready("session-0", after=pid)
        await caller.turn("short tone")
        kept = await caller.session.replay(1, told[-1])

        assert lost.data.recoverable
        assert code == "busy"
        assert "journal" in message
        assert "cannot be written" in failing["why"]
        assert len(caller.found("error")) == 1
        assert [one.seq for one in kept] == told
        assert caller.words().count("A short tone.") == 3


async def test_a_journal_that_is_moved_away_is_missed_and_whole_once_it_is_back(
    cell: Stack,
) -> None:
    path = cell.run_dir / "data" / "session-0.db"
    async with scene(cell, errors={"journal.lost"}) as on:
        caller = await on.caller()
        await caller.turn("short tone")
        away = path.rename(path.with_suffix(".away"))
        try:
            await caller.turn("short tone")
            await caller.event("error", code="journal_lost")
            failing = await on.tape.until(
                lambda: next((one for one in _states(on) if one["state"] == "failing"), None),
                "the journal's loss to be told",
            )
            code, _ = await on.line.refused("open", {"config": {}})
        finally:
            away.rename(path)
        await on.tape.until(lambda: _states(on)[-1]["state"] == "ready", "all well again")

        assert f"the journal {path} was deleted or replaced" in failing["why"]
        assert code == "busy"


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
async def test_a_process_that_dies_with_an_unwritten_journal_is_followed_by_one_that_is_heard(
    cell: Stack,
) -> None:
    # What was published and never written is gone, as `journal_lost` has said: the auditor, who
    # holds all that was published against all that is kept, is not asked.
    async with RealtimeClient(cell.run_dir) as client:
        caller = Caller(await client.connect())
        await caller.opened()
        await caller.turn("short tone")
        process = psutil.Process(cell.pids()["session-0"])
        process.rlimit(psutil.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        await caller.turn("one second")
        await caller.turn("short tone")
        await caller.event("error", code="journal_lost")
        await cell.ready("session-0", after=cell.kill("session-0"))
        # What the texts of that time have asked of the provider nobody knows any more.
        resumed = await caller.event("session_resumed")
        known = len(caller.found("assistant_transcript"))
        await caller.turn("short tone")
        await caller.close()

        before, after = dict.fromkeys(one.header.inc for one in caller.events)
        later = [one.kind for one in caller.events if one.header.inc == after]
        assert "journal_lost" in [
            one.data.code for one in caller.found("error") if one.header.inc == before
        ]
        assert "assistant_turn_started" in later
        assert resumed.header.inc == after
        answers = [one.data.text for one in caller.found("assistant_transcript")[known:]]
        assert answers[-1] == "A short tone."
        assert later[-1] == "session_closed"
