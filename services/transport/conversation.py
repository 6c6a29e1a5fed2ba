"""The state of one session in the media plane: orders come in, deeds go out. Pure.

             Dial               opened               HangUp, overflow
    idle ───────────▶ dialing ───────────▶ open ───────────────────────▶ closing
      ▲                  │                   │                             │
      └──────────────────┴───────────────────┴─────────────────────────────┘
                              closed (told up once per generation)

A Dial of a newer generation closes what is there, whatever its state.
"""

import enum
from collections import deque
from typing import NamedTuple, TypeVar, assert_never

from voicebus.bus.messages.base import encode
from voicebus.bus.messages.link import (
    ALIVE_EVERY_S,
    Dial,
    Event,
    Flush,
    Flushed,
    FrameSent,
    GrantToken,
    HangUp,
    Numbered,
    ProviderClosed,
    ProviderFrame,
    ProviderOpened,
    ReleaseSound,
    SendFrame,
    SoundHeldDropped,
    SoundPassed,
    TalkerAlive,
)
from voicebus.bus.messages.sound import CallerAudio, SoundIn
from voicebus.services.transport.caller import KEPT_S, Caller, Refused, Taken
from voicebus.services.transport.drops import Drops
from voicebus.services.transport.media.pieces import (
    InputCommitted,
    Malformed,
    SoundDelta,
    SoundDone,
    SpeechStarted,
)
from voicebus.services.transport.moment import Moment
from voicebus.services.transport.outbox import Outbox, Write
from voicebus.services.transport.playout import Passed, Playout, Publish
from voicebus.services.transport.ring import Ring

TELL_SOUND_S = 0.2
"""Pieces of one item are told together, so often at most: a decision needs no more, and an event
per 20 ms frame cost more than the sound itself."""
HANG_UP_BY_S = 2.0
"""A provider that takes no frames is hung up without having got them."""
NORMAL_CLOSE = 1000
ABNORMAL_CLOSE = 1006
SPEECHES = 16
"""Beginnings of speech that are known again, as far as their items have names of a sane length."""
LONGEST_ID = 128
SPEECH = "the provider heard the caller speak"

E = TypeVar("E", bound=Event)


class OpenSocket(NamedTuple):
    """Dial the provider."""

    order: Dial


class CloseSocket(NamedTuple):
    """Close the provider's socket of this generation, or stop dialling."""

    generation: int


class Count(NamedTuple):
    """Something to be seen in the counters."""

    what: str
    by: int = 1


class Record(NamedTuple):
    """The caller's sound, for recorders."""

    header: bytes
    payload: bytes


Effect = OpenSocket | CloseSocket | Count | Publish | Record


class Arrival(enum.Enum):
    """How a numbered order stands to those before it."""

    NEXT = "next"
    REPEATED = "repeats"
    GAP = "gaps"


def arrive(n: int, down_n: int) -> Arrival:
    """Whether order `n` is the next after `down_n`. A gap is never skipped."""
    if n <= down_n:
        return Arrival.REPEATED
    return Arrival.NEXT if n == down_n + 1 else Arrival.GAP


class Line(enum.Enum):
    """The provider's socket."""

    IDLE = "idle"
    DIALING = "dialing"
    OPEN = "open"
    CLOSING = "closing"


class _Untold(NamedTuple):
    """Sound that has passed and was not yet told."""

    piece: SoundDelta
    samples: int
    is_published: bool


class Limits(NamedTuple):
    """The bounds of a conversation."""

    hold_s: float
    max_sound_frame_bytes: int
    outbox_bytes: int


