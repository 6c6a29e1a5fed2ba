"""What waits for a caller: bounded, and each kind with its own answer to a full queue. Pure.

flushes and replies   first of all; more than a caller can have asked for: too slow
events                never dropped: a caller that lets too much wait comes back and replays
sound                 the oldest is dropped, and the caller told how much
"""

from collections import deque
from collections.abc import Collection

from voicebus.bus.messages.sound import milliseconds
from voicebus.client.sound import Heard, Sound, SoundEnd, SoundFlush
from voicebus.services.gateway import protocol

URGENT = 1000
TEXT_BYTES = 16 * 1024 * 1024
"""Of replies and events together: a single one may be large."""


class Outbox:
    """Frames for one caller, in the order in which they are to go."""

    def __init__(self, *, sound_bytes: int, events: int) -> None:
        self._sound_limit = sound_bytes
        self._event_limit = events
        self._urgent: deque[str | bytes] = deque()
        self._events: deque[str] = deque()
        self._text_bytes = 0
        self._sound: deque[Sound | SoundEnd] = deque()
        self._sound_bytes = 0
        self._dropped_ms = 0
        self._sound_is_next = False
        self.is_too_slow = False
        """More waits than may wait, of what cannot be dropped."""

    def __len__(self) -> int:
        return len(self._urgent) + len(self._events) + len(self._sound)

    def say(self, text: str) -> None:
        """A reply, an error, a notice."""
        if len(self._urgent) >= URGENT or not self._has_room(text):
            self.is_too_slow = True
        else:
            self._urgent.append(text)

    def event(self, text: str) -> None:
        """An event."""
        if len(self._events) >= self._event_limit or not self._has_room(text):
            self.is_too_slow = True
        else:
            self._events.append(text)

    def hear(self, heard: Heard) -> int:
        """Sound, an end or a flush. How many milliseconds had to be dropped for it."""
        if isinstance(heard, SoundFlush):
            self._forget(heard.responses)
            self._urgent.append(protocol.sound(heard.header))
            return 0
        self._sound.append(heard)
        self._sound_bytes += _size(heard)
        dropped_ms = 0
        while self._sound_bytes > self._sound_limit:
            dropped_ms += self._drop_oldest()
        self._dropped_ms += dropped_ms
        return dropped_ms

    def take(self) -> str | bytes | None:
        """The next frame; None when there is nothing to say."""
        if self._urgent:
            return self._taken(self._urgent.popleft())
        if self._dropped_ms:
            told, self._dropped_ms = self._dropped_ms, 0
            why = f"more than {self._sound_limit} bytes of sound waited for you: read faster"
            return protocol.audio_dropped("out", told, why)
        # In turn: neither a long answer nor a long replay holds the other up.
        self._sound_is_next = not self._sound_is_next
        if self._sound and (self._sound_is_next or not self._events):
            piece = self._sound.popleft()
            self._sound_bytes -= _size(piece)
            return protocol.sound(piece.header, _samples(piece))
        return self._taken(self._events.popleft()) if self._events else None

    def _has_room(self, text: str) -> bool:
        if self._text_bytes and self._text_bytes + len(text) > TEXT_BYTES:
            return False
        self._text_bytes += len(text)
        return True

    def _taken(self, frame: str | bytes) -> str | bytes:
        if isinstance(frame, str):
            self._text_bytes -= len(frame)
        return frame

    def _forget(self, responses: Collection[str]) -> None:
        self._sound = deque(one for one in self._sound if one.turn_id not in responses)
        self._sound_bytes = sum(map(_size, self._sound))

    def _drop_oldest(self) -> int:
        """Ends stay: they say how long the item would have been."""
        for at, one in enumerate(self._sound):
            if isinstance(one, Sound):
                del self._sound[at]
                self._sound_bytes -= _size(one)
                return milliseconds(one.count, one.format)
        self._sound_bytes = 0
        return 0


def _samples(piece: Sound | SoundEnd) -> bytes:
    return piece.samples if isinstance(piece, Sound) else b""


def _size(piece: Sound | SoundEnd) -> int:
    return len(_samples(piece))
