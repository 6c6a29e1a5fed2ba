"""Writes gaps.json: what comes over the wire, in hex, and what a follower must conclude from it.

The verdicts here are written by hand: they are the measure, not the outcome.

    python tests/bus/vectors/make.py
"""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("gaps.json")
SESSION = "s0-01k9yq3v5m8x2c4e6g7h9j0n1p"
OTHER = "s0-01k9yq3v5m8x2c4e6g7h9j0n1q"

Step = dict[str, Any]


def _hex(*frames: str | bytes) -> list[str]:
    return [(one if isinstance(one, bytes) else one.encode()).hex() for one in frames]


def _message(kind: str, seq: int | None, session: str = SESSION, **more: Any) -> list[str]:
    header: dict[str, Any] = {"v": 1, "kind": kind, "session_id": session, "seq": seq, "prev": None}
    header |= {"epoch": 0, "inc": "9f3a11c2", "at_us": 1793000000123456, "cause": None, "data": {}}
    header |= more
    return _hex(f"event/{session}/{kind}", json.dumps(header))


def event(seq: int, verdict: str, ready: list[int], missing: list[int] | None, **more: Any) -> Step:
    """A numbered event."""
    kind = more.pop("kind", "assistant_transcript_delta")
    return _expect(_message(kind, seq, **more), verdict, ready, missing)


FIRST, SECOND = "9f3a11c2", "0badcafe"
"""Incarnations of a publisher."""


def head(seq: int, missing: list[int] | None, inc: str = FIRST, **data: Any) -> Step:
    """The beacon of each second."""
    frames = _message("head", None, inc=inc, data={"seq": seq, **data})
    return _expect(frames, "head", [], missing)


def welcome(heads: dict[str, int], missing: list[int] | None, inc: str = FIRST) -> Step:
    """The answer to a subscription, on the string subscribed."""
    header = json.loads(bytes.fromhex(_message("welcome", None, inc=inc, data={"heads": heads})[1]))
    topic = f"event/{SESSION}/"
    return _expect(_hex(topic, json.dumps(header)), "head", [], missing)


def other(frames: list[str], missing: list[int] | None = None) -> Step:
    """What says nothing about the session that is followed."""
    return _expect(frames, "ignored", [], missing)


def gone(upto: int, ready: list[int], missing: list[int] | None) -> Step:
    """A replay was answered by `gone`: everything up to here is given up."""
    return {"gone": upto, "verdict": "gone", "ready": ready, "missing": missing}


def _expect(frames: list[str], verdict: str, ready: list[int], missing: list[int] | None) -> Step:
    return {"frames": frames, "verdict": verdict, "ready": ready, "missing": missing}


def case(name: str, *steps: Step, last: int = 0, kind: str | None = None) -> dict[str, Any]:
    """`last`: what was had before. `kind`: the subscriber of one kind only."""
    return {"name": name, "session_id": SESSION, "kind": kind, "last": last, "steps": list(steps)}


T, U = "assistant_transcript_delta", "user_transcript"

