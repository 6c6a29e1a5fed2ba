"""The talkers of `voicebus chaos`: hold conversations, and notice what is lost or comes twice."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from voicebus.bus import ids
from voicebus.cli import chaos_phone
from voicebus.client import ClientError, Event, RealtimeClient, RealtimeSession, Sound
from voicebus.client import audit as rules
from voicebus.client.errors import CommandRefused, SessionGone
from voicebus.client.sound import Heard
from voicebus.client.turns import Turns, expect, fold

TURNS = (1, 6)
"""Turns per conversation, from and to."""
TURN_S = 45.0
PATIENCE_S = 30.0
"""Under faults a command may wait for a restart; no longer than that."""
CONFIG: dict[str, Any] = {"instructions": "Be brief.", "lease_s": 60}
SAY = {
    "short tone please": 3,
    "long tone please": 3,
    "leave a mark": 3,
    "mark and look": 2,
    "look around": 2,
}
"""What is said, and how often."""
TOO_MANY = 100
"""Faults after which nobody need go on."""


@dataclass
class Tally:
    """What all talkers have seen."""

    begun: float = field(default_factory=time.monotonic)
    conversations: int = 0
    turns: int = 0
    not_opened: int = 0
    """Ended before the provider had confirmed them: it, or the transport, was away."""
    cut_turns: int = 0
    """Ended incomplete because their transport or provider was lost: said plainly, and expected."""
    interrupts: int = 0
    commands: int = 0
    events: int = 0
    calls: int = 0
    healed: int = 0
    """Events that were fetched again after a hole."""
    faults: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """(when it ended, seconds): pauses of the sound within an answer, see `Pauses`."""
    calls_of: set[str] = field(default_factory=set)
    ended: Counter[str] = field(default_factory=Counter)
    sent: dict[str, list[str]] = field(default_factory=dict)
    """Session -> ids of commands that were answered with ok."""
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Session -> when it began and when it had ended, on the monotonic clock."""
    phone_calls: int = 0
    """Conversations through the gateway."""
    phoned_again: int = 0
    """How often their connection was made again."""


