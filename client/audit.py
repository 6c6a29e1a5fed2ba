"""The auditor: what must hold of a conversation's events, whatever was done to the processes.

Pure: events in, faults out, as sentences. `voicebus audit` reads them from a journal, tests and
`voicebus chaos` hear them on the bus.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Header = Mapping[str, Any]
"""An event's header as it stands in JSON."""

ENDS = ("tool_call_completed", "tool_call_failed")


def conversation(events: Sequence[Header], *, is_over: bool = True) -> list[str]:
    """What is wrong with the events of one session, from the first to the last.

    `is_over`: it has ended, so that `session_closed` must be the last.
    """
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
    faults += calls(events, is_over=is_over)
    closed = [one["seq"] for one in events if one["kind"] == "session_closed"]
    if closed != (numbers[-1:] if is_over else []):
        faults.append(f"session_closed is not once and last: {closed} of {len(numbers)}")
    faults += turns(events)
    return faults


def calls(events: Sequence[Header], *, is_over: bool = True) -> list[str]:
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
        if ended[call] > 1 or (is_over and not ended[call]):
            faults.append(f"call {call} has {ended[call]} outcomes")
        if dispatched[call] > 1:
            faults.append(f"call {call} was dispatched {dispatched[call]} times")
    faults += [f"response {turn} has {n} batches" for turn, n in batches.items() if n > 1]
    return faults


def turns(events: Sequence[Header]) -> list[str]:
    """Each turn begins once and ends at most once."""
    began = Counter(
        one["data"]["turn_id"] for one in events if one["kind"] == "assistant_turn_started"
    )
    ended = Counter(
        one["data"]["turn_id"] for one in events if one["kind"] == "assistant_turn_completed"
    )
    faults = [f"turn {turn} began {n} times" for turn, n in began.items() if n > 1]
    faults += [f"turn {turn} ended {n} times" for turn, n in ended.items() if n > 1]
    faults += [f"turn {turn} ended and never began" for turn in ended if turn not in began]
    return faults


def same_as_live(
    kept: Sequence[Header], live: Sequence[Header], *, is_whole: bool = False
) -> list[str]:
    """What was published is what is kept; a repetition says the same.

    `is_whole`: no publisher died meanwhile, so that a listener must have heard all of it.
    """
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
    if is_whole and live and len({one["seq"] for one in live}) != len(kept):
        faults.append(f"{len(kept)} events are kept, {len(live)} were published")
    return faults


def tools(
    asked: Mapping[str, int],
    told: Mapping[tuple[int, str], int],
    deleted: Mapping[str, int],
    dangling: Sequence[str],
) -> list[str]:
    """No call goes to the pool twice; each that ended has one output, or its item is deleted.

    `asked`: call id -> how often it was submitted. `told`: (connection, call id) -> how often its
    output was sent. `deleted`: call id -> how often its item was deleted. `dangling`: those that
    ended and have neither.
    """
    faults = [f"call {call} was submitted {n} times" for call, n in asked.items() if n > 1]
    faults += [
        f"the output of call {call} was sent {n} times on connection {generation}"
        for (generation, call), n in told.items()
        if n > 1
    ]
    answered = {call for _, call in told}
    faults += [
        f"call {call} was answered, and its item deleted" for call in deleted if call in answered
    ]
    faults += [f"call {call} dangles: it ended, and has no output" for call in dangling]
    return faults


def runs(
    events: Sequence[Header], begun: Mapping[str, int], effects: Mapping[str, str], *, most: int
) -> list[str]:
    """What was run against what was told: nothing that must happen once began twice.

    `begun`: call id -> how often its tool's code began, as the tool itself noted. `effects`: tool
    -> its effects. `most`: so many attempts at most of what may be run again.
    """
    names = {one["data"]["call_id"]: one["data"]["name"] for one in events if one["kind"] in ENDS}
    ok = {one["data"]["call_id"] for one in events if one["kind"] == ENDS[0]}
    faults = [f"call {call} ran, and no event tells how it ended" for call in begun.keys() - names]
    faults += [f"call {call} is ok and never ran" for call in ok - begun.keys()]
    for call, times in begun.items():
        tool = names.get(call, "")
        limit = most if effects.get(tool) in ("none", "idempotent") else 1
        if times > limit:
            faults.append(f"call {call} of {tool} began {times} times, {limit} allowed")
    return faults
