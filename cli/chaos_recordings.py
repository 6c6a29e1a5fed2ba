"""Whether the recorder of `voicebus chaos` wrote down what was kept, and named what it missed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from voicebus.cli.chaos_faults import Fault
from voicebus.services.recorder import files
from voicebus.services.recorder.account import Account

WRITTEN_S = 30.0
"""After the last conversation the recorder has so long to write the rest."""
UNSAVED_S = 2.0
"""What came so long before a recorder's death may not have been on the disk."""
AWAY = "the recorder was away"


@dataclass
class Recordings:
    """What was found."""

    whole: int = 0
    """Every event is there, once; no sound is missing."""
    with_gaps: int = 0
    """Every event is there, once; the sound that is missing is named."""
    unseen: int = 0
    """Began and ended while no recorder ran."""
    missing_ms: int = 0
    """The longest gap of all."""
    faults: list[str] = field(default_factory=list)


def examine(
    folder: Path,
    kept: Mapping[str, Sequence[Mapping[str, Any]]],
    spans: Mapping[str, tuple[float, float]],
    faults: Sequence[Fault],
) -> Recordings:
    """`kept`: session -> its events by the journal. `spans`: session -> when it began and ended.

    Waits until the recorder has written them to their end, WRITTEN_S at most."""
    end = time.monotonic() + WRITTEN_S
    found = Recordings()
    away = [
        (one.at - UNSAVED_S, one.at + (one.well_s or WRITTEN_S))
        for one in faults
        if one.target.startswith("recorder")
    ]
    for session_id, events in kept.items():
        began, ended = spans[session_id]
        was_away = any(begun <= ended and began <= until for begun, until in away)
        account = _account(folder / session_id, end)
        if account is None:
            if was_away and not (folder / session_id).exists():
                found.unseen += 1
            else:
                found.faults.append(f"{session_id}: was not recorded")
        else:
            _judge(folder / session_id, account, events, found, was_away=was_away)
    return found


def _account(folder: Path, until: float) -> Account | None:
    """Of a recording that has ended. A file tells nobody: it is looked at again."""
    while True:
        account = files.read_account(folder)
        if account is not None and account.ended_at_us is not None:
            return account
        if time.monotonic() > until:
            return None
        time.sleep(0.1)


def _judge(
    folder: Path,
    account: Account,
    events: Sequence[Mapping[str, Any]],
    found: Recordings,
    *,
    was_away: bool,
) -> None:
    name = folder.name
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    written = [msgspec.json.decode(line) for line in lines]
    if [_said(one) for one in written] != [_said(one) for one in events]:
        found.faults.append(
            f"{name}: recorded are the events {[one.get('seq', one) for one in written]}, "
            f"kept are {len(events)}"
        )
        return
    gaps = [gap.to_ms - gap.from_ms for gap in account.gaps]
    if not was_away and any(gap.why == AWAY for gap in account.gaps):
        found.faults.append(f"{name}: the recorder says that it was away, and it was not")
    found.whole += not gaps
    found.with_gaps += bool(gaps)
    found.missing_ms = max([found.missing_ms, *gaps])


def _said(event: Mapping[str, Any]) -> tuple[Any, ...]:
    """Not by whom: what is published again after a restart bears the next one's incarnation."""
    return event.get("seq"), event["kind"], event.get("data")
