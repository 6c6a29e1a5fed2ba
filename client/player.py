"""What a caller has heard: a player's clock as pure arithmetic.

Sound comes faster than it is heard. The player queues it by item, in order, plays at the speed of
time, waits when there is nothing, and stops at a flush. Time is handed in; nothing is read here.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from voicebus.bus.messages.commands import ReportPlayback
from voicebus.bus.messages.sound import BYTES_PER_SAMPLE, RATE_HZ, AudioFormat, milliseconds
from voicebus.client.sound import Sound

REPORT_S = 0.25
FINISHED_KEPT = 1000
_SILENCE: dict[str, bytes] = {"pcm16": b"\0\0", "g711_ulaw": b"\xff", "g711_alaw": b"\xd5"}

Key = tuple[str, int]
"""Item id and content index."""


class Played(NamedTuple):
    """A stretch of sound that has just been heard."""

    turn_id: str
    item_id: str
    format: AudioFormat
    samples: bytes


@dataclass(frozen=True)
class Step:
    """What a moment brought: sound heard, and reports to send."""

    played: tuple[Played, ...] = ()
    reports: tuple[ReportPlayback, ...] = ()


@dataclass
class _Track:
    """One item's sound, as far as it has come."""

    key: Key
    turn_id: str
    format: AudioFormat
    waiting: bytearray = field(default_factory=bytearray)
    received: int = 0
    """Samples, holes included."""
    played: int = 0
    is_complete: bool = False
    """Nothing more comes."""


class Player:
    """Feed it what comes, with the time; it says what was heard and what to report."""

    def __init__(self) -> None:
        self._queue: deque[_Track] = deque()
        self._now = 0.0
        self._carry = 0.0
        """Part of a sample that time has already paid for."""
        self._report_at = 0.0
        self._flushed: deque[str] = deque(maxlen=FINISHED_KEPT)
        self._finished: deque[Key] = deque(maxlen=FINISHED_KEPT)
        self.missing_samples = 0
        """Holes in the sound that came: played as silence."""

    @property
    def is_idle(self) -> bool:
        """Nothing is playing and nothing waits."""
        return not self._queue

    def knows(self, key: Key) -> bool:
        """Whether some of this item waits or plays."""
        return any(track.key == key for track in self._queue)

    def has_finished(self, key: Key) -> bool:
        """Whether this item was heard to its end, or stopped: what comes of it now is ignored."""
        return key in self._finished

    def waiting(self, key: Key) -> bytes:
        """What of this item has come and was not heard yet."""
        return b"".join(bytes(track.waiting) for track in self._queue if track.key == key)

    def has_flushed(self, turn_id: str) -> bool:
        """Whether that response was stopped: what comes of it now is ignored."""
        return turn_id in self._flushed

    def skip(self, key: Key, samples: int) -> None:
        """So much of what waits of it was heard elsewhere."""
        for track in self._queue:
            if track.key == key:
                del track.waiting[: samples * BYTES_PER_SAMPLE[track.format]]
                track.played += samples

    def deadline(self) -> float | None:
        """When `advance` has something to tell, if nothing else comes."""
        if not self._queue:
            return None
        track = self._queue[0]
        rest = track.received - track.played
        ends = self._now + (rest - self._carry) / RATE_HZ[track.format]
        if track.is_complete:
            return min(ends, self._report_at)
        return self._report_at if rest else None

    def receive(self, sound: Sound, now: float) -> Step:
        """A piece came. Sound of flushed responses and finished items is ignored."""
        step = self.advance(now)
        key = (sound.item_id, sound.content_index)
        if sound.turn_id in self._flushed or self.has_finished(key):
            return step
        track = self._track(key, sound, now)
        width, silence = BYTES_PER_SAMPLE[sound.format], _SILENCE[sound.format]
        hole = sound.offset_samples - track.received
        if hole > 0:
            self.missing_samples += hole
            track.waiting += silence * hole
            track.received += hole
        fresh = sound.samples[-hole * width :] if hole < 0 else sound.samples
        track.waiting += fresh
        track.received += len(fresh) // width
        return step

    def end(self, key: Key, now: float) -> Step:
        """The item is complete."""
        step = self.advance(now)
        for track in self._queue:
            track.is_complete = track.is_complete or track.key == key
        return _both(step, self.advance(now))

    def end_turn(self, turn_id: str, now: float) -> Step:
        """Nothing more of this response comes, whether or not each item's end was told."""
        step = self.advance(now)
        for track in self._queue:
            track.is_complete = track.is_complete or track.turn_id == turn_id
        return _both(step, self.advance(now))

    def flush(self, responses: Iterable[str], now: float) -> Step:
        """Stop these responses, at once and for good."""
        step = self.advance(now)
        stopped = [one for one in responses if one not in self._flushed]
        self._flushed.extend(stopped)
        gone = [track for track in self._queue if track.turn_id in stopped]
        if not gone:
            return step
        if self._queue[0] in gone:
            self._carry = 0.0
        self._queue = deque(track for track in self._queue if track not in gone)
        self._finished.extend(track.key for track in gone)
        self._report_at = now + REPORT_S
        return _both(step, Step(reports=tuple(_report(track, "stopped") for track in gone)))

    def advance(self, now: float) -> Step:
        """Time went by."""
        passed = max(now - self._now, 0.0)
        self._now = max(now, self._now)
        played: list[Played] = []
        reports: list[ReportPlayback] = []
        while self._queue:
            track = self._queue[0]
            rate = RATE_HZ[track.format]
            due = passed * rate + self._carry
            # Seconds as floats are a hair short now and then: 0.1 s are 2400 samples, not 2399.
            count = min(int(due + 1e-6), track.received - track.played)
            if count:
                played.append(_play(track, count))
            left = track.received - track.played
            if left:
                self._carry = due - count
                break
            self._carry = 0.0
            if not track.is_complete:
                break  # waiting for sound: the clock stands still
            passed = (due - count) / rate
            self._queue.popleft()
            self._finished.append(track.key)
            reports.append(_report(track, "done"))
            self._report_at = now + REPORT_S
        if self._queue and now >= self._report_at:
            if played:
                reports.append(_report(self._queue[0], "playing"))
            self._report_at = now + REPORT_S
        return Step(tuple(played), tuple(reports))

    def _track(self, key: Key, sound: Sound, now: float) -> _Track:
        for track in self._queue:
            if track.key == key:
                return track
        for track in self._queue:
            # A response speaks one item after the other: the end of those before was lost.
            track.is_complete = track.is_complete or track.turn_id == sound.turn_id
        if not self._queue:
            self._carry = 0.0
            self._report_at = now + REPORT_S
        track = _Track(key, sound.turn_id, sound.format)
        self._queue.append(track)
        return track


def _play(track: _Track, count: int) -> Played:
    size = count * BYTES_PER_SAMPLE[track.format]
    samples = bytes(track.waiting[:size])
    del track.waiting[:size]
    track.played += count
    return Played(track.turn_id, track.key[0], track.format, samples)


def _report(track: _Track, state: Literal["playing", "stopped", "done"]) -> ReportPlayback:
    return ReportPlayback(
        item_id=track.key[0],
        content_index=track.key[1],
        played_ms=milliseconds(track.played, track.format),
        state=state,
    )


def _both(first: Step, second: Step) -> Step:
    return Step(first.played + second.played, first.reports + second.reports)