class Conversation(Protocol):
    """What a talker needs, on the bus or through the gateway."""

    @property
    def id(self) -> str:
        """The session's."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""

    @property
    def events_healed(self) -> int:
        """Events that were fetched again so far."""

    async def tell(self, command: str, data: dict[str, Any]) -> str:
        """One command under one id until it is done. Its id. Raises ClientError."""

    def events(self) -> AsyncIterator[Event]:
        """Every event once, in order."""

    def audio_output(self) -> AsyncIterator[Heard]:
        """The sound."""

    async def detach(self) -> None:
        """Stop listening."""


Dial = Callable[[], Awaitable[Conversation]]


class OnTheBus:
    """A conversation through the SDK."""

    def __init__(self, client: RealtimeClient, session: RealtimeSession) -> None:
        self.id = session.id
        self.events = session.events
        self.audio_output = session.audio_output
        self.detach = session.detach
        self._client = client
        self._session = session

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._session.is_over

    @property
    def events_healed(self) -> int:
        """Events that were fetched again so far."""
        return sum(one.last - one.first + 1 for one in self._session.healed)

    async def tell(self, command: str, data: dict[str, Any]) -> str:
        """One command under one id until it is done. Its id. Raises ClientError."""
        id = ids.ulid()
        shard = ids.shard_of(self.id) or 0
        await self._client.commander.ask(
            shard, command, data, session_id=self.id, id=id, deadline_s=PATIENCE_S
        )
        return id


def by_bus(client: RealtimeClient) -> Dial:
    """Open sessions with the SDK."""

    async def dial() -> Conversation:
        return OnTheBus(client, await client.connect(CONFIG))

    return dial


def by_phone(port: int) -> Dial:
    """Open sessions through the gateway at that port."""

    async def dial() -> Conversation:
        return await chaos_phone.dial(port, CONFIG, PATIENCE_S)

    return dial


class Talker:
    """One conversation after the other."""

    def __init__(
        self,
        client: RealtimeClient,
        dial: Dial,
        tally: Tally,
        chance: random.Random,
        *,
        pause_s: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self._client = client
        """What is kept is read with it, whichever way the conversation went."""
        self._dial = dial
        self._pause_s = pause_s
        self._tally = tally
        self._chance = chance
        self._was_refused = False
        self.served_since = 0.0
        """When the last turn began that has been answered."""

    async def talk(self, until: asyncio.Event) -> None:
        """Until told to stop; then the conversation under way is ended in order."""
        while not until.is_set() and len(self._tally.faults) < TOO_MANY:
            await self._conversation(until)

    async def _conversation(self, until: asyncio.Event) -> None:
        if self._was_refused:
            self._was_refused = False
            await asyncio.sleep(0.3)
        began = time.monotonic()
        try:
            session = await self._dial()
        except CommandRefused as error:
            if not error.retry:
                self._fault(f"open: {error}")
            await asyncio.sleep(0.2)
            return
        except ClientError as error:
            self._fault(f"open: {error}")
            return
        ear = Ear(session, self._tally)
        try:
            for _ in range(self._chance.randint(*TURNS)):
                if until.is_set() or session.is_over:
                    break
                await self._turn(session, ear)
                await asyncio.sleep(self._chance.uniform(*self._pause_s))
        finally:
            await self._end(session, ear)
            self._tally.spans[session.id] = (began, time.monotonic())

    async def _turn(self, session: Conversation, ear: "Ear") -> None:
        begun = time.monotonic()
        text = self._chance.choices(tuple(SAY), tuple(SAY.values()))[0]
        before = len(ear.events)
        ear.turns = expect(ear.turns)
        if not await self._tell(session, "send_text", {"text": text}):
            return
        if self._chance.random() < 0.25:
            await asyncio.sleep(self._chance.uniform(0.05, 1.2))
            self._tally.interrupts += 1
            await self._tell(session, "interrupt", {})
            ear.pauses.give_up(time.monotonic())
            quiet = await ear.until(lambda: not ear.is_busy, TURN_S)
            # What the policies leave of an interrupted turn is not waited for: it may be nothing.
            ear.turns = Turns()
        else:
            quiet = await ear.until(lambda: ear.turns.is_quiet, TURN_S)
        ear.pauses.give_up(begun)
        self._tally.turns += 1
        if not quiet:
            kinds = [one.kind for one in ear.events[before:]]
            self._fault(f"{session.id}: {text!r} was not answered in {TURN_S:g} s; heard {kinds}")
        self.served_since = begun

    async def _tell(self, session: Conversation, command: str, data: dict[str, Any]) -> bool:
        """A command that is sent until it is answered. Whether it was done."""
        try:
            id = await session.tell(command, data)
        except SessionGone:
            return False
        except ClientError as error:
            if not session.is_over and getattr(error, "code", "") != "gone":
                self._fault(f"{session.id}: {error}")
            return False
        self._tally.commands += 1
        self._tally.sent.setdefault(session.id, []).append(id)
        return True

    async def _end(self, session: Conversation, ear: "Ear") -> None:
        if not session.is_over:
            await self._tell(session, "close", {})
            if not await ear.until(lambda: session.is_over, PATIENCE_S):
                self._fault(f"{session.id}: no session_closed within {PATIENCE_S:g} s of close")
        try:
            kept = await _kept(self._client, session.id)
        except ClientError as error:
            self._fault(f"{session.id}: cannot be read again: {error}")
            kept = []
        await session.detach()
        await ear.close()
        self._examine(session, ear, kept)

    def _examine(self, session: Conversation, ear: "Ear", kept: list[dict[str, Any]]) -> None:
        tally = self._tally
        tally.conversations += 1
        tally.events += len(kept)
        tally.healed += session.events_healed
        tally.calls += sum(one["kind"] in rules.ENDS for one in kept)
        tally.calls_of.update(
            one["data"]["call_id"] for one in kept if one["kind"] == "tool_call_dispatched"
        )
        for one in kept:
            if one["kind"] == "assistant_turn_completed" and one["data"]["status"] == "incomplete":
                tally.cut_turns += 1
            if one["kind"] == "session_closed":
                tally.ended[one["data"]["reason"]] += 1
                if not any(other["kind"] == "session_opened" for other in kept):
                    tally.not_opened += 1
                    self._was_refused = True
                elif one["data"]["reason"] != "client":
                    self._fault(f"{session.id}: ended by {one['data']}")
        found = rules.conversation(kept)
        seen = [one.seq for one in ear.events]
        if seen != [one["seq"] for one in kept]:
            found.append(f"the client was given {seen}, kept are {len(kept)} events")
        live = [msgspec.json.decode(one.raw) for one in ear.events]
        found += rules.same_as_live(kept, live)
        if isinstance(session, chaos_phone.PhoneCall):
            tally.phone_calls += 1
            tally.phoned_again += session.again
            found += session.strange
        for fault in found:
            self._fault(f"{session.id}: {fault}")

    def _fault(self, text: str) -> None:
        at_s = time.monotonic() - self._tally.begun
        self._tally.faults.append(f"at {at_s:.1f} s: {text}")


class Pauses:
    """The pauses within the answers that one conversation hears. Pure: the time comes in.

    An answer that was cut off goes on as another item of another response, on another connection:
    for whoever listens that is one pause.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None
        """When the last piece came of an answer whose end has not come."""

    def heard(self, piece: Heard, now_s: float) -> float | None:
        """How long the pause was that this piece ends, if it ends one."""
        since_s = self._since_s
        if not isinstance(piece, Sound):  # the end, or a flush: silence is in order now
            self._since_s = None
            return None
        self._since_s = now_s
        return None if since_s is None else now_s - since_s

    def give_up(self, until_s: float) -> None:
        """No sound follows on what was cut off up to then: its caller has interrupted, or has had
        the next answer, and that was silent."""
        if self._since_s is not None and self._since_s <= until_s:
            self._since_s = None


