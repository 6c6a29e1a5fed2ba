"""One conversation being written down: its events, its sound, its account."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial

import structlog

from voicebus.bus import gaps
from voicebus.bus.messages import events
from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.messages.commands import Replayed
from voicebus.bus.messages.sound import CallerAudio
from voicebus.client.commands import PAGE
from voicebus.client.errors import ClientError, CommandRefused
from voicebus.client.events import Event
from voicebus.client.feed import Feed
from voicebus.client.sound import decode
from voicebus.services.recorder import account as accounts
from voicebus.services.recorder.account import Account
from voicebus.services.recorder.files import Files, Found, Saved
from voicebus.services.recorder.timeline import Chunk, Gap, Timeline

PENDING_BYTES = 1024 * 1024
"""Events that wait for the disk; beyond that the next ones are fetched when these are written."""
PENDING_S = 10.0
"""Sound that waits for the disk; beyond that it is dropped and counted."""
AGAIN_S = 2.0
ACCOUNT_S = 1.0

Replay = Callable[[str, int, int | None, int], Awaitable[Replayed]]

log = structlog.get_logger("recorder")


class Recording:
    """Runs on the loop; what may wait is done by `disk`, one piece of work at a time."""

    def __init__(
        self,
        session_id: str,
        files: Files,
        disk: Executor,
        replay: Replay,
        *,
        max_s: float,
        now_s: float,
        now_us: int,
    ) -> None:
        self.session_id = session_id
        self.trouble: str | None = None
        """Why the disk did not take something, the last time."""
        self.is_written = False
        """It is over, and all of it is on the disk."""
        self.is_removed = False
        """Its files were taken away: nothing more of this conversation is written down."""
        self._files = files
        self._disk = disk
        self._replay = replay
        self._max_s = max_s
        self._loop = asyncio.get_running_loop()
        self._zero_s = now_s
        """The loop's time of the first frame."""
        self._back_s: float | None = None
        """When this recorder came, until it is known whether the conversation still went on."""
        self._now_us = now_us
        self._account = Account(session_id=session_id, began_at_us=now_us)
        self._timeline = Timeline()
        self._feed: Feed | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._early: list[Callable[[float], None]] = []
        """What came while the files were being opened."""
        self._lines = bytearray()
        self._last_seq = 0
        """Of the last event in `_lines`."""
        self._busy: asyncio.Future[Saved] | None = None
        self._busy_since_s = 0.0
        self._account_s = 0.0
        self._behind_s: float | None = None
        """When events are fetched again, after the disk did not take them or too many waited."""
        self._dropped_ms = 0
        self._closed: tuple[int, str] | None = None
        """When and why the conversation ended, in Unix microseconds."""
        self._is_final = False
        self._sent: tuple[int, Chunk | None] = (0, None)
        """What the work under way writes: up to which event, and which sound."""
        self._opening = self._loop.create_task(self._open())

    @property
    def is_over(self) -> bool:
        """Nothing more is to be done for it."""
        return self.is_written or self.is_removed

    # --- beginning ----------------------------------------------------------------------------

    async def _open(self) -> None:
        while True:
            try:
                found = await self._loop.run_in_executor(self._disk, self._files.open)
                break
            except OSError as error:
                self.trouble = f"cannot open {self._files.folder}: {error.strerror or error}"
                await asyncio.sleep(AGAIN_S)
        self.trouble = None
        self._found(found)
        early, self._early = self._early, []
        for act in early:
            act(self._loop.time())

    def _found(self, found: Found) -> None:
        if found.account is not None:
            self._account = found.account
            if found.account.ended_at_us is not None:
                self.is_written = True
                return
            # The clock of the wall is all that two processes share; it never goes back here.
            away_s = (self._now_us - found.account.began_at_us) / 1e6
            at_s = max(away_s, found.frames / (found.rate_hz or 1))
            self._zero_s -= at_s
            self._timeline = Timeline(
                rate_hz=found.rate_hz, first=found.frames, known=found.account.under_way
            )
            self._back_s = self._loop.time() - self._zero_s
            log.info("recording.continued", session_id=self.session_id, after_seq=found.last_seq)
        else:
            log.info("recording.begun", session_id=self.session_id)
        self._account.events = self._last_seq = found.last_seq
        self._follow(catch_up=found.account is not None)

    def _back(self, until_s: float | None = None) -> None:
        """It goes on: nothing is known of the time from the end of the file until now."""
        if self._back_s is not None:
            at_s = self._back_s if until_s is None else min(self._back_s, until_s)
            self._back_s = None
            self._timeline.skip_to(at_s, "the recorder was away")

    def _follow(self, *, catch_up: bool = True) -> None:
        """Every event from the first that is not in the file."""
        if self._feed is not None:
            self._feed.close()
        self._feed = Feed(
            self.session_id,
            partial(self._replay, self.session_id),
            deliver=self._deliver,
            ended=self._ended,
            gone=self._gone,
            from_seq=self._last_seq + 1,
        )
        if self._catching_up is not None:
            self._catching_up.cancel()
        if catch_up:
            self._catching_up = self._loop.create_task(self._catch_up(self._feed))

    async def _catch_up(self, feed: Feed) -> None:
        """An ended session has no head that would bring its last events: ask."""
        first: int | None = self._last_seq + 1
        while first is not None:
            try:
                page = await self._replay(self.session_id, first, None, PAGE)
            except CommandRefused as error:
                if error.code == "no_such_session":
                    self._ended(error)
                    return
                await asyncio.sleep(AGAIN_S)
                if error.code == "gone" and not feed.inc:
                    self._ended(error)  # nor is there anybody who says how far it went
                if error.code == "gone":
                    return  # the feed's own replay says which
            except ClientError:
                await asyncio.sleep(AGAIN_S)
            else:
                for raw in page.events:
                    feed.receive(bytes(raw))
                first = page.next
        if self._closed is None:
            self._back()

    # --- what comes ---------------------------------------------------------------------------

    def event(self, raw: bytes, now_s: float) -> None:
        """A frame of the event lane."""
        if self._feed is not None:
            self._feed.receive(raw)
        # Else it is fetched: the first thing after the opening is to ask from where the file ends.

    def head(self, head: int, inc: str) -> None:
        """So far go its events, says that incarnation of its session process."""
        if self._feed is not None:
            self._feed.hear(head, inc)

    def caller(self, header: CallerAudio, samples: bytes, now_s: float) -> None:
        """A piece of the caller's sound."""
        if not self._opening.done():
            self._wait(lambda at_s: self.caller(header, samples, now_s))
        elif self._takes_sound(now_s):
            at_s = now_s - self._zero_s
            self._timeline.spoken(samples, header.format, header.inc, header.seq, at_s)

    def assistant(self, frames: list[bytes], now_s: float) -> None:
        """A piece of the assistant's sound, an end or a flush."""
        if not self._opening.done():
            self._wait(lambda at_s: self.assistant(frames, now_s))
        elif self._takes_sound(now_s):
            try:
                piece = decode(frames)
            except BadMessage as error:
                log.warning("sound.dropped", session_id=self.session_id, why=str(error))
                return
            if piece is not None:
                self._timeline.came(piece, now_s - self._zero_s)

    def late(self, since_s: float, now_s: float) -> None:
        """The recorder stood still."""
        if not self._opening.done() or self.is_over:
            return
        since_s, now_s = since_s - self._zero_s, now_s - self._zero_s
        self._timeline.late(since_s, now_s)
        accounts.stalled(self._account, max(0, int(since_s * 1000)), int(now_s * 1000))

    def advance(self, now_s: float) -> None:
        """Time went by."""
        if self._opening.done() and not self._is_final and self._back_s is None:
            self._timeline.advance(now_s - self._zero_s)

    def _wait(self, act: Callable[[float], None]) -> None:
        if len(self._early) < 5_000:
            self._early.append(act)

    def _takes_sound(self, now_s: float) -> bool:
        if self._is_final or self.is_over or self._account.limit is not None:
            return False
        if now_s - self._zero_s > self._max_s:
            self._account.limit = f"{self._max_s / 3600:g} hours (max_hours)"
            log.warning("recording.cut", session_id=self.session_id, limit=self._account.limit)
            return False
        self._back()
        return True

    def _deliver(self, event: Event) -> None:
        self._lines += event.as_json()
        self._lines += b"\n"
        self._last_seq = event.seq or self._last_seq
        now_s = self._loop.time() - self._zero_s
        match event.data:
            case events.Interrupted(responses=responses):
                self._timeline.stopped(responses, now_s)
            case events.AssistantAudioDone(item_id=item_id, content_index=index):
                self._timeline.item_done(item_id, index, now_s)
            case events.AssistantTurnCompleted(turn_id=turn_id):
                self._timeline.turn_done(turn_id, now_s)
            case events.AssistantHeard() as heard:
                self._timeline.heard(
                    heard.item_id, heard.content_index, heard.heard_ms, complete=heard.complete
                )
            case events.SessionClosed(reason=reason):
                self._closed = (event.at_us, reason)
            case _:
                pass
        if len(self._lines) > PENDING_BYTES:
            self._pause()

    def _gone(self, stretch: gaps.Missing) -> None:
        line = {
            "kind": "gone",
            "session_id": self.session_id,
            "from": stretch.first,
            "to": stretch.last,
        }
        self._lines += encode(line) + b"\n"
        self._last_seq = stretch.last
        gone = (stretch.first, stretch.last)
        if gone not in self._account.events_gone:  # told again where the disk refused the line
            self._account.events_gone.append(gone)

    def _ended(self, why: Exception | None) -> None:
        if why is not None and self._closed is None:
            log.warning("recording.vanished", session_id=self.session_id, why=str(why))
            now_us = self._account.began_at_us + int((self._loop.time() - self._zero_s) * 1e6)
            self._closed = (now_us, "vanished")

    # --- writing ------------------------------------------------------------------------------

    def save(self, now_s: float) -> None:
        """Hand what is due to the disk, unless it is still at the last."""
        if not self._opening.done() or self.is_over:
            return
        if self._behind_s is not None and now_s >= self._behind_s and self._busy is None:
            self._behind_s = None
            self._follow()
        if self._busy is not None:
            if self._timeline.held_s > PENDING_S:
                self._drop(now_s)
            return
        self._busy = self._write(now_s, is_last=self._closed is not None)
        self._busy_since_s = now_s
        self._busy.add_done_callback(self._written)

    def _write(
        self, now_s: float, *, is_last: bool = False, all_of_it: bool = False
    ) -> asyncio.Future[Saved]:
        at_s = min(now_s - self._zero_s, self._max_s)
        if self._closed is not None and self._back_s is not None:
            at_s = min(at_s, (self._closed[0] - self._account.began_at_us) / 1e6)
            self._back(at_s)
        self._is_final = self._is_final or is_last
        chunk = None
        if self._back_s is None:
            chunk = self._timeline.settled(at_s, all_of_it=is_last or all_of_it)
        mutes, self._timeline.mutes = self._timeline.mutes, []
        lines, self._lines = bytes(self._lines), bytearray()
        self._take_gaps()
        account = self._account
        account.rate_hz = self._timeline.rate_hz
        if chunk is not None and account.rate_hz:
            account.seconds = round((chunk.first + len(chunk.stereo) // 4) / account.rate_hz, 3)
        self._sent = (self._last_seq, chunk)
        text = None
        if is_last or mutes or now_s - self._account_s >= ACCOUNT_S:
            self._account_s = now_s
            account.under_way = {} if is_last else self._timeline.unheard_ms()
            text = accounts.written(account)
        work = partial(self._files.save, account.rate_hz, chunk, mutes, lines, text)
        return self._loop.run_in_executor(self._disk, work)

    def _written(self, saved: "asyncio.Future[Saved]") -> None:
        self._busy = None
        if saved.cancelled():
            return
        seq, chunk = self._sent
        result = saved.result()
        self.trouble = result.why
        if result.is_removed:
            self._remove()
            return
        if not result.sound and chunk is not None:
            self._missed(chunk.first, len(chunk.stereo) // 4)
        if result.events:
            self._account.events = max(self._account.events, seq)
        else:
            self._fall_behind()
        if self._is_final and result.events and self._closed is not None and not self._lines:
            self._finish()

    def _remove(self) -> None:
        """Whoever takes a recording away wants it gone: it is not begun again."""
        log.warning(
            "recording.removed",
            session_id=self.session_id,
            folder=str(self._files.folder),
            why="its files were deleted or moved; the rest of the conversation is not written down",
        )
        self.is_removed = True
        self._let_go()

    def _let_go(self) -> None:
        if self._feed is not None:
            self._feed.close()
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._loop.run_in_executor(self._disk, self._files.close)

    def _finish(self) -> None:
        """Everything but the last word is there."""
        assert self._closed is not None
        accounts.end(self._account, *self._closed)
        text = accounts.written(self._account)
        work = partial(self._files.save, None, None, [], b"", text)
        last = self._loop.run_in_executor(self._disk, work)

        def done(saved: "asyncio.Future[Saved]") -> None:
            if saved.cancelled():
                return
            result = saved.result()
            self.trouble = result.why
            if result.is_removed:
                self._remove()
            elif self.trouble is None:
                gaps = len(self._account.gaps)
                log.info("recording.ended", session_id=self.session_id, gaps=gaps)
                self._let_go()
                self.is_written = True

        last.add_done_callback(done)

    def _drop(self, now_s: float) -> None:
        """The disk takes nothing: what is settled is lost, so that the memory is not."""
        chunk = self._timeline.settled(now_s - self._zero_s)
        if chunk is not None:
            self._missed(chunk.first, len(chunk.stereo) // 4)

    def _missed(self, first: int, count: int) -> None:
        rate = self._timeline.rate_hz or 1
        begin_ms, end_ms = first * 1000 // rate, (first + count) * 1000 // rate
        self._dropped_ms += end_ms - begin_ms
        accounts.note(self._account, Gap("both", begin_ms, end_ms, "the disk did not take it"))

    def _fall_behind(self) -> None:
        """What the disk refused is fetched again later: its owner keeps it. Until then it counts
        neither as written nor as the end."""
        self._lines.clear()
        self._last_seq = self._account.events
        self._closed = None
        self._pause()

    def _pause(self) -> None:
        """Take no more events for a while: they are numbered and kept by their owner."""
        if self._feed is not None:
            self._feed.close()
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._behind_s = self._loop.time() + AGAIN_S

    def _take_gaps(self) -> None:
        found, self._timeline.gaps = self._timeline.gaps, []
        for gap in found:
            accounts.note(self._account, gap)

    def waited_s(self, now_s: float) -> float:
        """For how long the disk has been at the work under way."""
        return 0.0 if self._busy is None else now_s - self._busy_since_s

    def take_dropped_ms(self) -> int:
        """Sound that the disk did not take, since the last time."""
        dropped, self._dropped_ms = self._dropped_ms, 0
        return dropped

    async def leave(self, now_s: float) -> None:
        """This recorder stops; the next one continues it."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        if self._feed is not None:
            self._feed.close()
        if not self._opening.done():
            self._opening.cancel()
            return
        if self._busy is not None:
            await asyncio.wait([self._busy])
        if not self.is_over:
            self._account_s = 0.0
            await self._write(now_s, all_of_it=True)
