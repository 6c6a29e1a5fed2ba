"""What a recording must hold when the journal says what happened."""

import json
from pathlib import Path
from typing import Any

import pytest

from voicebus.cli import chaos_recordings
from voicebus.cli.chaos_faults import Fault
from voicebus.cli.chaos_recordings import AWAY, examine
from voicebus.services.recorder import account as accounts
from voicebus.services.recorder.account import Account, GapTold

SID = "s0-01m8brxw7vcsn4b7yt93xhkedq"
EVENTS = [
    {"seq": 1, "kind": "session_opened", "inc": "a", "data": {}},
    {"seq": 2, "kind": "session_closed", "inc": "a", "data": {"reason": "client"}},
]
SPANS = {SID: (100.0, 110.0)}
KILLED = Fault("kill recorder", "recorder-0", 7, 105.0, 105.0, well_s=1.0)


def _recording(folder: Path, events: list[dict[str, Any]], gaps: list[GapTold]) -> None:
    own = folder / SID
    own.mkdir()
    (own / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    told = Account(session_id=SID, began_at_us=1, ended_at_us=2, gaps=gaps)
    (own / "recording.json").write_bytes(accounts.written(told))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_recordings, "WRITTEN_S", 0.0)


def test_a_recording_with_the_events_of_the_journal_is_whole(tmp_path: Path) -> None:
    _recording(tmp_path, [{**one, "inc": "b"} for one in EVENTS], [])

    found = examine(tmp_path, {SID: EVENTS}, SPANS, [])

    assert (found.whole, found.faults) == (1, [])


@pytest.mark.parametrize(
    "written", [EVENTS[:1], [*EVENTS, EVENTS[1]], [{"kind": "gone", "from": 1, "to": 1}, EVENTS[1]]]
)
def test_a_missing_repeated_or_gone_event_is_a_fault(
    tmp_path: Path, written: list[dict[str, Any]]
) -> None:
    _recording(tmp_path, written, [])

    found = examine(tmp_path, {SID: EVENTS}, SPANS, [KILLED])

    assert found.whole == 0
    assert len(found.faults) == 1


def test_a_gap_needs_a_fault_that_explains_it(tmp_path: Path) -> None:
    _recording(tmp_path, EVENTS, [GapTold("both", 500, 1700, AWAY)])

    explained = examine(tmp_path, {SID: EVENTS}, SPANS, [KILLED])
    unexplained = examine(tmp_path, {SID: EVENTS}, SPANS, [])

    assert (explained.with_gaps, explained.missing_ms, explained.faults) == (1, 1200, [])
    assert unexplained.faults == [f"{SID}: the recorder says that it was away, and it was not"]


def test_a_conversation_without_a_recording_is_a_fault_unless_no_recorder_ran(
    tmp_path: Path,
) -> None:
    short = {SID: (105.2, 105.4)}

    assert examine(tmp_path, {SID: EVENTS}, short, [KILLED]).unseen == 1
    assert examine(tmp_path, {SID: EVENTS}, short, []).faults == [f"{SID}: was not recorded"]