class Ear:
    """What one conversation hears."""

    def __init__(self, session: Conversation, tally: Tally) -> None:
        self.events: list[Event] = []
        self.turns = Turns()
        self.pauses = Pauses()
        self._session = session
        self._tally = tally
        self._changed = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._listen()),
        ]

    @property
    def is_busy(self) -> bool:
        """Whether a response or call is under way."""
        return bool(self.turns.responses or self.turns.calls)

    async def until(self, met: Any, within_s: float) -> bool:
        """Whether it came true in time; also false when the session is over."""
        end = time.monotonic() + within_s
        while not met():
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._session.is_over:
                return True  # judged by its last event
            self._changed.clear()
            waiting = asyncio.create_task(self._changed.wait())
            await asyncio.wait([waiting], timeout=min(left, 0.5))
            waiting.cancel()
        return True

    async def close(self) -> None:
        """Stop listening, after what is there has been taken."""
        await asyncio.wait(self._tasks, timeout=2.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self) -> None:
        async for event in self._session.events():
            self.turns = fold(self.turns, event.data)
            self.events.append(event)
            self._changed.set()

    async def _listen(self) -> None:
        async for piece in self._session.audio_output():
            now = time.monotonic()
            pause_s = self.pauses.heard(piece, now)
            if pause_s is not None:
                self._tally.gaps.append((now, pause_s))


async def _kept(client: RealtimeClient, session_id: str) -> list[dict[str, Any]]:
    """All events of a session, as its process gives them. Raises ClientError."""
    found: list[dict[str, Any]] = []
    at: int | None = 1
    while at is not None:
        page = await client.commander.replay(session_id, at)
        found += [msgspec.json.decode(raw) for raw in page.events]
        at = page.next
    return found
