"""The events of one session, each exactly once and in order, whatever the bus lost or repeated."""

import asyncio
from collections.abc import Awaitable, Callable

from voicebus.bus import gaps
from voicebus.bus.messages import events
from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.commands import Replayed
from voicebus.client.commands import PAGE
from voicebus.client.errors import ClientError, CommandRefused, SessionGone
from voicebus.client.events import Event, decode
from voicebus.client.logs import log

PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0

Replay = Callable[[int, int, int], Awaitable[Replayed]]
"""`replay(from, to, limit)` asks the owner of the events."""


class Feed:
    """Takes header frames as they come, fetches what is missing, hands on whole events.

    `deliver` gets every numbered event once, in order. `healed` is told of each stretch that had to
    be fetched. `ended` is told when nothing more can come: None after `session_closed`, else why.
    """

    def __init__(
        self,
        session_id: str,
        replay: Replay,
        *,
        deliver: Callable[[Event], None],
        ended: Callable[[Exception | None], None],
        healed: Callable[[gaps.Missing], None] = lambda stretch: None,
        gone: Callable[[gaps.Missing], None] = lambda stretch: None,
        from_seq: int | None = 1,
    ) -> None:
        """`gone` is told of each stretch that nobody has any more, before what follows it.
        `from_seq` None: only what comes after the first welcome or head."""
        self.session_id = session_id
        self.inc = ""
        """The publisher's incarnation, as last seen."""
        self.repeated = 0
        """How many repeated events were dropped."""
        self.malformed = 0
        self.welcomed = asyncio.Event()
        """Set when the publisher has confirmed the subscription."""
        self._replay = replay
        self._deliver = deliver
        self._told_healed = healed
        self._told_gone = gone
        self._told_ended = ended
        self._at: gaps.Followed[Event] | None = (
            None if from_seq is None else gaps.Followed(from_seq - 1, from_seq - 1)
        )
        self._healing: asyncio.Task[None] | None = None
        self._over = False

    def receive(self, raw: bytes) -> None:
        """A header frame of the event lane, live or replayed. Raises nothing."""
        if self._over:
            return
        try:
            event = decode(raw)
        except BadMessage as error:
            self.malformed += 1
            log.warning("event.dropped", session_id=self.session_id, why=str(error))
            return
        self.inc = event.header.inc or self.inc
        match event.data:
            case events.Welcome():
                self.hear(event.data.heads.get(self.session_id, 0), event.header.inc)
                self.welcomed.set()
            case events.Head():
                self.hear(event.data.seq, event.header.inc)
            case _ if event.seq is not None:
                self._take(event, event.seq)
            case _:
                pass  # an unnumbered kind of a newer version

    def hear(self, head: int, inc: str = "") -> None:
        """The publisher says how far the lane goes; `inc`: which one, where that is known."""
        before = gaps.Followed(head, head) if self._at is None else self._at
        self._at = gaps.hear(before, head, inc)
        if self._at.last < before.last:
            # What is new under these numbers would be taken for a repetition otherwise.
            log.warning(
                "events.rolled_back", session_id=self.session_id, first=head + 1, last=before.last
            )
        self._heal()

    def close(self) -> None:
        """Stop fetching."""
        self._over = True
        if self._healing is not None:
            self._healing.cancel()

    def _take(self, event: Event, seq: int) -> None:
        if self._at is None:
            self._at = gaps.Followed(seq - 1, seq - 1)
        before = gaps.meet(self._at, event.header.inc)
        taken = gaps.take(before, seq, event)
        self._at = taken.now
        self.repeated += taken.now is before
        self._hand_on(taken.ready)
        self._heal()

    def _hand_on(self, ready: list[Event]) -> None:
        for event in ready:
            self._deliver(event)
            if event.kind == "session_closed":
                self._end(None)
                return

    def _end(self, error: Exception | None) -> None:
        if not self._over:
            self._over = True
            self._told_ended(error)

    def _heal(self) -> None:
        if self._over or self._at is None or gaps.missing(self._at) is None:
            return
        if self._healing is None or self._healing.done():
            self._healing = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        """Replay until nothing is missing, however long the session process is away."""
        pause = PAUSE_S
        while not self._over and self._at is not None:
            stretch = gaps.missing(self._at)
            if stretch is None:
                return
            before = self._at.last
            try:
                page = await self._replay(*stretch, PAGE)
            except CommandRefused as error:
                if error.code == "no_such_session":
                    self._end(SessionGone(f"session {self.session_id} is gone: {error.message}"))
                    return
                if error.code == "gone":
                    self._pass_over(stretch)
                    continue
                log.warning("replay.refused", session_id=self.session_id, code=error.code)
            except ClientError as error:
                log.warning("replay.unanswered", session_id=self.session_id, why=str(error))
            else:
                for raw in page.events:
                    self.receive(bytes(raw))
            if self._at.last > before:
                self._told_healed(gaps.Missing(stretch.first, min(stretch.last, self._at.last)))
                pause = PAUSE_S
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)

    def _pass_over(self, stretch: gaps.Missing) -> None:
        assert self._at is not None
        log.warning(
            "events.gone", session_id=self.session_id, first=stretch.first, last=stretch.last
        )
        self._told_gone(stretch)
        taken = gaps.give_up(self._at, stretch.last)
        self._at = taken.now
        self._hand_on(taken.ready)
