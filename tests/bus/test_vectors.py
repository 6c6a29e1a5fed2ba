"""The gap detector against the vectors that other languages use, too."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from voicebus.bus import gaps, topics
from voicebus.bus.messages.base import BadMessage, decode_object

FILE = Path(__file__).parent / "vectors" / "gaps.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_text("utf-8"))


class Said(NamedTuple):
    """What a follower concludes."""

    verdict: str
    ready: list[int]
    missing: list[int] | None


class Lane:
    """A follower of a whole lane: `bus/gaps.py` with frames around it."""

    def __init__(self, session_id: str, last: int) -> None:
        self._session_id = session_id
        self._at: gaps.Followed[int] = gaps.Followed(last, last)

    def _said(self, verdict: str, ready: list[int]) -> Said:
        stretch = gaps.missing(self._at)
        return Said(verdict, ready, list(stretch) if stretch else None)

    def gone(self, upto: int) -> Said:
        self._at, ready = gaps.give_up(self._at, upto)
        return self._said("gone", ready)

    def frames(self, frames: list[bytes]) -> Said:
        header = _header(frames, self._session_id)
        match header:
            case {"kind": "head", "inc": str(inc), "data": {"seq": int(seq)}}:
                self._at = gaps.hear(self._at, seq, inc)
                return self._said("head", [])
            case {"kind": "welcome", "inc": str(inc), "data": {"heads": dict(heads)}}:
                self._at = gaps.hear(self._at, heads.get(self._session_id, 0), inc)
                return self._said("head", [])
            case {"seq": int(seq), "inc": str(inc)}:
                before = gaps.meet(self._at, inc)
                self._at, ready = gaps.take(before, seq, seq)
                verdict = "next" if ready else "repeated" if self._at is before else "gap"
                return self._said(verdict, ready)
            case _:
                return self._said("ignored", [])


class Kind:
    """A follower of one kind."""

    def __init__(self, session_id: str, kind: str, last: int) -> None:
        self._session_id = session_id
        self._kind = kind
        self._last = last
        self._incs: set[str] = set()

    def frames(self, frames: list[bytes]) -> Said:
        header = _header(frames, self._session_id)
        is_new = header.get("inc") not in self._incs
        self._incs.add(header.get("inc", ""))
        match header:
            case {"kind": "head", "data": {"topics": dict(heads)}}:
                newest = heads.get(self._kind, 0)
                self._last = gaps.on_head(self._last, newest, is_new=is_new)
                lost = [self._last + 1, newest] if newest > self._last else None
                return Said("head", [], lost)
            case {"seq": int(seq), "prev": int(prev)}:
                verdict = gaps.on_topic(self._last, seq, prev)
                lost = [self._last + 1, seq - 1] if verdict == "gap" else None
                self._last = max(self._last, seq)
                return Said(verdict, [] if verdict == "repeated" else [seq], lost)
            case _:
                return Said("ignored", [], None)


def _header(frames: list[bytes], session_id: str) -> dict[str, Any]:
    topic = topics.parse(frames[0] + b"?")
    if topic is None or (topic.lane, topic.owner) != ("event", session_id) or len(frames) < 2:
        return {}
    try:
        return decode_object(frames[1], what="event")
    except BadMessage:
        return {}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_detector_says_what_the_vector_says(case: dict[str, Any]) -> None:
    follower: Any = (
        Lane(case["session_id"], case["last"])
        if case["kind"] is None
        else Kind(case["session_id"], case["kind"], case["last"])
    )
    for number, step in enumerate(case["steps"]):
        said = (
            follower.gone(step["gone"])
            if "gone" in step
            else follower.frames([bytes.fromhex(one) for one in step["frames"]])
        )

        assert said == Said(step["verdict"], step["ready"], step["missing"]), f"step {number}"


def test_the_file_is_the_one_that_is_made() -> None:
    namespace: dict[str, Any] = {"__name__": "vectors", "__file__": str(FILE.with_name("make.py"))}
    exec(FILE.with_name("make.py").read_text("utf-8"), namespace)  # it is no module of ours

    assert namespace["render"]() == FILE.read_text("utf-8")
