"""The caller's sound on its way in: tokens, numbers, one bounded queue with a gate."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from voicebus.bus.messages.link import EndsInput
from voicebus.bus.messages.sound import BYTES_PER_SAMPLE, RATE_HZ, AudioFormat

QUEUE_FRAMES = 4096
KEPT_S = 30.0
"""So much of what the provider has of an unended turn is kept for the connection after this one."""


class Refused(NamedTuple):
    """A frame that is not taken."""

    reason: str
    """A short name, for counters."""
    text: str
    """Who, what, which limit, what to do."""


class Taken(NamedTuple):
    """What became of a frame that may be sent."""

    is_new: bool
    """False when this number came before: it is not sent again."""
    missing: int
    """Numbers left out before it."""
    dropped_ms: float
    """Older sound that had to give way."""


class Sound(NamedTuple):
    """A frame of the caller's in the queue."""

    token: str
    n: int
    samples: bytes
    waits_until_s: float | None = None
    """So long it waits for the command that was given before it; None: for nothing."""


class _Talker:
    """Who holds a token."""

    __slots__ = ("commanded_n", "last_n", "may_talk", "written_n")

    def __init__(self, may_talk: bool) -> None:
        self.may_talk = may_talk
        self.last_n = 0
        self.written_n = 0
        self.commanded_n = -1
        """The sound before the newest command that was performed."""