class Conversation:
    """One session in the media plane. Events are appended to its ring; the rest is returned."""

    def __init__(
        self,
        session_id: str,
        inc: str,
        ring: Ring,
        limits: Limits,
        down_n: int = 0,
        generation: int = 0,
    ) -> None:
        self.session_id = session_id
        self.ring = ring
        self.down_n = down_n
        """The last order carried out or refused."""
        self.generation = generation
        self.line = Line.IDLE
        self.is_hung_up = False
        self.caller = Caller(session_id, limits.hold_s, limits.max_sound_frame_bytes)
        self.outbox = Outbox(self.caller)
        self.playout = Playout(session_id, inc, limits.hold_s)
        self._limits = limits
        self._inc = inc
        self._recorded = 0
        self._flush_on_speech = False
        self._speeches: deque[str] = deque(maxlen=SPEECHES)
        self._events_lost = False
        self._hung_up_by_us = False
        self._hang_up_by_s: float | None = None
        self._why_closing: str | None = None
        self._alive_told_s: float | None = None
        self._untold: _Untold | None = None
        self._sound_told_s = 0.0
        self._sound_told_of: tuple[str, int] | None = None
        self._dropped_in = Drops()
        self._dropped_out = Drops()

    # --- orders of the session ------------------------------------------------------------

    def order(self, order: Numbered, payload: bytes | None, now: Moment) -> list[Effect]:
        """Carry out the next order, or refuse it; either way it is handled."""
        self.down_n = order.n
        match order:
            case GrantToken():
                # Tokens are the session's, not the connection's: any generation.
                self.caller.grant(order.token, may_talk=order.talk)
                self.caller.performed(order.token, order.commanded_n)
                self.is_hung_up = False
                return []
            case Dial():
                return self._dial(order, now)
            case HangUp():
                return self._hang_up(order, now)
            case SendFrame() if order.generation != self.generation:
                return self._refuse(order, "other_generation")
            case ReleaseSound() if order.generation != self.generation:
                return [Count("refused_other_generation")]
            case ReleaseSound():
                self._flush_on_speech = order.flush_on_speech
                self.caller.release(keep=order.keep_input)
                return self._tell_drops(now, at_once=True)
            case SendFrame():
                return self._send(order, payload, now)
            case _:
                return [Count("refused_unknown_order")]

    def flush(self, order: Flush, now: Moment) -> list[Effect]:
        """Never publish sound of these responses again."""
        flushed = [*self.playout.flush(order.responses, order.why)]
        # The session is about to say what was heard: never more than it knows was published.
        return [*flushed, *self._tell_sound(now)]

    def _dial(self, order: Dial, now: Moment) -> list[Effect]:
        if order.generation <= self.generation:
            return [Count("refused_other_generation")]
        effects: list[Effect] = []
        if self.line is not Line.IDLE:
            effects.append(CloseSocket(self.generation))
            self._hung_up_by_us = True
            effects += self._over(
                now, code=NORMAL_CLOSE, reason=f"generation {order.generation} takes over"
            )
        self.generation = order.generation
        self.line = Line.DIALING
        self.is_hung_up = False
        self._hung_up_by_us = False
        self._hang_up_by_s = None
        self._why_closing = None
        self._events_lost = False
        self._flush_on_speech = order.flush_on_speech
        lost_ms = self.caller.configure(order.input_format)
        if lost_ms:
            why = f"of a turn that changes its connection only {KEPT_S:g} s are kept"
            self._dropped_in.add(lost_ms, why)
            effects += [Count("sound_in_drops"), *self._tell_drops(now)]
        self.playout.configure(order.output_format, headless=order.headless)
        effects.append(OpenSocket(order))
        return effects

    def _send(self, order: SendFrame, payload: bytes | None, now: Moment) -> list[Effect]:
        if payload is None:
            return self._refuse(order, "without_payload")
        if self.line not in (Line.DIALING, Line.OPEN):
            return self._refuse(order, "no_connection")
        self.outbox.send(
            order.n,
            payload,
            now.s,
            token=order.token,
            after_n=order.after_n,
            tell=order.tell,
            ends_input=order.ends_input,
        )
        if self.outbox.bytes > self._limits.outbox_bytes:
            # It takes nothing any more; what is queued would come too late for anybody.
            why = f"the provider has not taken {self._limits.outbox_bytes} bytes of frames"
            return [Count("outbox_overflows"), *self._give_up(why)]
        return []

    def _refuse(self, order: SendFrame, why: str) -> list[Effect]:
        self.outbox.refused(order.token, order.after_n, order.ends_input)
        return [Count(f"refused_{why}")]

    def _hang_up(self, order: HangUp, now: Moment) -> list[Effect]:
        if order.generation < self.generation:
            return [Count("refused_other_generation")]
        if self.line is Line.OPEN:
            self.outbox.hang_up(order.n, now.s, token=order.token, after_n=order.after_n)
            self._hang_up_by_s = now.s + HANG_UP_BY_S
            return []
        return self.hang_up()

    def hang_up(self) -> list[Effect]:
        """Close the socket now and forget the tokens."""
        self.is_hung_up = True
        self.caller.forget()
        self._hang_up_by_s = None
        if self.line in (Line.IDLE, Line.CLOSING):
            return []
        self.line = Line.CLOSING
        self._hung_up_by_us = True
        return [CloseSocket(self.generation)]

    def _give_up(self, why: str) -> list[Effect]:
        """Close a connection that cannot be kept."""
        self.line = Line.CLOSING
        self._why_closing = why
        return [CloseSocket(self.generation)]

    # --- the provider's socket ------------------------------------------------------------

    def opened(self, now: Moment) -> list[Effect]:
        """The socket of the current generation is open."""
        if self.line is Line.DIALING:
            self.line = Line.OPEN
        return self._up(ProviderOpened, now)

    def frame(self, payload: bytes, now: Moment) -> list[Effect]:
        """A frame that holds nothing for the media plane."""
        return self._up(ProviderFrame, now, payload=payload)

    def marked(
        self,
        piece: SoundDone | SpeechStarted | InputCommitted | Malformed,
        payload: bytes,
        now: Moment,
        *,
        listened: bool,
    ) -> list[Effect]:
        """A frame that means something to the media plane, too; `payload` is the whole of it."""
        match piece:
            case SoundDone():
                return [*self.playout.done(piece, listened=listened), *self.frame(payload, now)]
            case SpeechStarted():
                return [*self._spoken_over(piece, now), *self.frame(payload, now)]
            case InputCommitted():
                told = self.frame(payload, now)
                if not self._events_lost:  # else the session will not know, and commit it again
                    self.caller.committed()
                return told
            case Malformed():
                return [Count("provider_sound_malformed"), *self.frame(payload, now)]
            case _:
                assert_never(piece)

    def closed(
        self,
        now: Moment,
        *,
        code: int | None,
        http_status: int | None,
        reason: str,
        error: str | None = None,
    ) -> list[Effect]:
        """The socket of the current generation is closed, or could not be opened."""
        if self.line is Line.IDLE:
            return []
        if self._why_closing is not None and code == NORMAL_CLOSE:
            code = ABNORMAL_CLOSE  # in order, but nothing is over: another one is to be dialled
        return self._over(
            now,
            code=code,
            http_status=http_status,
            reason=self._why_closing or reason,
            error=error,
        )

    def wrote(self, write: Write, now: Moment) -> list[Effect]:
        """A frame of the session's has gone out."""
        if not write.tell:
            return []
        return self._up(FrameSent, now, down_n=write.n, reached=write.reached)

    def sound(self, piece: SoundDelta, now: Moment, *, listened: bool) -> list[Effect]:
        """A piece of the assistant's voice: published or held, and told without its payload."""
        passed = self.playout.delta(piece, listened=listened, now_s=now.s)
        effects: list[Effect] = list(passed.out)
        if passed.samples:
            effects += self._passed(piece, passed, now)
        if passed.dropped_ms:
            self._dropped_out.add(
                passed.dropped_ms, f"nobody listened for {self._limits.hold_s:g} s"
            )
            effects += [Count("sound_out_drops"), *self._tell_drops(now)]
        return effects

    def _passed(self, piece: SoundDelta, passed: Passed, now: Moment) -> list[Effect]:
        """Tell of a piece: the first of an item at once, the others together."""
        effects: list[Effect] = []
        untold = self._untold
        if untold is not None and (
            untold.piece.item_id != piece.item_id
            or untold.piece.content_index != piece.content_index
            or untold.is_published != passed.is_published
        ):
            effects += self._tell_sound(now)
            untold = None
        before = 0 if untold is None else untold.samples
        self._untold = _Untold(piece, before + passed.samples, passed.is_published)
        is_new = self._sound_told_of != (piece.item_id, piece.content_index)
        if is_new or now.s - self._sound_told_s >= TELL_SOUND_S:
            effects += self._tell_sound(now)
        return effects

    def _tell_sound(self, now: Moment) -> list[Effect]:
        """What has passed and was not told: before anything that came after it."""
        untold, self._untold = self._untold, None
        if untold is None:
            return []
        piece = untold.piece
        self._sound_told_s = now.s
        self._sound_told_of = (piece.item_id, piece.content_index)
        return self._up(
            SoundPassed,
            now,
            turn_id=piece.turn_id,
            item_id=piece.item_id,
            content_index=piece.content_index,
            samples=untold.samples,
            published=untold.is_published,
        )

    def _spoken_over(self, speech: SpeechStarted, now: Moment) -> list[Effect]:
        """Silence at once. What is told again of a speech may have been answered already: that is
        for the session to decide."""
        is_again = speech.item_id in self._speeches
        if 0 < len(speech.item_id) <= LONGEST_ID:
            self._speeches.append(speech.item_id)
        if is_again or not self._flush_on_speech:
            return []
        responses = self.playout.audible(now.s)
        if not responses:
            return []
        published = self.playout.flush(responses, SPEECH)
        return [*published, Count("own_flushes"), *self._up(Flushed, now, responses=responses)]

    def _over(
        self,
        now: Moment,
        *,
        code: int | None,
        reason: str,
        http_status: int | None = None,
        error: str | None = None,
    ) -> list[Effect]:
        told = self._tell_sound(now)
        unsent = self.outbox.clear()
        self.caller.is_released = False
        self.line = Line.IDLE
        closed = ProviderClosed(
            session_id=self.session_id,
            n=self.ring.last_n + 1,
            generation=self.generation,
            at_us=now.us,
            code=code,
            http_status=http_status,
            reason=reason,
            events_lost=self._events_lost,
            by_us=self._hung_up_by_us,
            error=error,
        )
        # Beyond the ring's bound as well: that it is over must be known.
        self.ring.append([encode(closed)])
        return [*told, Count("frames_unsent_at_close", unsent)] if unsent else told

    # --- the caller's sound ---------------------------------------------------------------

    def speak(
        self, header: SoundIn, samples: bytes, now: Moment, *, is_recorded: bool = False
    ) -> Refused | list[Effect]:
        """A frame of the caller's."""
        taken = self.caller.take(
            header.token, header.n, samples, now_s=now.s, follows=header.follows_command
        )
        if isinstance(taken, Refused):
            return taken
        if not taken.is_new:
            return [Count("sound_in_repeats")]
        effects = self._losses(taken, now)
        if is_recorded:
            effects.append(Record(self._record(header), samples))
        if self._alive_told_s is None or now.s - self._alive_told_s >= ALIVE_EVERY_S:
            self._alive_told_s = now.s
            effects += self._up(TalkerAlive, now)
        return effects

    def _record(self, header: SoundIn) -> bytes:
        """The header under which this sound of the caller's is published for recorders."""
        self._recorded += 1
        return encode(
            CallerAudio(
                session_id=self.session_id,
                inc=self._inc,
                seq=self._recorded,
                n=header.n,
                format=self.caller.format,
            )
        )

    def _losses(self, taken: Taken, now: Moment) -> list[Effect]:
        effects: list[Effect] = []
        if taken.missing:
            effects.append(Count("sound_in_missing", taken.missing))
        if taken.dropped_ms:
            why = (
                "the provider's connection takes sound too slowly"
                if self.caller.is_released
                else f"the configuration was not confirmed for {self._limits.hold_s:g} s"
            )
            self._dropped_in.add(taken.dropped_ms, why)
            effects += [Count("sound_in_drops"), *self._tell_drops(now)]
        return effects

    # --- listeners and time ---------------------------------------------------------------

    def listened(self, now: Moment) -> list[Effect]:
        """Somebody subscribed to the assistant's sound."""
        out: list[Effect] = [*self.playout.release()]
        return [*out, *self._tell_drops(now, at_once=True)] if out else []

    def tick(self, now: Moment) -> list[Effect]:
        """Once a second: tell what passed and what was dropped; hang up where the provider takes
        nothing."""
        effects = [*self._tell_sound(now), *self._tell_drops(now)]
        if self._hang_up_by_s is not None and now.s >= self._hang_up_by_s:
            effects += self.hang_up()
        return effects

    def _tell_drops(self, now: Moment, *, at_once: bool = False) -> list[Effect]:
        effects: list[Effect] = []
        for drops, direction in ((self._dropped_in, "in"), (self._dropped_out, "out")):
            told_ms = drops.due_ms(now.s, at_once=at_once)
            if told_ms:
                effects += self._up(
                    SoundHeldDropped, now, dropped_ms=told_ms, direction=direction, why=drops.why
                )
        return effects

    # --- events ---------------------------------------------------------------------------

    def _up(
        self, kind: type[E], now: Moment, *, payload: bytes | None = None, **fields: object
    ) -> list[Effect]:
        """Number an event and keep it; at the ring's bound the connection is given up."""
        before = self._tell_sound(now) if self._untold is not None else []
        return [*before, *self._number(kind, now, payload=payload, **fields)]

    def _number(
        self, kind: type[E], now: Moment, *, payload: bytes | None = None, **fields: object
    ) -> list[Effect]:
        if self._events_lost:
            return [Count("events_lost")]
        if self.ring.is_full():
            self._events_lost = True
            if self.line is Line.IDLE:
                return [Count("events_lost")]
            why = f"the session process has left {self.ring.bytes} bytes of events unacknowledged"
            return [Count("events_lost"), Count("ring_overflows"), *self._give_up(why)]
        event = kind(
            session_id=self.session_id,
            n=self.ring.last_n + 1,
            generation=self.generation,
            at_us=now.us,
            **fields,
        )
        header = encode(event)
        self.ring.append([header] if payload is None else [header, payload])
        return []
