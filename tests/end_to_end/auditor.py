"""The auditor: what must hold of every conversation, whatever was done to it."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from voicebus.bus import ids
from voicebus.client.audit import conversation, same_as_live

if TYPE_CHECKING:
    from tests.end_to_end.support import Header, Line, Scene, Tape

SCHEMAS = Path(__file__).parents[2] / "schemas"


async def audit(scene: "Scene") -> None:
    """Everything that the scene heard, and all that its sessions keep. Raises AssertionError."""
    told = {one["session_id"] for one in scene.tape.events if one["session_id"]}
    sessions = sorted(told - scene.tape.before)
    # A session process that died may have kept what it did not live to publish, and the tape may
    # have missed what the next one said before the tape had found it.
    lives: dict[int | None, set[str]] = {}
    for one in scene.tape.events:
        lives.setdefault(ids.shard_of(one["session_id"] or ""), set()).add(one["inc"])
    faults: list[str] = []
    for session_id in sessions:
        kept = await _replayed(scene.line, session_id)
        live = scene.tape.of(session_id)
        one_life = len(lives[ids.shard_of(session_id)]) == 1
        is_whole = one_life and not scene.session_was_killed
        found = [*conversation(kept), *same_as_live(kept, live, is_whole=is_whole)]
        if not scene.transport_was_killed:
            found += sound(scene.tape, session_id)
        faults += [f"{session_id}: {fault}" for fault in found]
    faults += replies(scene.line)
    faults += schemas(scene.tape, scene.line)
    assert not faults, "the auditor found:\n  " + "\n  ".join(faults)


async def _replayed(line: "Line", session_id: str) -> "list[Header]":
    events: list[Header] = []
    at: int | None = 1
    while at is not None:
        reply = await line.insist("replay", {"from": at}, session_id=session_id)
        assert reply["ok"], f"replay of {session_id}: {reply['error']}"
        events += reply["data"]["events"]
        at = reply["data"]["next"]
    return events


def sound(tape: "Tape", session_id: str) -> list[str]:
    """No number missing, nothing after a flush or an end, no hole within an item."""
    faults: list[str] = []
    last: dict[str, int] = {}
    flushed: set[str] = set()
    over: set[tuple[str, int]] = set()
    place: dict[tuple[str, int], int] = {}
    for _, one, size in tape.sound_of(session_id):
        if one["kind"] not in ("assistant_audio_delta", "end", "flush"):
            continue
        if one["seq"] != last.get(one["inc"], 0) + 1:
            faults.append(f"sound {one['seq']} follows {last.get(one['inc'], 0)}")
        last[one["inc"]] = one["seq"]
        if one["kind"] == "flush":
            flushed.update(one["responses"])
            continue
        item = (one["item_id"], one["content_index"])
        if one["turn_id"] in flushed:
            faults.append(f"{one['kind']} {one['seq']} of {one['turn_id']} after its flush")
        if item in over:
            faults.append(f"{one['kind']} {one['seq']} of {item} after its end")
        if one["kind"] == "end":
            over.add(item)
            if one["samples"] != place.get(item, 0):
                faults.append(f"{item} ends at {one['samples']}, heard {place.get(item, 0)}")
        else:
            width = 2 if one["format"] == "pcm16" else 1
            if one["offset_samples"] != place.get(item, 0):
                faults.append(
                    f"{item}: a piece at {one['offset_samples']}, {place.get(item, 0)} expected"
                )
            place[item] = one["offset_samples"] + size // width
    return faults


def replies(line: "Line") -> list[str]:
    """Exactly one per command that was sent."""
    sent, got = Counter(line.sent), Counter(one["id"] for one in line.replies)
    return [
        f"command {id}: sent {n} times, answered {got[id]} times"
        for id, n in sent.items()
        if (not 1 <= got[id] <= n if id in line.insisted else got[id] != n)
    ]


# --- schemas ------------------------------------------------------------------------------------


@cache
def _schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / name).read_text("utf-8"))
    return found


@cache
def _validator(name: str, kind: str | None) -> Any:
    """The schema of one kind: an alternative of the file's, or the whole file."""
    whole = _schema(name)
    part = whole
    if kind is not None:
        options = whole.get("oneOf") or whole.get("anyOf") or []
        for option in options:
            title = option.get("$ref", "").rsplit("/", 1)[-1]
            body = whole["$defs"][title] if title else option
            told = body.get("properties", {}).get("kind", {})
            if kind in (told.get("const"), told.get("default")):
                part = {"$defs": whole["$defs"], **body}
                break
        else:
            return None
    return jsonschema.Draft202012Validator(part)


def _system(report: "Header") -> list[str]:
    """One of the system lane, by the field that only its kind has. The pool's has none: it must
    not hold what its schema does not name."""
    whole = _schema("system.json")
    marks = {"counters": "State", "reason": "SoundRefused", "process": "ProcessReport"}
    name = next((marks[mark] for mark in marks if mark in report), "PoolReport")
    definition = {**whole["$defs"][name], "$defs": whole["$defs"]}
    if name == "PoolReport":
        definition["additionalProperties"] = False
    found = jsonschema.Draft202012Validator(definition).iter_errors(report)
    return [f"system.json: {name} {error.json_path}: {error.message}" for error in found]


def schemas(tape: "Tape", line: "Line") -> list[str]:
    """Everything seen follows the schemas that are published."""
    faults: list[str] = []

    def check(name: str, one: "Header", kind: str | None) -> None:
        validator = _validator(name, kind)
        if validator is None:
            faults.append(f"{name} does not know {kind}")
            return
        for error in validator.iter_errors(one):
            faults.append(f"{name}: {one.get('kind', '')} {error.json_path}: {error.message}")

    for event in tape.events:
        check("events.json", event, event["kind"])
    for _, header, _ in tape.sound:
        check("sound.json", header, header["kind"])
    for _, header in tape.cancels:
        check("cancel.json", header, None)
    for _, header, _ in tape.raw:
        check("raw.json", header, None)
    for report in tape.system:
        faults += _system(report)
    for reply in line.replies:
        check("replies.json", reply, None)
    return list(dict.fromkeys(faults))
