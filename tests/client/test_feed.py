"""A feed of events: what a publisher that has lost its journal says is heard, too."""

import json
from typing import Any

from voicebus.bus.messages.commands import Replayed
from voicebus.client.events import Event
from voicebus.client.feed import Feed

SID = "s0-01m8brxw7vcsn4b7yt93xhkedq"


class Follower:
    def __init__(self) -> None:
        self.heard: list[tuple[str, int | None]] = []
        self.feed = Feed(SID, self._replay, deliver=self._deliver, ended=lambda error: None)

    def _deliver(self, event: Event) -> None:
        self.heard.append((event.header.inc, event.seq))

    async def _replay(self, first: int, last: int, limit: int) -> Replayed:
        return Replayed(events=[], next=None)

    def _say(self, inc: str, kind: str, seq: int | None, data: dict[str, Any]) -> None:
        header = {"v": 1, "kind": kind, "session_id": SID, "seq": seq, "prev": 0, "epoch": 0}
        raw = {**header, "inc": inc, "at_us": 1, "cause": None, "data": data}
        self.feed.receive(json.dumps(raw).encode())

    def head(self, inc: str, seq: int) -> None:
        self._say(inc, "head", None, {"seq": seq})

    def welcome(self, inc: str, heads: dict[str, int]) -> None:
        self._say(inc, "welcome", None, {"heads": heads})

    def events(self, inc: str, *numbers: int) -> None:
        for seq in numbers:
            self._say(inc, "user_speech_started", seq, {})


async def test_after_a_lost_journal_the_next_publisher_is_heard_under_numbers_used_before() -> None:
    one = Follower()
    one.welcome("old", {SID: 0})
    one.events("old", 1, 2, 3, 4)

    one.welcome("new", {SID: 2})
    one.events("new", 3, 4, 5)

    assert one.heard[4:] == [("new", 3), ("new", 4), ("new", 5)]


async def test_what_a_restarted_publisher_repeats_is_heard_once() -> None:
    one = Follower()
    one.welcome("old", {SID: 0})
    one.events("old", 1, 2)

    one.welcome("new", {SID: 2})
    one.events("new", 2, 3)

    assert one.heard == [("old", 1), ("old", 2), ("new", 3)]


async def test_a_late_word_of_a_publisher_that_is_gone_turns_nothing_back() -> None:
    one = Follower()
    one.welcome("old", {SID: 0})
    one.events("old", 1, 2)
    one.events("new", 3, 4)  # fetched, before the queue was read

    one.head("old", 2)
    one.welcome("new", {SID: 3})
    one.events("new", 3, 4)

    assert one.heard == [("old", 1), ("old", 2), ("new", 3), ("new", 4)]


async def test_a_publisher_that_does_not_know_the_session_turns_nothing_back() -> None:
    one = Follower()
    one.welcome("old", {SID: 0})
    one.events("old", 1, 2)

    one.welcome("new", {})
    one.events("new", 2)

    assert one.heard == [("old", 1), ("old", 2)]
