"""Speech to text in a child process, since the decoder holds the interpreter while it works.

On its standard input come sounds, each a 4-byte length and 16 kHz PCM16; on its standard output
goes a JSON line for each: `{"words": "..."}`. It ends when its input ends.
"""

import asyncio
import json
import os
import signal
import struct
import sys
from typing import Any, BinaryIO

from voicebus.services.simulator.grammar import jsgf

RATE_HZ = 16000
EDGE_MS = 150
"""Silence put around a sound: the decoder loses first words without it."""
LONGEST_S = 60
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
    """The decoder itself: a grammar and a language model, the better of both."""

    def __init__(self) -> None:
        import pocketsphinx  # noqa: PLC0415 - only the child has it

        self._decoder: Any = pocketsphinx.Decoder(samprate=RATE_HZ, loglevel="FATAL")
        self._general = self._decoder.current_search()
        self._decoder.add_jsgf_string("requests", jsgf())

    def words(self, pcm: bytes) -> str:
        """The words in 16 kHz PCM16.

        The grammar's guess stands if it explains the sound at least as well as the language
        model's: measured, a right guess is 0.5 to 1.0 (of the decoder's score per frame, times
        1000) better, and a wrong one 0.1 to 0.8 worse.
        """
        edge = bytes(2 * EDGE_MS * RATE_HZ // 1000)
        expected = self._search("requests", edge + pcm + edge)
        free = self._search(self._general, edge + pcm + edge)
        if expected is None or not expected[0]:
            return free[0] if free else ""
        if free is not None and free[0] and free[1] > expected[1]:
            return free[0]
        # A breath at the end is sometimes taken for the beginning of a second request.
        return expected[0].removesuffix(" then").removesuffix(" and")

    def _search(self, name: str, pcm: bytes) -> tuple[str, float] | None:
        self._decoder.activate_search(name)
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return (found.hypstr.strip(), found.best_score) if found is not None else None


def _serve(sounds: BinaryIO, answers: BinaryIO) -> None:
    decoder = Decoder()
    while len(header := sounds.read(_LENGTH.size)) == _LENGTH.size:
        pcm = sounds.read(_LENGTH.unpack(header)[0])
        answers.write(json.dumps({"words": decoder.words(pcm)}).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    _serve(sys.stdin.buffer, sys.stdout.buffer)
