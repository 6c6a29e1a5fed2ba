"""Turns "how much like speech is this frame" into where speech begins and ends."""

from dataclasses import dataclass, field

FRAME_MS = 32
CONFIRMING_FRAMES = 3
"""So many frames in a row must be speech, or a click would interrupt the assistant."""
HYSTERESIS = 0.15


@dataclass(frozen=True, slots=True)
class Began:
    """Speech began here on the stream clock."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Speech is over; the silence that proves it is included."""

    at_ms: int


@dataclass(slots=True)
class Gate:
    """Watches frames of 32 ms. Pure: the same frames give the same marks."""

    from_ms: int
    """Where the stream clock stands before the first frame."""
    threshold: float = 0.5
    silence_ms: int = 500
    _frames: int = 0
    _speech_run: int = 0
    _silent_ms: int = 0
    _is_speech: bool = field(default=False)

    def watch(self, likeness: float) -> Began | Ended | None:
        """The next frame, 0 is no speech and 1 is speech."""
        self._frames += 1
        now_ms = self.from_ms + self._frames * FRAME_MS
        if not self._is_speech:
            self._speech_run = self._speech_run + 1 if likeness >= self.threshold else 0
            if self._speech_run < CONFIRMING_FRAMES:
                return None
            self._is_speech = True
            self._silent_ms = 0
            return Began(now_ms - self._speech_run * FRAME_MS)
        if likeness >= max(0.01, self.threshold - HYSTERESIS):
            self._silent_ms = 0
            return None
        self._silent_ms += FRAME_MS
        if self._silent_ms < self.silence_ms:
            return None
        self._is_speech = False
        self._speech_run = 0
        return Ended(now_ms)
