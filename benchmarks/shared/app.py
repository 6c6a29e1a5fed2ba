"""The frame of every client program that is measured. Standard library only.

It prints `ready` when its sessions are configured, does what a line of standard input says, and
ends when standard input does:

- `talk N`, `hush`: the callers begin to speak, the first in the N-th millisecond of the 20 of a
  frame, and fall silent.
- `save`: what came since the last time is left in `<out>.sound` and `<out>.words`, and a JSON
  object about the program is printed. It does the same at its end.
"""

import argparse
import asyncio
import json
import resource
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

try:
    from voicebus.benchmarks.shared import stamps
except ImportError:  # in a peer's environment, where this folder is on the path
    import stamps  # type: ignore[import-not-found,no-redef]


class Bench:
    """What a client program is given."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.url: str = options.url
        self.run_dir: str = options.run_dir
        self.sessions: int = options.sessions
        self.talks: bool = options.talk
        self.style: str = options.style
        self.sound = stamps.Log()
        self.words = stamps.Log()
        self.told: dict[str, Any] = {}
        """Added to the last line."""
        self._over = asyncio.Event()
        self._may_talk = asyncio.Event()
        self._phase_ms = 0
        self._out: str = options.out
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, daemon=True).start()

    def ready(self) -> None:
        """Everything is connected and configured."""
        print("ready", flush=True)

    async def over(self) -> None:
        """Until the measurement is over."""
        await self._over.wait()

    async def talk(self, send: Callable[[bytes], Awaitable[Any] | Any], number: int = 0) -> None:
        """Speak in real time while told to, a stamped frame each 20 ms; call by call a millisecond
        later."""
        loop = asyncio.get_running_loop()
        count, next_s = 0, 0.0
        while not self._over.is_set():
            if not self._may_talk.is_set():
                await self._may_talk.wait()
                next_s = loop.time() + (self._phase_ms + number) % stamps.FRAME_MS / 1000
            await asyncio.sleep(max(0.0, next_s - loop.time()))
            count += 1
            sent = send(stamps.frame(count))
            if sent is not None and not isinstance(sent, int):
                await sent
            next_s += stamps.FRAME_MS / 1000

    def save(self) -> None:
        """What came since the last time, and what the program cost so far."""
        for log, kind in ((self.sound, "sound"), (self.words, "words")):
            log.save(f"{self._out}.{kind}")
            log.clear()
        used = resource.getrusage(resource.RUSAGE_SELF)
        own = {"cpu_s": used.ru_utime + used.ru_stime, "rss_kb": used.ru_maxrss, **self.told}
        print(json.dumps(own), flush=True)

    def _listen(self) -> None:
        for line in sys.stdin:
            self._loop.call_soon_threadsafe(self._do, *line.split())
        self._loop.call_soon_threadsafe(self._over.set)

    def _do(self, order: str, phase_ms: str = "0") -> None:
        if order == "talk":
            self._phase_ms = int(phase_ms)
            self._may_talk.set()
        elif order == "hush":
            self._may_talk.clear()
        else:
            self.save()


async def _main(program: Callable[[Bench], Awaitable[None]], options: argparse.Namespace) -> None:
    bench = Bench(options)
    await program(bench)
    bench.save()


def run(
    program: Callable[[Bench], Awaitable[None]], runner: Callable[[Any], Any] = asyncio.run
) -> None:
    """Run a client program. `runner` is asyncio.run or uvloop.run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="")
    parser.add_argument("--run-dir", default="")
    parser.add_argument("--out", required=True)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--talk", action="store_true")
    parser.add_argument("--style", default="")
    runner(_main(program, parser.parse_args()))
