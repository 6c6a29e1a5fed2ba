"""The assistant's voice: flite in a process of its own, resampled to the wire's rate."""

import asyncio
import contextlib
import os
import re
import tempfile
import unicodedata
import wave
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator

import numpy as np
import soxr

from voicebus.services.simulator import sounds
from voicebus.services.simulator.packages import VOICE_PROGRAM, SpeechMissing

KEPT_SENTENCES = 256
AT_ONCE = 2
"""Sentences that are spoken into files at the same time."""
PAUSE_MS = 150
"""Silence after a sentence."""
GIVE_UP_S = 30.0


class FliteVoice:
    """Speaks English. Sentences it has said before come from memory."""

    def __init__(self, name: str = "kal16") -> None:
        self._name = name
        self._said: OrderedDict[tuple[str, str, float], bytes] = OrderedDict()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def speak(
        self, text: str, audio_type: str, speed: float
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Sentence by sentence; while one is sent, the next is already being spoken.

        Raises `SpeechMissing` if flite cannot be run.
        """
        sentences = _sentences(text)
        coming: asyncio.Task[bytes] | None = None
        try:
            for n, sentence in enumerate(sentences):
                sound = await (coming or self._spoken(sentence, audio_type, speed))
                coming = None
                if n + 1 < len(sentences):
                    coming = asyncio.create_task(self._spoken(sentences[n + 1], audio_type, speed))
                yield sentence, sound
        finally:
            if coming is not None:
                coming.cancel()

    async def _spoken(self, sentence: str, audio_type: str, speed: float) -> bytes:
        key = (sentence, audio_type, speed)
        if key in self._said:
            self._said.move_to_end(key)
            return self._said[key]
        async with self._room:
            rate_hz, pcm = await self._flite(sentence, speed)
        sound = _on_the_wire(pcm, rate_hz, audio_type)
        self._said[key] = sound
        while len(self._said) > KEPT_SENTENCES:
            self._said.popitem(last=False)
        return sound

    async def _flite(self, sentence: str, speed: float) -> tuple[int, bytes]:
        # Flite seeks in its output, so that a pipe would not do.
        handle, path = tempfile.mkstemp(prefix="voicebus-", suffix=".wav")
        os.close(handle)
        try:
            try:
                process = await asyncio.create_subprocess_exec(
                    VOICE_PROGRAM,
                    *("-voice", self._name),
                    *("--setf", f"duration_stretch={1 / speed:.3f}"),
                    *("-t", _ascii(sentence)),
                    *("-o", path),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                )
            except FileNotFoundError:
                raise SpeechMissing(
                    f"the program {VOICE_PROGRAM} is not there: apt-get install {VOICE_PROGRAM}"
                ) from None
            try:
                _, complaint = await asyncio.wait_for(process.communicate(), GIVE_UP_S)
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
            if process.returncode:
                raise SpeechMissing(
                    f"{VOICE_PROGRAM} ended with {process.returncode}: "
                    f"{complaint.decode(errors='replace').strip()[:200]}"
                )
            with wave.open(path) as spoken:
                return spoken.getframerate(), spoken.readframes(spoken.getnframes())
        finally:
            os.unlink(path)


def _sentences(text: str) -> list[str]:
    found = [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
    pieces: list[str] = []
    for sentence in found or ["Hm."]:
        words = sentence.split()
        # A very long sentence would let the caller wait; commas do not help with lists of numbers.
        pieces += [" ".join(words[n : n + 30]) for n in range(0, len(words), 30)]
    return pieces


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return plain.strip() or "Hm."


def _on_the_wire(pcm: bytes, rate_hz: int, audio_type: str) -> bytes:
    wanted_hz = sounds.rate_hz(audio_type)
    resampled = soxr.resample(np.frombuffer(pcm, dtype="<i2"), rate_hz, wanted_hz)
    spoken = array("h", resampled.astype(np.int16).tobytes())
    spoken.extend(array("h", bytes(2 * PAUSE_MS * wanted_hz // 1000)))
    return sounds.encoded(spoken, audio_type)
