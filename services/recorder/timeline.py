"""Where in a recording each piece of sound belongs: plain arithmetic, time is handed in. Pure.

Time is in seconds since the recording's beginning, on the recorder's own clock, and a piece of
sound belongs to the time at which it came, as follows.

**The caller, left.** A piece that comes at T and lasts d was spoken from T - d to T and is laid
there. It never overlaps what was laid before: a piece that comes early follows the one before it
without a pause, and so does one that is late by no more than `JITTER_S`. A file that was sent at
once is laid from when it came, at the speed of speech.

**The assistant, right.** Generated sound comes faster than it is heard, so it goes through the
player of the SDK: it begins when the first piece comes, runs at the speed of time, waits when
nothing is there, and stops at a flush. What was flushed before its time came is not in the
recording. `assistant_heard` then says what the caller's own player had played at an interruption:
what this one had played beyond that is silenced again. What it had not come to yet is laid at once,
as it is when an answer was heard to its end.

**A recorder that stood still** reads what came meanwhile at once and does not know when each piece
came: speech follows what was laid before, the player goes on from where it was, and an answer that
began meanwhile is laid as if it had come at the speed of speech.

    left    ....caller.....................caller............
    right   ...............assistant.assist|
                                           flush

The last `HOLD_S` seconds stay here: most of what changes is as young as that. What is older goes to
the file, where it can still be silenced.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from voicebus.bus.messages.sound import BYTES_PER_SAMPLE, RATE_HZ, AudioFormat
from voicebus.client.g711 import to_pcm16
from voicebus.client.player import Key, Player
from voicebus.client.sound import Heard, Sound, SoundEnd, SoundFlush
from voicebus.services.recorder import wav

HOLD_S = 0.5
JITTER_S = 0.2
"""Pieces of speech come as unevenly as this without a pause between them being meant."""
NEAR_S = 0.01
"""What the player plays is laid without a seam if it is no further off than this."""
GRACE_S = 1.0
"""Sound may come so long after the event that says it is complete; the two travel apart."""
BACKLOG_S = 0.2
"""What came while the recorder stood still is read within that time."""
AHEAD_S = 60.0
"""So much speech of the caller's that was sent faster than it was spoken is kept."""
WAITING_BYTES = 16 * 1024 * 1024
"""So much of the assistant's sound may wait to be heard: almost six minutes of pcm16."""
HOLE_S = 10.0
"""A hole in an item's sound that is larger than that is no hole but nonsense."""
ESTIMATE_MS = 400
"""A player elsewhere, or an estimate, may say that it played so much more than came here."""
REST_S = 5.0
"""The caller's own player may be so far ahead of this one."""
RESTS = 8
"""Items of which it is not yet known how much the caller heard."""
PLACES = 256
FIRST_S = 2.0
"""The first piece of sound may have begun so long ago."""

Channel = Literal["caller", "assistant", "both"]


class Gap(NamedTuple):
    """Sound that is missing: silence stands in its place."""

    channel: Channel
    from_ms: int
    to_ms: int
    why: str


class Mute(NamedTuple):
    """Silence on the right, in what the file already holds: frames from and to."""

    first: int
    end: int


class Chunk(NamedTuple):
    """Both channels, interleaved; `first` is the number of its first frame."""

    first: int
    stereo: bytes


class _Place(NamedTuple):
    """Where a stretch of an item was laid."""

    first: int
    offset: int
    """Within the item, in frames of the recording's rate."""
    frames: int


@dataclass
class _Item:
    """What of an item has been laid."""

    turn_id: str
    format: AudioFormat
    base: int
    """The samples before the first that came."""
    received: int = 0
    played: int = 0
    places: deque[_Place] | None = None


