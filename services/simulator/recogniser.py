"""Speech to text in a child process, since the decoder holds the interpreter while it works.

On its standard input come sounds, each a 4-byte length and 16 kHz PCM16; on its standard output
goes a JSON line for each: `{"words": "..."}`. It ends when its input ends.
"""

import asyncio
import json
import signal
import struct
import sys
from difflib import SequenceMatcher
from typing import Any, BinaryIO

from voicebus.services.simulator import sounds
from voicebus.services.simulator.grammar import jsgf

RATE_HZ = 16000
EDGE_MS = 150
"""Silence put around a sound: the decoder loses first words without it."""
LONGEST_S = 60
SILENT = 100
"""No sample of silence is louder."""
_LENGTH = struct.Struct("<I")


class Recogniser:
    """Finds words in sound, one sound at a time; the child is started when first needed."""

    def __init__(self) -> None:
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._asked: set[asyncio.Task[str]] = set()

    async def start(self) -> None:
        """Start the child now, so that the first question need not wait for its model."""
        async with self._turn:
            await self._running()

    async def words(self, pcm: bytes) -> str:
        """The words in 16 kHz PCM16; "" for none. Raises RuntimeError if the child dies twice."""
        # A caller who goes away must not take the answer's place in the pipe with it.
        asked = asyncio.create_task(self._words(pcm[: LONGEST_S * RATE_HZ * 2]))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return await asyncio.shield(asked)

    async def _words(self, pcm: bytes) -> str:
        async with self._turn:
            for _ in range(2):
                child = await self._running()
                assert child.stdin is not None
                assert child.stdout is not None
                try:
                    child.stdin.write(_LENGTH.pack(len(pcm)) + pcm)
                    await child.stdin.drain()
                    line = await child.stdout.readline()
                except ConnectionError:
                    line = b""
                if line:
                    return str(json.loads(line)["words"])
                await child.wait()
                self._child = None
        raise RuntimeError("the recogniser ended; is pocketsphinx installed?")

    async def close(self) -> None:
        """End the child."""
        for asked in self._asked:
            asked.cancel()
        child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            child.stdin.close()
            if child.returncode is None:
                child.kill()
            await child.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", __name__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        return self._child


class Decoder:
    """The decoder itself: a grammar of what is expected, and a language model of all English."""

    def __init__(self) -> None:
        self._expected = _decoder(lm=None)
        self._expected.add_jsgf_string("requests", jsgf())
        self._expected.activate_search("requests")
        # Narrow beams: half the time of the full search, and good enough to compare with.
        self._quick = _decoder(fwdflat=False, bestpath=False, beam=1e-40, wbeam=1e-25, pbeam=1e-40)
        self._full: Any = None

    def words(self, pcm: bytes) -> str:
        """The words in 16 kHz PCM16; "" for none.

        The grammar always finds something; `is_expected` tells whether it was really said. If not,
        the full search of the language model has the word.
        """
        if sounds.loudness(sounds.samples(pcm, sounds.PCM)) < SILENT:
            return ""  # The decoder hears an "ah" in it.
        edge = bytes(2 * EDGE_MS * RATE_HZ // 1000)
        pcm = edge + pcm + edge
        expected, score = _search(self._expected, pcm)
        free, free_score = _search(self._quick, pcm)
        if expected and is_expected(score - free_score, likeness(expected, free)):
            # A breath at the end is sometimes taken for the beginning of a second request.
            return expected.removesuffix(" then").removesuffix(" and")
        if not free:
            return ""
        if self._full is None:
            self._full = _decoder()
        return _search(self._full, pcm)[0]


def is_expected(margin: float, alike: float) -> bool:
    """True if what the grammar found is what was said.

    The margin is by how much the grammar explains the sound better than the language model, in the
    decoder's score per 10 ms, times 1000. Measured with three voices: requests of the grammar have
    0.2 to 1.1, rarely less, and then nearly the same words; other sentences have -1.0 to 0.3.
    """
    return margin >= 0.4 or (margin >= 0.15 and alike >= 0.5) or (margin >= -0.5 and alike >= 0.6)


def likeness(one: str, other: str) -> float:
    """How many words two sentences share, 0 to 1."""
    return SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio()


def _decoder(**options: Any) -> Any:
    import pocketsphinx  # noqa: PLC0415 - only the child has it

    return pocketsphinx.Decoder(samprate=RATE_HZ, loglevel="FATAL", **options)


def _search(decoder: Any, pcm: bytes) -> tuple[str, float]:
    """The words and their score."""
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    if found is None:
        return "", -9.0
    frames = len(pcm) / (2 * RATE_HZ / 100)
    return found.hypstr.strip(), 1000 * found.best_score / frames


def _serve(questions: BinaryIO, answers: BinaryIO) -> None:
    decoder = Decoder()
    while len(header := questions.read(_LENGTH.size)) == _LENGTH.size:
        pcm = questions.read(_LENGTH.unpack(header)[0])
        answers.write(json.dumps({"words": decoder.words(pcm)}).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(sys.stdin.buffer, sys.stdout.buffer)
