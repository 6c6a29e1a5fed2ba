"""A recorded conversation, looked at afterwards: audited, decided again, forgotten."""

import asyncio
import json
import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner, Result

from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import scene
from voicebus.cli import main


class Recording(NamedTuple):
    """A data folder with two conversations."""

    folder: Path
    session: str
    other: str

    @property
    def file(self) -> Path:
        return self.folder / "session-0.db"

    def change(self, sql: str) -> None:
        """Falsify it."""
        connection = sqlite3.connect(self.file)
        with connection:
            connection.execute(sql)
        connection.close()


@pytest.fixture(scope="module")
def recorded(start_shared_stack: StartStack, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Tools, an interrupt, a snapshot, a killed and a stopped session process."""
    acts = Acts(tmp_path_factory.mktemp("acts"))
    cell = start_shared_stack(scenario=SCENARIO, tools=acts.specs)
    sessions: list[str] = []

    async def story() -> None:
        async with scene(cell) as on:
            caller, other = await on.caller(), await on.caller()
            await other.turn("short tone, said the walrus")
            await caller.turn("tally")
            await caller.session.send_text("long tone")
            await caller.until(lambda: len(caller.pieces()) > 5, "some of the tone")
            await caller.session.interrupt()
            await caller.event("interrupted")
            before = cell.kill("session-0")
            await cell.ready("session-0", after=before)
            await caller.turn("tally and weather, said the carpenter")
            pid = cell.pids()["session-0"]
            await asyncio.to_thread(cell.supervisor.stop, "session-0")
            await asyncio.to_thread(cell.supervisor.start, "session-0")
            await cell.ready("session-0", after=pid)
            await caller.turn("short tone")
            sessions.extend((caller.id, other.id))

    asyncio.run(story())
    cell.supervisor.stop("session-0")
    folder = tmp_path_factory.mktemp("recorded") / "data"
    shutil.copytree(cell.run_dir / "data", folder)
    cell.supervisor.start("session-0")
    return Recording(folder, *sessions)


@pytest.fixture
def recording(recorded: Recording, tmp_path: Path) -> Recording:
    """A copy to spoil."""
    shutil.copytree(recorded.folder, tmp_path / "data")
    return recorded._replace(folder=tmp_path / "data")


def run(*words: str) -> Result:
    return CliRunner().invoke(main.build(list(words)), list(words))


def test_a_sound_journal_passes_the_audit(recording: Recording) -> None:
    done = run("audit", "--data", str(recording.folder))

    assert done.exit_code == 0, done.output
    assert "nothing lost, nothing repeated" in done.output


def test_the_audit_tells_how_much_it_has_seen(recording: Recording) -> None:
    done = run("audit", recording.session, "--data", str(recording.folder), "--json")

    (report,) = json.loads(done.output)
    assert report["session_id"] == recording.session
    assert report["calls"] == 3
    assert report["lives"] == 3
    assert report["faults"] == []


@pytest.mark.parametrize(
    ("falsify", "told"),
    [
        ("delete from events where seq = 4", "seq has gaps"),
        (
            "update events set header = replace(header, '\"tool_call_completed\"', '\"other\"')",
            "has 0 outcomes",
        ),
        ("delete from events where seq > 20", "its ledger counts"),
    ],
)
def test_the_audit_finds_what_is_missing(recording: Recording, falsify: str, told: str) -> None:
    recording.change(falsify)

    done = run("audit", "--data", str(recording.folder))

    assert done.exit_code == 1
    assert told in done.output


def test_a_conversation_decided_again_is_the_same_through_deaths_and_snapshots(
    recording: Recording,
) -> None:
    done = run("replay", str(recording.file))

    assert done.exit_code == 0, done.output
    assert done.output.count("the same") == 2


def test_a_replay_by_session_finds_its_journal(recording: Recording) -> None:
    done = run("replay", recording.session, "--data", str(recording.folder), "--events")

    kinds = [json.loads(line)["kind"] for line in done.output.splitlines()[:-1]]
    assert done.exit_code == 0, done.output
    assert kinds[0] == "session_opened"
    assert kinds[-1] == "session_closed"
    assert "interrupted" in kinds


def test_what_the_process_said_of_itself_is_no_difference(recording: Recording) -> None:
    ours = f"where session_id = '{recording.session}'"
    for said in (
        '"kind":"error","data":{"code":"journal_lost"}',
        '"kind":"session_resumed","data":{"snapshot_required":true}',
    ):
        recording.change(
            "insert into events select session_id, seq + 1, "
            f"'{{{said},\"seq\":' || (seq + 1) || '}}' from events {ours} order by seq desc limit 1"
        )
    recording.change(f"update sessions set ledger = json_set(ledger, '$.seq', 9999) {ours}")

    done = run("replay", recording.session, "--data", str(recording.folder))

    assert done.exit_code == 0, done.output
    assert "the same" in done.output


def test_what_would_be_decided_otherwise_is_shown_with_its_input(recording: Recording) -> None:
    recording.change(
        'update events set header = replace(header, \'"status":"completed"\', '
        f"'\"status\":\"failed\"') where session_id = '{recording.session}'"
    )

    done = run("replay", recording.session, "--data", str(recording.folder))

    assert done.exit_code == 1
    lines = [line.strip() for line in done.output.splitlines()]
    assert any(
        line.startswith("- assistant_turn_completed") and '"failed"' in line for line in lines
    )
    assert any(
        line.startswith("+ assistant_turn_completed") and '"completed"' in line for line in lines
    )
    assert any(line.startswith("(input ") and "ResponseDone" in line for line in lines)


@pytest.mark.parametrize("missing", ["number < 5", "number between 7 and 9"])
def test_a_journal_without_some_of_its_inputs_is_not_taken_for_the_same(
    recording: Recording, missing: str
) -> None:
    recording.change(f"delete from inputs where {missing}")

    done = run("replay", str(recording.file))

    assert done.exit_code == 1
    assert "not all of its inputs are kept" in done.output


def test_a_forgotten_conversation_leaves_no_word_and_the_other_stays(recording: Recording) -> None:
    assert b"carpenter" in _bytes(recording.folder)

    done = run("forget", recording.session, "--data", str(recording.folder))

    left = _bytes(recording.folder)
    assert done.exit_code == 0, done.output
    assert b"carpenter" not in left
    assert recording.session.encode() not in left
    assert b"walrus" in left
    assert run("replay", recording.other, "--data", str(recording.folder)).exit_code == 0


def _bytes(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in sorted(folder.iterdir()))


@pytest.mark.parametrize("verb", ["audit", "replay", "forget"])
def test_a_session_that_nobody_knows_is_named(recording: Recording, verb: str) -> None:
    unknown = recording.session[:-4] + "zzzz"

    done = run(verb, unknown, "--data", str(recording.folder))

    assert done.exit_code == 1
    assert unknown in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("verb", ["audit", "replay"])
def test_a_folder_without_journal_is_named(tmp_path: Path, verb: str) -> None:
    words = [] if verb == "audit" else ["s0-01m83sy634vxkaw98aw21c62v1"]

    done = run(verb, *words, "--data", str(tmp_path))

    assert done.exit_code == 1
    assert str(tmp_path) in done.output


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    file = tmp_path / "letter.db"
    file.write_text("this is no database, it is a letter to a friend" * 100)

    done = run("replay", str(file))

    assert done.exit_code == 1
    assert "letter.db cannot be read as a journal" in done.output