class Timeline:
    """Feed it what comes, with the time; take what is settled."""

    def __init__(
        self, *, rate_hz: int | None = None, first: int = 0, known: Mapping[str, int] | None = None
    ) -> None:
        """The rate is that of the first sound. For a recording that is continued: `first` frames
        are in the file already, and `known` is what `unheard_ms` said last."""
        self._known = dict(known or {})
        self._resumed_ms = 0
        self._away_ms = 0
        self.rate_hz = rate_hz
        self.gaps: list[Gap] = []
        """New ones; the owner takes them out."""
        self.mutes: list[Mute] = []
        """As gaps."""
        self._first = first
        """The number of the first frame that is still here."""
        self._left, self._right = bytearray(), bytearray()
        self._caller_end = first
        self._assistant_end = first
        self._player = Player()
        self._player_at_s = 0.0
        self._items: dict[Key, _Item] = {}
        self._waiting_bytes = 0
        self._rests: dict[Key, bytes] = {}
        """What the last interruptions left unheard here, and a player elsewhere may have played."""
        self._overflown: set[Key] = set()
        self._later: deque[tuple[float, str, Key | None]] = deque()
        self._caller_seq: tuple[str, int] | None = None
        self._late: tuple[float, float] | None = None
        self._waits_until_s: float | None = None
        self._backlog: list[Heard] = []

    # --- the caller ---------------------------------------------------------------------------

    def spoken(self, samples: bytes, format: AudioFormat, inc: str, seq: int, now_s: float) -> None:
        """A piece of the caller's, as it came. A repeated one changes nothing."""
        lost = 0
        if self._caller_seq is not None and self._caller_seq[0] == inc:
            lost = seq - self._caller_seq[1] - 1
            if lost < 0:
                return
        self._caller_seq = (inc, seq)
        rate = self._rate(format, now_s)
        pcm = wav.at_rate(to_pcm16(samples, format), RATE_HZ[format], rate)
        count = len(pcm) // 2
        came_s = now_s
        if self._late is not None:
            since_s, until_s = self._late
            if now_s <= until_s:
                came_s = since_s  # or later: it was under way while nobody looked
            else:
                self._late = None
        first = int(came_s * rate) - count
        if lost:
            # Theirs was the time until this one, at least as much as they lasted.
            first = max(first, self._caller_end + lost * count)
            self._gap("caller", self._caller_end, first, "lost on the way")
        elif first - self._caller_end <= JITTER_S * rate:
            first = self._caller_end
        first = max(first, self._caller_end, self._first)
        if first + count > (now_s + AHEAD_S) * rate:
            self._gap("caller", first, first + count, "more than a minute ahead of its time")
            return
        self._lay(self._left, first, pcm)
        self._caller_end = first + count

    # --- the assistant ------------------------------------------------------------------------

    def came(self, piece: Heard, now_s: float) -> None:
        """Sound, an end or a flush on the assistant's lane."""
        self.advance(now_s)
        if self._waits_until_s is not None and not isinstance(piece, SoundFlush):
            self._backlog.append(piece)
            return
        self._take(piece, now_s)

    def _take(self, piece: Heard, now_s: float) -> None:
        match piece:
            case Sound():
                self._receive(piece, now_s)
            case SoundEnd():
                self._play(self._player.end((piece.item_id, piece.content_index), now_s).played)
            case SoundFlush():
                self.stopped(piece.responses, now_s)

    def stopped(self, responses: Iterable[str], now_s: float) -> None:
        """Players stop these; also what `interrupted` says, should the flush have been lost."""
        self._waits_until_s = self._waits_until_s and now_s  # `heard` says when it came itself
        self.advance(now_s)
        stopped = set(responses)
        # The event and the flush say the same: the second finds nothing, and forgets nothing. And
        # what was heard of one may be told after the next was stopped, too.
        self._rests |= self._unheard(stopped)
        while len(self._rests) > RESTS:
            del self._rests[next(iter(self._rests))]
        self._player.flush(stopped, now_s)
        for item in self._items.values():
            if item.turn_id in stopped:
                self._waiting_bytes -= _bytes(item, item.received - item.played)
                item.received = item.played

    def item_done(self, item_id: str, content_index: int, now_s: float) -> None:
        """The session says that an item's sound is complete."""
        self._later.append((now_s + GRACE_S, "", (item_id, content_index)))

    def turn_done(self, turn_id: str, now_s: float) -> None:
        """The session says that a response is complete."""
        self._later.append((now_s + GRACE_S, turn_id, None))

    def heard(self, item_id: str, content_index: int, heard_ms: int, *, complete: bool) -> None:
        """What the caller heard of an item, as the session decided."""
        key = (item_id, content_index)
        item = self._items.get(key)
        if item is None or self.rate_hz is None:
            self._heard_before(f"{item_id} {content_index}", heard_ms)
            return
        limit = heard_ms * self.rate_hz // 1000
        for place in item.places or ():
            beyond = place.offset + place.frames - limit
            if beyond > 0 and not complete:
                count = min(beyond, place.frames)
                self._silence(place.first + place.frames - count, place.first + place.frames)
        rest = self._rests.pop(key, b"")
        if complete:
            count = self._go_on(item, self._player.waiting(key), item.received)
            self._player.skip(key, count)
            self._waiting_bytes -= _bytes(item, count)
        else:
            self._go_on(item, rest, heard_ms * RATE_HZ[item.format] // 1000 - item.base)
            item.received = max(item.received, item.played)
        there = item.base + (item.received if complete else item.played)
        short_ms = heard_ms - there * 1000 // RATE_HZ[item.format]
        if short_ms > ESTIMATE_MS:
            end = self._assistant_end
            self._gap("assistant", end, end + short_ms * self.rate_hz // 1000, "never came")
        if key not in self._overflown and not self._player.knows(key):
            del self._items[key]

    # --- time ---------------------------------------------------------------------------------

    def late(self, since_s: float, now_s: float) -> None:
        """The recorder itself stood still: what comes right now came at some time since then."""
        self._late = (since_s, now_s + BACKLOG_S)
        # The player goes on from where it was, with what came meanwhile.
        self._waits_until_s = now_s + BACKLOG_S

    def advance(self, now_s: float) -> None:
        """Time went by. Call it often: several times a second."""
        if self._waits_until_s is not None:
            if now_s < self._waits_until_s:
                return
            self._waits_until_s = None
            self._take_backlog(now_s)
        while self._later and self._later[0][0] <= now_s:
            at_s, turn_id, key = self._later.popleft()
            at_s = max(at_s, self._player_at_s)
            self._play(self._player.advance(at_s).played)
            self._player_at_s = at_s
            step = self._player.end_turn(turn_id, at_s) if key is None else None
            if key is not None:
                step = self._player.end(key, at_s)
            self._play(step.played if step else ())
        self._play(self._player.advance(now_s).played)
        self._player_at_s = max(now_s, self._player_at_s)

    def settled(self, now_s: float, *, all_of_it: bool = False) -> Chunk | None:
        """What will not change any more, since the last time; None if that is nothing."""
        if all_of_it:
            self._waits_until_s = self._waits_until_s and now_s
        self.advance(now_s)
        if self.rate_hz is None or self._waits_until_s is not None:
            return None
        end = int((now_s if all_of_it else now_s - HOLD_S) * self.rate_hz)
        if all_of_it:
            end = max(end, self._caller_end, self._assistant_end)
        count = end - self._first
        if count <= 0:
            return None
        chunk = Chunk(
            self._first, wav.interleaved(_cut(self._left, count), _cut(self._right, count))
        )
        self._first = end
        self._caller_end = max(self._caller_end, end)
        return chunk

    def skip_to(self, now_s: float, why: str) -> None:
        """Nothing is known of the time from the end of the file until now."""
        if self.rate_hz is not None and int(now_s * self.rate_hz) > self._first:
            end = int(now_s * self.rate_hz)
            self._gap("both", self._first, end, why)
            self._resumed_ms = int(now_s * 1000)
            self._away_ms = self._resumed_ms - self._first * 1000 // self.rate_hz
            self._first = self._caller_end = self._assistant_end = end
        self._player_at_s = now_s
        self._player.advance(now_s)

    @property
    def held_s(self) -> float:
        """How much is here, laid and not settled."""
        return max(len(self._left), len(self._right)) / 2 / (self.rate_hz or 1)

    def unheard_ms(self) -> dict[str, int]:
        """Items that are under way: how much of each was laid."""
        return {
            f"{item_id} {index}": item.played * 1000 // RATE_HZ[item.format]
            for (item_id, index), item in self._items.items()
        }

    def _heard_before(self, key: str, heard_ms: int) -> None:
        """An answer that began before the recorder was away: what came meanwhile is not here."""
        laid_ms = self._known.pop(key, None)
        if laid_ms is None:
            return
        since_ms = max(0, self._away_ms - int(HOLD_S * 1000))
        left_ms = heard_ms - laid_ms - since_ms
        if left_ms > ESTIMATE_MS:
            at = self._resumed_ms
            why = "it came while the recorder was away"
            self.gaps.append(Gap("assistant", at, at + left_ms, why))

    def _take_backlog(self, now_s: float) -> None:
        """What came while nobody looked: an answer that had begun goes on, a new one began when it
        must have, had it come at the speed of speech; a faster one when nobody looked any more."""
        backlog, self._backlog = self._backlog, []
        if self._player.is_idle:
            pieces = [one for one in backlog if isinstance(one, Sound)]
            turn_id = pieces[0].turn_id if pieces else ""
            lasts_s = sum(
                one.count / RATE_HZ[one.format] for one in pieces if one.turn_id == turn_id
            )
            self._player_at_s = max(self._player_at_s, now_s - lasts_s)
            self._player.advance(self._player_at_s)
        for one in backlog:
            self._take(one, self._player_at_s)

    # --- inside -------------------------------------------------------------------------------

    def _rate(self, format: AudioFormat, now_s: float) -> int:
        if self.rate_hz is None:
            self.rate_hz = RATE_HZ[format]
            # The silence before the first sound is a hole in the file, however long it was.
            self._first = max(0, int((now_s - FIRST_S) * self.rate_hz))
            self._caller_end = self._assistant_end = self._first
        return self.rate_hz

    def _receive(self, piece: Sound, now_s: float) -> None:
        if self._player.has_flushed(piece.turn_id):
            return  # the event that stopped it was read before what was on its way
        self._rate(piece.format, now_s)
        key = (piece.item_id, piece.content_index)
        item = self._items.get(key)
        if item is None:
            base = piece.offset_samples
            item = _Item(piece.turn_id, piece.format, base, places=deque(maxlen=PLACES))
            self._items[key] = item
            while len(self._items) > PLACES:
                self._forget_one()
            if base:
                begin = int(now_s * (self.rate_hz or 1))
                self._gap(
                    "assistant",
                    begin,
                    begin + base * (self.rate_hz or 1) // RATE_HZ[piece.format],
                    "the beginning of an answer came before the recorder listened",
                )
        hole = piece.offset_samples - item.base - item.received
        if key in self._overflown:
            return
        too_much = self._waiting_bytes + len(piece.samples) > WAITING_BYTES
        if too_much or hole > HOLE_S * RATE_HZ[piece.format] or hole < -item.received:
            self._overflown.add(key)
            begin = max(self._assistant_end, int(now_s * (self.rate_hz or 1)))
            why = "more than fits waited to be heard" if too_much else "a piece made no sense"
            self._gap("assistant", begin, begin, why)
            return
        if hole > 0:
            at = self._assistant_end + self._frames(item, item.received - item.played)
            self._gap("assistant", at, at + self._frames(item, hole), "lost on the way")
        fresh = piece.count + min(hole, 0)
        if fresh > 0:
            item.received += max(hole, 0) + fresh
            self._waiting_bytes += _bytes(item, max(hole, 0) + fresh)
        shifted = Sound(
            piece.turn_id,
            piece.item_id,
            piece.content_index,
            piece.format,
            piece.offset_samples - item.base,
            piece.samples,
        )
        self._play(self._player.receive(shifted, now_s).played)

    def _play(self, played: Iterable[tuple[str, str, AudioFormat, bytes]]) -> None:
        for turn_id, item_id, format, samples in played:
            rate = self._rate(format, self._player_at_s)
            item = self._playing(turn_id, item_id)
            pcm = wav.at_rate(to_pcm16(samples, format), RATE_HZ[format], rate)
            count = len(pcm) // 2
            first = int(self._player_at_s * rate)
            if first - self._assistant_end <= NEAR_S * rate:
                first = self._assistant_end
            first = max(first, self._first)
            self._lay(self._right, first, pcm)
            self._assistant_end = first + count
            if item is not None and item.places is not None:
                place = _Place(first, self._frames(item, item.base + item.played), count)
                if item.places and _follows(item.places[-1], place):
                    place = _joined(item.places.pop(), place)
                item.places.append(place)
                samples_played = len(samples) // BYTES_PER_SAMPLE[format]
                item.played += samples_played
                self._waiting_bytes -= _bytes(item, samples_played)

    def _unheard(self, turn_ids: set[str]) -> dict[Key, bytes]:
        """What waits of these responses, the first seconds of each item."""
        found: dict[Key, bytes] = {}
        for key, item in self._items.items():
            most = _bytes(item, int(REST_S * RATE_HZ[item.format]))
            rest = self._player.waiting(key)[:most] if item.turn_id in turn_ids else b""
            if rest:
                found[key] = rest
        return found

    def _go_on(self, item: _Item, rest: bytes, heard: int) -> int:
        """The caller's own player was ahead of this one: what it had played besides is laid, too,
        unless another answer stands there by now. Returns the samples."""
        rate, from_hz = self.rate_hz or 1, RATE_HZ[item.format]
        last = item.places[-1] if item.places else None
        if last is not None and last.first + last.frames != self._assistant_end:
            return 0
        now = int(self._player_at_s * rate)
        first = max(self._assistant_end, self._first, 0 if last else now)
        room = (now - first) * from_hz // rate + int(REST_S * from_hz)
        count = max(0, min(heard - item.played, len(rest) // BYTES_PER_SAMPLE[item.format], room))
        if count:
            pcm = wav.at_rate(to_pcm16(rest[: _bytes(item, count)], item.format), from_hz, rate)
            self._lay(self._right, first, pcm)
            item.played += count
            self._assistant_end = first + len(pcm) // 2
        return count

    def _playing(self, turn_id: str, item_id: str) -> _Item | None:
        """The first content of that item that has not been played to its end."""
        for (name, _), item in self._items.items():
            if name == item_id and item.turn_id == turn_id and item.played < item.received:
                return item
        return None

    def _frames(self, item: _Item, samples: int) -> int:
        return samples * (self.rate_hz or 1) // RATE_HZ[item.format]

    def _forget_one(self) -> None:
        key = next(iter(self._items))
        item = self._items.pop(key)
        self._overflown.discard(key)
        self._waiting_bytes -= _bytes(item, item.received - item.played)

    def _lay(self, channel: bytearray, first: int, pcm: bytes) -> None:
        begin = 2 * (first - self._first)
        if len(channel) < begin:
            channel += bytes(begin - len(channel))
        channel[begin : begin + len(pcm)] = pcm

    def _silence(self, first: int, end: int) -> None:
        if first < self._first:
            self.mutes.append(Mute(first, min(end, self._first)))
        begin, stop = 2 * max(0, first - self._first), 2 * max(0, end - self._first)
        stop = min(stop, len(self._right))
        if stop > begin:
            self._right[begin:stop] = bytes(stop - begin)

    def _gap(self, channel: Channel, first: int, end: int, why: str) -> None:
        rate = self.rate_hz or 1
        self.gaps.append(Gap(channel, first * 1000 // rate, end * 1000 // rate, why))


def _bytes(item: _Item, samples: int) -> int:
    return samples * BYTES_PER_SAMPLE[item.format]


def _cut(channel: bytearray, count: int) -> bytes:
    """The first frames, taken out; silence where there is none."""
    taken = bytes(channel[: 2 * count])
    del channel[: 2 * count]
    return taken + bytes(2 * count - len(taken))


def _follows(before: _Place, after: _Place) -> bool:
    return (
        before.first + before.frames == after.first
        and before.offset + before.frames == after.offset
    )


def _joined(before: _Place, after: _Place) -> _Place:
    return _Place(before.first, before.offset, before.frames + after.frames)