class Caller:
    """The state of one session's sound in. Pure.

    Held sound and sound that the provider's socket does not take yet are the same queue: the gate
    is shut until the configuration is confirmed, and the bound is the same.

    Where only commands end turns, the provider's input buffer is all that knows what was said of
    one. It goes with the connection: so what was written is kept until the end of the turn is
    confirmed, and goes out again, before anything newer, on the next one.
    """

    def __init__(self, session_id: str, hold_s: float, limit_bytes: int) -> None:
        self._session_id = session_id
        self._hold_s = hold_s
        self._limit_bytes = limit_bytes
        self._talkers: dict[str, _Talker] = {}
        self._queue: deque[Sound] = deque()
        self._queued_bytes = 0
        self._keeps = False
        self._kept: deque[Sound] = deque()
        """What this connection has of turns whose end it has not confirmed."""
        self._kept_bytes = 0
        self._committed = 0
        """So many of these were written before the newest commit."""
        self._given_way = 0
        """Bytes of these that were too many to be kept."""
        self._again: deque[Sound] = deque()
        """What the connection before had of them, and this one has not yet."""
        self._owed: dict[str, int] = {}
        """By token: sound up to this frame belongs to a commit that will be made again."""
        self._width = 2
        self._bytes_per_s = 48_000
        self.format: AudioFormat = "pcm16"
        self.is_released = False

    def configure(self, format: AudioFormat) -> float:
        """A new connection: its format; the gate shuts until it is confirmed.

        Sound already queued in another format would be noise: it is dropped. Returns how many
        milliseconds of an unended turn went with the connection before.
        """
        width = BYTES_PER_SAMPLE[format]
        bytes_per_s = RATE_HZ[format] * width
        if (width, bytes_per_s) != (self._width, self._bytes_per_s):
            self._clear()
        self._width, self._bytes_per_s, self.format = width, bytes_per_s, format
        self.is_released = False
        return self._begin_again()

    def _begin_again(self) -> float:
        lost = self._given_way
        self._kept.extend(self._again)
        self._again, self._kept = self._kept, deque()
        self._kept_bytes = self._committed = self._given_way = 0
        for sound in self._again:
            talker = self._talkers.get(sound.token)
            if talker is not None:
                talker.written_n = min(talker.written_n, sound.n - 1)
        return lost * 1000 / self._bytes_per_s

    def release(self, *, keep: bool) -> None:
        """The configuration is confirmed: sound goes out. `keep`: only commands end turns."""
        self.is_released = True
        self._keeps = keep
        if not keep:
            self._forget_kept(len(self._kept))

    def grant(self, token: str, *, may_talk: bool) -> None:
        """Who may send. Granted again, only the right changes: the numbers go on."""
        talker = self._talkers.get(token)
        if talker is None:
            self._talkers[token] = _Talker(may_talk)
        else:
            talker.may_talk = may_talk

    def forget(self) -> None:
        """No token is good any more, and nothing of theirs is sent."""
        self._talkers.clear()
        self._clear()
        self.is_released = False

    def take(
        self, token: str, n: int, samples: bytes, *, now_s: float = 0.0, follows: bool = False
    ) -> Taken | Refused:
        """A frame has come. An empty one is counted and not sent.

        One that `follows` a command waits for that, as long as sound is held at all.
        """
        talker = self._talkers.get(token)
        if talker is None:
            return Refused(
                "unknown_token",
                f"session {self._session_id}: this token is unknown or was revoked; "
                "attach again for a new one",
            )
        if not talker.may_talk:
            return Refused(
                "no_right",
                f"session {self._session_id}: this token may listen, not talk; "
                "attach with the right to talk",
            )
        if len(samples) > self._limit_bytes:
            return Refused(
                "too_large",
                f"session {self._session_id}: sound frame {n} has {len(samples)} bytes, "
                f"the limit is {self._limit_bytes}; send 20 to 100 ms at a time",
            )
        if len(samples) % self._width:
            return Refused(
                "odd_length",
                f"session {self._session_id}: sound frame {n} has {len(samples)} bytes; "
                f"pcm16 has {self._width} bytes a sample, so the length must be even",
            )
        if n <= talker.last_n:
            return Taken(False, 0, 0.0)
        missing = n - talker.last_n - 1
        talker.last_n = n
        until_s = now_s + self._hold_s if follows else None
        self._queue.append(Sound(token, n, samples, until_s))
        self._queued_bytes += len(samples)
        return Taken(True, missing, self._trim())

    def next(self, now_s: float) -> Sound | None:
        """The next frame to send; tell `wrote` when it is out."""
        if self.is_released and self._again:
            return self._again.popleft()
        while self.is_released and self._queue and self.waits_until(now_s) is None:
            sound = self._queue.popleft()
            self._queued_bytes -= len(sound.samples)
            if sound.samples:
                return sound
            self.wrote(sound)
        return None

    def waits_until(self, now_s: float) -> float | None:
        """Until when at most the first frame waits for its command; None: it does not."""
        first = self._queue[0] if self._queue else None
        if first is None or first.waits_until_s is None or first.waits_until_s <= now_s:
            return None
        talker = self._talkers.get(first.token)
        if talker is None or talker.commanded_n >= first.n - 1:
            return None
        return first.waits_until_s

    def performed(self, token: str | None, n: int) -> None:
        """What was to be done after that frame of the token (or, without one, of anybody) is."""
        for name, talker in self._talkers.items():
            if token in (None, name):
                talker.commanded_n = max(talker.commanded_n, n)

    def wrote(self, sound: Sound) -> None:
        """The frame has been written to the provider's socket."""
        talker = self._talkers.get(sound.token)
        if talker is not None:
            talker.written_n = sound.n
        if self._keeps and sound.samples:
            self._keep(sound)

    @property
    def has_again(self) -> bool:
        """Whether this connection lacks something that the one before had of an unended turn."""
        return bool(self._again)

    def ends(self, how: EndsInput) -> None:
        """A frame goes out that ends the turn, or takes back what was said of it."""
        self._owed.clear()
        if how == "commit":
            self._committed = len(self._kept)
        else:
            self._keep_only(lambda sound: False)

    def committed(self) -> None:
        """The provider confirms the end of a turn. Of two that are under way this says not which:
        better ask again for one that is gone than say one twice."""
        self._forget_kept(self._committed)

    def owes(self, token: str | None, n: int | None) -> None:
        """A commit went with its connection, and will be made again: sound up to that frame of the
        token (without one, of anybody; without a frame, all that was written) belongs to it."""
        for name, talker in self._talkers.items():
            if token in (None, name):
                last = talker.written_n if n is None else n
                self._owed[name] = max(last, self._owed.get(name, 0))

    def cleared(self, token: str | None, n: int | None) -> None:
        """What was to be cleared went with its connection: sound up to that frame of the token
        (without one, of anybody; without a frame, all that was written) is not wanted any more."""

        def stays(one: Sound) -> bool:
            if one.n <= self._owed.get(one.token, 0):
                return True
            return n is not None and (token not in (None, one.token) or one.n > n)

        self._keep_only(stays)
        self._again = deque(filter(stays, self._again))
        if n is not None:
            self._queue = deque(filter(stays, self._queue))
            self._queued_bytes = sum(len(one.samples) for one in self._queue)

    def has_written(self, token: str | None, n: int) -> bool:
        """Whether that frame of the token (or, without one, of anybody) has gone out."""
        if n == 0:
            return True  # there was none before it
        if token is None:
            return any(talker.written_n >= n for talker in self._talkers.values())
        talker = self._talkers.get(token)
        return talker is not None and talker.written_n >= n

    def _trim(self) -> float:
        limit = int(self._hold_s * self._bytes_per_s)
        dropped = 0
        while self._queue and (
            self._queued_bytes - dropped > limit or len(self._queue) > QUEUE_FRAMES
        ):
            dropped += len(self._queue.popleft().samples)
        self._queued_bytes -= dropped
        return dropped * 1000 / self._bytes_per_s

    def _keep(self, sound: Sound) -> None:
        self._kept.append(sound)
        self._kept_bytes += len(sound.samples)
        limit = int(KEPT_S * self._bytes_per_s)
        while self._kept_bytes > limit or len(self._kept) > QUEUE_FRAMES:
            oldest = len(self._kept.popleft().samples)
            self._kept_bytes -= oldest
            self._given_way += oldest
            self._committed = max(0, self._committed - 1)

    def _keep_only(self, stays: Callable[[Sound], bool]) -> None:
        """Of what was written after the newest commit: what is committed is not taken back."""
        ended, rest = list(self._kept)[: self._committed], list(self._kept)[self._committed :]
        self._kept = deque([*ended, *filter(stays, rest)])
        self._kept_bytes = sum(len(one.samples) for one in self._kept)
        if not ended:
            self._given_way = 0

    def _forget_kept(self, count: int) -> None:
        for _ in range(count):
            self._kept_bytes -= len(self._kept.popleft().samples)
        self._committed = self._given_way = 0

    def _clear(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self._again.clear()
        self._owed.clear()
        self._forget_kept(len(self._kept))
