"""The assistant's sound on its way out: numbered, held until somebody listens, flushed."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from voicebus.bus.messages.base import encode
from voicebus.bus.messages.sound import (
    BYTES_PER_SAMPLE,
    RATE_HZ,
    AssistantAudioDelta,
    AudioEnd,
    AudioFlush,
    AudioFormat,
)
from voicebus.services.transport.media.pieces import SoundDelta, SoundDone

K = TypeVar("K")
V = TypeVar("V")

FLUSHED_KEPT = 256
"""Flushed responses remembered per session."""
TRACKS_KEPT = 64
HELD_PIECES = 4096
STILL_HEARD_S = 2.0
"""Players lag behind: a response counts as audible this long after it should have ended."""


class Publish(NamedTuple):
    """Frames for `audio/<session>/out`."""

    header: bytes
    payload: bytes | None = None


class Passed(NamedTuple):
    """What became of a piece of sound."""

    samples: int
    """0: less than a sample; its byte waits for the rest."""
    is_published: bool
    """False after a flush of its response. Held sound counts as published."""
    dropped_ms: float
    """Older held sound that had to give way."""
    out: list[Publish]


class _Track:
    """One item's sound."""

    __slots__ = ("carry", "is_open", "samples", "turn_id")

    def __init__(self, turn_id: str) -> None:
        self.turn_id = turn_id
        self.samples = 0
        self.carry = b""
        self.is_open = True


class _Held(NamedTuple):
    """A piece, or with `sound` None the end of an item."""

    turn_id: str
    item_id: str
    content_index: int
    offset: int
    sound: bytes | None


class Playout:
    """The state of one session's sound out. Pure: time comes in, frames go out."""

    def __init__(self, session_id: str, inc: str, hold_s: float) -> None:
        self._session_id = session_id
        self._inc = inc
        self._hold_s = hold_s
        self._seq = 0
        self._format: AudioFormat = "pcm16"
        self._width = 2
        self._rate_hz = 24_000
        self._is_headless = False
        self._tracks: dict[tuple[str, int], _Track] = {}
        self._flushed: dict[str, None] = {}
        self._ends: dict[str, float] = {}
        """Response -> when a player that keeps pace has played what came so far."""
        self._playing_until_s = 0.0
        self._held: deque[_Held] = deque()
        self._held_samples = 0

    @property
    def is_holding(self) -> bool:
        """Whether sound waits for a listener."""
        return bool(self._held)

    def configure(self, format: AudioFormat, *, headless: bool) -> None:
        """For a new connection: its format, and whether sound waits for listeners at all."""
        self._format = format
        self._width = BYTES_PER_SAMPLE[format]
        self._rate_hz = RATE_HZ[format]
        self._is_headless = headless

    def delta(self, piece: SoundDelta, *, listened: bool, now_s: float) -> Passed:
        """A piece of sound has come."""
        track = self._track(piece)
        sound = track.carry + piece.sound if track.carry else piece.sound
        odd = len(sound) % self._width
        if odd:
            sound, track.carry = sound[:-odd], sound[-odd:]
        else:
            track.carry = b""
        samples = len(sound) // self._width
        offset = track.samples
        track.samples += samples
        track.is_open = True
        if piece.turn_id in self._flushed:
            return Passed(samples, False, 0.0, [])
        if not samples:
            return Passed(0, True, 0.0, [])
        self._playing_until_s = max(self._playing_until_s, now_s) + samples / self._rate_hz
        self._ends[piece.turn_id] = self._playing_until_s
        _forget_oldest(self._ends, TRACKS_KEPT)
        held = _Held(piece.turn_id, piece.item_id, piece.content_index, offset, sound)
        if listened or self._is_headless:
            return Passed(samples, True, 0.0, [*self.release(), self._publish(held)])
        self._held.append(held)
        self._held_samples += samples
        return Passed(samples, True, self._trim(), [])

    def done(self, piece: SoundDone, *, listened: bool) -> list[Publish]:
        """The item's sound is complete. Nothing when there was none, or it was flushed."""
        track = self._tracks.get((piece.item_id, piece.content_index))
        if track is None or not track.is_open:
            return []
        track.is_open = False
        track.carry = b""
        if track.turn_id in self._flushed:
            return []
        end = _Held(track.turn_id, piece.item_id, piece.content_index, track.samples, None)
        if listened or self._is_headless:
            return [*self.release(), self._publish(end)]
        self._held.append(end)
        self._trim()
        return []

    def release(self) -> list[Publish]:
        """Somebody listens: what was held, in order."""
        if not self._held:
            return []
        out = [self._publish(held) for held in self._held]
        self._held.clear()
        self._held_samples = 0
        return out

    def audible(self, now_s: float) -> list[str]:
        """Responses that somebody may be hearing now, as far as can be told from here."""
        unfinished = {track.turn_id for track in self._tracks.values() if track.is_open}
        return [
            turn_id
            for turn_id, end_s in self._ends.items()
            if turn_id not in self._flushed
            and (turn_id in unfinished or end_s + STILL_HEARD_S > now_s)
        ]

    def flush(self, responses: Iterable[str], why: str) -> list[Publish]:
        """From now on no sound of these. Those flushed before are not told again."""
        fresh = [one for one in dict.fromkeys(responses) if one not in self._flushed]
        if not fresh:
            return []
        self._flushed.update(dict.fromkeys(fresh))
        _forget_oldest(self._flushed, FLUSHED_KEPT)
        for one in fresh:
            self._ends.pop(one, None)
        self._playing_until_s = 0.0
        kept = [held for held in self._held if held.turn_id not in fresh]
        self._held = deque(kept)
        self._held_samples = sum(len(held.sound or b"") for held in kept) // self._width
        self._seq += 1
        header = AudioFlush(
            session_id=self._session_id, inc=self._inc, seq=self._seq, responses=fresh, why=why
        )
        return [Publish(encode(header))]

    def _track(self, piece: SoundDelta) -> _Track:
        key = (piece.item_id, piece.content_index)
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = _Track(piece.turn_id)
            _forget_oldest(self._tracks, TRACKS_KEPT)
        return track

    def _trim(self) -> float:
        """Cut the oldest of what is held down to the bound; returns milliseconds dropped."""
        excess = self._held_samples - int(self._hold_s * self._rate_hz)
        dropped = 0
        while excess > dropped or len(self._held) > HELD_PIECES:
            first = self._held.popleft()
            samples = len(first.sound or b"") // self._width
            cut = min(samples, excess - dropped) if excess > dropped else samples
            if first.sound is not None and cut < samples:
                rest = first.sound[cut * self._width :]
                self._held.appendleft(first._replace(offset=first.offset + cut, sound=rest))
            dropped += cut
        self._held_samples -= dropped
        return dropped * 1000 / self._rate_hz

    def _publish(self, held: _Held) -> Publish:
        self._seq += 1
        if held.sound is None:
            end = AudioEnd(
                session_id=self._session_id,
                inc=self._inc,
                seq=self._seq,
                turn_id=held.turn_id,
                item_id=held.item_id,
                content_index=held.content_index,
                samples=held.offset,
            )
            return Publish(encode(end))
        delta = AssistantAudioDelta(
            session_id=self._session_id,
            inc=self._inc,
            seq=self._seq,
            turn_id=held.turn_id,
            item_id=held.item_id,
            content_index=held.content_index,
            format=self._format,
            offset_samples=held.offset,
        )
        return Publish(encode(delta), held.sound)


def _forget_oldest(of: dict[K, V], keep: int) -> None:
    while len(of) > keep:
        del of[next(iter(of))]
