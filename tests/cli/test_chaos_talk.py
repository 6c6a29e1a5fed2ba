"""The talkers of chaos: what they take for lost or repeated, and what for a pause of the sound."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import msgspec
import pytest

from voicebus.bus.messages.commands import Replayed
from voicebus.cli.chaos_talk import Pauses, Talker, Tally
from voicebus.client import Event, RealtimeClient, Sound
from voicebus.client.events import decode
from voicebus.client.sound import Heard, SoundEnd, SoundFlush

SID = "s0-01m8brxw7vcsn4b7yt93xhkedq"
CALL = {"turn_id": "t", "call_id": "c", "name": "look_around"}


def _sound(item: str) -> Sound:
    return Sound("turn", item, 0, "pcm16", 0, b"\0\0")


END = SoundEnd("turn", "a", 0, 1)
FLUSH = SoundFlush(("turn",), "manual")


def _told(*events: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Headers, as a session process publishes and keeps them."""
    last: dict[str, int] = {}
    found = []
    for seq, (kind, data) in enumerate(events, 1):
        header = {"v": 1, "kind": kind, "session_id": SID, "seq": seq, "prev": last.get(kind, 0)}
        found.append({**header, "epoch": 0, "inc": "i", "at_us": 1, "cause": None, "data": data})
        last[kind] = seq
    return found


WHOLE = _told(
    ("session_opened", {}),
    ("tool_call_dispatched", CALL),
    ("tool_call_completed", CALL),
    ("session_closed", {"reason": "client"}),
)


class Ended:
    """A conversation that is over: what its listener was given, and what is kept of it."""

    id = SID
    is_over = True
    events_healed = 0

    def __init__(
        self,
        given: Sequence[dict[str, Any]],
        kept: Sequence[dict[str, Any]],
        sound: Sequence[Heard] = (),
    ) -> None:
        self.hung_up = asyncio.Event()
        self._given = given
        self._kept = kept
        self._sound = sound

    @property
    def commander(self) -> "Ended":
        """As a client: it asks for what is kept."""
        return self

    async def replay(self, session_id: str, first: int) -> Replayed:
        """Two events a page."""
        page = [msgspec.Raw(json.dumps(one).encode()) for one in self._kept[first - 1 : first + 1]]
        return Replayed(events=page, next=first + 2 if first + 1 < len(self._kept) else None)

    async def tell(self, command: str, data: dict[str, Any]) -> str:
        """Nobody says anything to who is gone."""
        raise AssertionError(command)

    async def events(self) -> AsyncIterator[Event]:
        """As they were published."""
        for one in self._given:
            yield decode(json.dumps(one).encode())

    async def audio_output(self) -> AsyncIterator[Heard]:
        """All of it at once."""
        for piece in self._sound:
            yield piece

    async def detach(self) -> None:
        """One such conversation is enough."""
        self.hung_up.set()


async def _tally(conversation: Ended) -> Tally:
    tally = Tally()

    async def dial() -> Ended:
        return conversation

    client = cast("RealtimeClient", conversation)
    await Talker(client, dial, tally, random.Random(1)).talk(conversation.hung_up)
    return tally


async def test_a_conversation_of_which_nothing_is_missing_is_counted_and_has_no_fault() -> None:
    tally = await _tally(Ended(WHOLE, WHOLE))

    assert tally.faults == []
    assert (tally.conversations, tally.events, tally.calls) == (1, 4, 1)
    assert tally.calls_of == {"c"}


@pytest.mark.parametrize(
    ("given", "kept", "told"),
    [
        pytest.param(WHOLE[:1] + WHOLE[2:], WHOLE, "was given [1, 3, 4], kept are 4", id="lost"),
        pytest.param(WHOLE[:2] + WHOLE[1:], WHOLE, "was given [1, 2, 2, 3, 4]", id="twice"),
        pytest.param(WHOLE, WHOLE[:1] + WHOLE[2:], "2 was published and is not kept", id="unkept"),
        pytest.param(
            [{**WHOLE[0], "data": {"other": 1}}, *WHOLE[1:]], WHOLE, "and is kept as", id="another"
        ),
        pytest.param(
            *[_told(("session_opened", {}), ("session_closed", {"reason": "server"}))] * 2,
            "ended by {'reason': 'server'}",
            id="ended otherwise",
        ),
        pytest.param(
            *[_told(*[(one["kind"], one["data"]) for one in WHOLE[:3] + WHOLE[2:]])] * 2,
            "call c has 2 outcomes",
            id="outcome twice",
        ),
    ],
)
async def test_what_is_lost_repeated_or_told_otherwise_is_a_fault(
    given: list[dict[str, Any]], kept: list[dict[str, Any]], told: str
) -> None:
    tally = await _tally(Ended(given, kept))

    assert any(told in fault and SID in fault for fault in tally.faults), tally.faults


async def test_the_pauses_of_a_conversation_are_noted() -> None:
    sound: list[Heard] = [_sound("a"), _sound("b"), END, _sound("c")]

    tally = await _tally(Ended(WHOLE, WHOLE, sound))

    assert len(tally.gaps) == 1


def test_an_answer_that_goes_on_as_another_item_has_paused_as_long_as_nothing_was_heard() -> None:
    pauses = Pauses()

    assert pauses.heard(_sound("a"), 1.0) is None
    assert pauses.heard(_sound("a"), 1.25) == 0.25
    assert pauses.heard(_sound("b"), 4.75) == 3.5


@pytest.mark.parametrize("silent", [END, FLUSH])
def test_silence_after_the_end_or_a_flush_is_no_pause(silent: Heard) -> None:
    pauses = Pauses()

    pauses.heard(_sound("a"), 1.0)

    assert pauses.heard(silent, 1.5) is None
    assert pauses.heard(_sound("b"), 9.0) is None


def test_silence_that_is_given_up_is_no_pause_and_what_came_since_then_counts() -> None:
    pauses = Pauses()

    pauses.heard(_sound("a"), 1.0)
    pauses.give_up(1.0)
    before = pauses.heard(_sound("b"), 9.0)
    pauses.give_up(8.0)

    assert before is None
    assert pauses.heard(_sound("c"), 10.0) == 1.0
