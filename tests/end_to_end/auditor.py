"""The auditor: what must hold of every conversation, whatever was done to it."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

if TYPE_CHECKING:
    from tests.end_to_end.support import Header, Line, Scene, Tape

SCHEMAS = Path(__file__).parents[2] / "schemas"
ENDS = ("tool_call_completed", "tool_call_failed")


async def audit(scene: "Scene") -> None:
    """Everything that the scene heard, and all that the sessions keep. Raises AssertionError."""
    sessions = sorted({one["session_id"] for one in scene.tape.events if one["session_id"]})
    faults: list[str] = []
    for session_id in sessions:
        kept = await _replayed(scene.line, session_id)
        found = [*conversation(kept), *same_as_live(kept, scene.tape.of(session_id))]
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


def conversation(events: "list[Header]") -> list[str]:
    """What is wrong with the events of one session, from the first to the last."""
    faults: list[str] = []
    numbers = [one["seq"] for one in events]
    if numbers != list(range(1, len(events) + 1)):
        faults.append(f"seq has gaps or is out of order: {numbers}")
    last: dict[str, int] = {}
    epoch = 0
    for one in events:
        if one["prev"] != last.get(one["kind"], 0):
            faults.append(
                f"{one['kind']} {one['seq']}: prev is {one['prev']}, "
                f"the one before was {last.get(one['kind'], 0)}"
            )
        last[one["kind"]] = one["seq"]
        if one["epoch"] < epoch:
            faults.append(f"{one['kind']} {one['seq']}: the epoch went back from {epoch}")
        epoch = one["epoch"]
    faults += _calls(events)
    closed = [one["seq"] for one in events if one["kind"] == "session_closed"]
    if closed != numbers[-1:]:
        faults.append(f"session_closed is not once and last: {closed} of {len(numbers)}")
    faults += _turns(events)
    return faults


def _calls(events: "list[Header]") -> list[str]:
    """One outcome per call, one batch per response, outputs in the order of the calls."""
    faults: list[str] = []
    begun: dict[str, str] = {}
    dispatched: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    batches: Counter[str] = Counter()
    for one in events:
        data = one["data"]
        match one["kind"]:
            case "tool_call_started":
                begun[data["call_id"]] = data["turn_id"]
            case "tool_call_dispatched":
                dispatched[data["call_id"]] += 1
            case kind if kind in ENDS:
                ended[data["call_id"]] += 1
            case "tool_batch_submitted":
                batches[data["turn_id"]] += 1
                order = [call for call, turn in begun.items() if turn == data["turn_id"]]
                mine = data["call_ids"]
                if mine != [call for call in order if call in mine]:
                    faults.append(f"batch of {data['turn_id']}: {mine}, called were {order}")
                early = [call for call in mine if not ended[call]]
                if early:
                    faults.append(f"batch of {data['turn_id']} before the end of {early}")
            case _:
                pass
    for call in {*dispatched, *ended}:
        if ended[call] != 1:
            faults.append(f"call {call} has {ended[call]} outcomes")
        if dispatched[call] > 1:
            faults.append(f"call {call} was dispatched {dispatched[call]} times")
    faults += [f"response {turn} has {n} batches" for turn, n in batches.items() if n > 1]
    return faults


def _turns(events: "list[Header]") -> list[str]:
    began = Counter(one["data"]["turn_id"] for one in events if one["kind"] == _STARTED)
    ended = Counter(one["data"]["turn_id"] for one in events if one["kind"] == _COMPLETED)
    faults = [f"turn {turn} began {n} times" for turn, n in began.items() if n > 1]
    faults += [f"turn {turn} ended {n} times" for turn, n in ended.items() if n > 1]
    faults += [f"turn {turn} ended and never began" for turn in ended if turn not in began]
    return faults


_STARTED = "assistant_turn_started"
_COMPLETED = "assistant_turn_completed"


def same_as_live(kept: "list[Header]", live: "list[Header]") -> list[str]:
    """What was published is what is kept; a repetition says the same. Holes are legal here."""
    by_seq = {one["seq"]: one for one in kept}
    faults: list[str] = []
    for one in live:
        stored = by_seq.get(one["seq"])
        if stored is None:
            faults.append(f"{one['kind']} {one['seq']} was published and is not kept")
        elif (stored["kind"], stored["data"]) != (one["kind"], one["data"]):
            faults.append(
                f"seq {one['seq']} was published as {one['kind']} {one['data']} "
                f"and is kept as {stored['kind']} {stored['data']}"
            )
    incs = [one["inc"] for one in live]
    if len(set(incs)) == 1 and len({one["seq"] for one in live}) != len(kept):
        faults.append(f"{len(kept)} events are kept, {len(live)} were published")
    return faults


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
    for reply in line.replies:
        check("replies.json", reply, None)
    return list(dict.fromkeys(faults))