CASES = [
    case("in order", event(1, "next", [1], None), event(2, "next", [2], None)),
    case(
        "a gap and its replay",
        event(1, "next", [1], None),
        event(2, "next", [2], None),
        event(5, "gap", [], [3, 4]),
        event(6, "gap", [], [3, 4]),
        event(3, "next", [3], [4, 4]),
        event(4, "next", [4, 5, 6], None),
    ),
    case(
        "a replay that overlaps",
        event(1, "next", [1], None),
        event(4, "gap", [], [2, 3]),
        event(1, "repeated", [], [2, 3]),
        event(2, "next", [2], [3, 3]),
        event(3, "next", [3, 4], None),
        event(4, "repeated", [], None),
    ),
    case(
        "two gaps are repaired one after the other",
        event(1, "next", [1], None),
        event(3, "gap", [], [2, 2]),
        event(5, "gap", [], [2, 2]),
        event(2, "next", [2, 3], [4, 4]),
        event(4, "next", [4, 5], None),
    ),
    case(
        "a restarted publisher repeats and goes on",
        event(1, "next", [1], None),
        event(2, "next", [2], None),
        event(2, "repeated", [], None, inc=SECOND),
        event(3, "next", [3], None, inc=SECOND),
    ),
    case(
        "a publisher whose journal was lost uses numbers anew",
        welcome({SESSION: 1}, [1, 1]),
        event(1, "next", [1], None),
        event(2, "next", [2], None),
        event(4, "gap", [], [3, 3]),
        event(3, "next", [3, 4], None),
        welcome({SESSION: 2}, None, inc=SECOND),
        event(3, "next", [3], None, inc=SECOND),
        event(5, "gap", [], [4, 4], inc=SECOND),
        event(4, "next", [4, 5], None, inc=SECOND),
    ),
    case(
        "the same, told by a head; what was kept behind a gap is forgotten, too",
        event(1, "next", [1], None),
        event(2, "next", [2], None),
        event(4, "gap", [], [3, 3]),
        head(1, None, inc=SECOND),
        event(2, "next", [2], None, inc=SECOND),
        head(3, [3, 3], inc=SECOND),
    ),
    case(
        "a late head of a publisher heard before turns nothing back",
        event(1, "next", [1], None),
        event(2, "next", [2], None, inc=SECOND),
        event(3, "next", [3], None, inc=SECOND),
        head(1, None),
        head(2, None, inc=SECOND),
    ),
    case(
        "a publisher that does not know the session turns nothing back",
        event(1, "next", [1], None),
        event(2, "next", [2], None),
        welcome({}, None, inc=SECOND),
        event(2, "repeated", [], None, inc=SECOND),
    ),
    case(
        "a follower that goes on beyond what is kept",
        welcome({SESSION: 38}, None),
        event(39, "next", [39], None),
        last=40,
    ),
    case(
        "a lost tail is shown by the head",
        event(1, "next", [1], None),
        head(3, [2, 3]),
        event(2, "next", [2], [3, 3]),
        event(3, "next", [3], None),
        head(3, None),
    ),
    case("an old head says nothing new", event(1, "next", [1], None), head(1, None), head(0, None)),
    case(
        "a late joiner is told by the welcome what there is",
        welcome({SESSION: 2, OTHER: 9}, [1, 2]),
        event(1, "next", [1], [2, 2]),
        event(2, "next", [2], None),
        event(3, "next", [3], None),
    ),
    case("a welcome to a session that has just begun", welcome({SESSION: 0}, None)),
    case("somebody else's welcome without this session", welcome({OTHER: 9}, None)),
    case(
        "a follower that goes on where it stopped",
        welcome({SESSION: 42}, [41, 42]),
        event(41, "next", [41], [42, 42]),
        event(42, "next", [42], None),
        last=40,
    ),
    case(
        "numbers beyond 32 bits",
        event(4294967297, "next", [4294967297], None),
        event(4294967299, "gap", [], [4294967298, 4294967298]),
        last=4294967296,
    ),
    case(
        "a numbered kind of a newer version counts",
        event(1, "next", [1], None, kind="caller_sneezed", data={"loud": True}),
        event(2, "next", [2], None),
    ),
    case(
        "unknown fields and frames are ignored",
        event(1, "next", [1], None, weather="sunny"),
        _expect([*_message(T, 2), b"\x00\x01".hex()], "next", [2], None),
    ),
    case(
        "what is not for this follower",
        event(1, "next", [1], None),
        other(_message(T, 7, session=OTHER)),
        other(_message("caller_coughed", None)),
        other(_hex(f"event/{SESSION}/{T}")),
        other(_hex(f"event/{SESSION}/{T}", "not JSON")),
        other(_hex(f"event/{SESSION}/{T}", b"\xff\xfe")),
        other(_hex(f"event/{SESSION}/{T}", "[1, 2]")),
        other(_hex("weather", "{}")),
        event(2, "next", [2], None),
    ),
    case(
        "what is gone is passed over",
        event(1, "next", [1], None),
        event(5, "gap", [], [2, 4]),
        event(3, "gap", [], [2, 2]),
        gone(2, [3], [4, 4]),
        gone(4, [5], None),
    ),
    case(
        "one kind: holes in seq are no gaps",
        event(3, "next", [3], None, kind=U, prev=0),
        event(9, "next", [9], None, kind=U, prev=3),
        event(9, "repeated", [], None, kind=U, prev=3),
        kind=U,
    ),
    case(
        "one kind: prev shows a gap",
        event(3, "next", [3], None, kind=U, prev=0),
        event(20, "gap", [20], [4, 19], kind=U, prev=15),
        kind=U,
    ),
    case(
        "one kind: the head knows the last of each",
        event(3, "next", [3], None, kind=U, prev=0),
        head(12, None, topics={U: 3, T: 12}),
        head(14, [4, 13], topics={U: 13, T: 14}),
        kind=U,
    ),
    case(
        "one kind: a publisher whose journal was lost uses numbers anew",
        event(3, "next", [3], None, kind=U, prev=0),
        event(9, "next", [9], None, kind=U, prev=3),
        event(12, "next", [12], None, kind=U, prev=9),
        head(10, None, inc=SECOND, topics={U: 3, T: 10}),
        event(11, "next", [11], None, kind=U, prev=3, inc=SECOND),
        head(10, None, topics={U: 9, T: 10}),
        event(11, "repeated", [], None, kind=U, prev=3, inc=SECOND),
        kind=U,
    ),
]


def render() -> str:
    """The file's text."""
    return json.dumps(CASES, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), "utf-8")
