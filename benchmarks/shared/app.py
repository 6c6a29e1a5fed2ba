"""The frame of every client program that is measured. Standard library only.

It prints `ready` when its sessions are configured, ends when standard input does, and leaves
what came in `<out>.sound` and `<out>.words`. Its last line is a JSON object about itself.
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
        """Speak in real time until the end, a stamped frame each 20 ms."""
        loop = asyncio.get_running_loop()
        count, next_s = 0, loop.time() + (number % 20) * 0.001
        while not self._over.is_set():
            count += 1
            sent = send(stamps.frame(count))
            if sent is not None and not isinstance(sent, int):
                await sent
            next_s += stamps.FRAME_MS / 1000
            await asyncio.sleep(max(0.0, next_s - loop.time()))

    def save(self) -> None:
        """What came, and what it cost."""
        self.sound.save(f"{self._out}.sound")
        self.words.save(f"{self._out}.words")
        used = resource.getrusage(resource.RUSAGE_SELF)
        own = {"cpu_s": used.ru_utime + used.ru_stime, "rss_kb": used.ru_maxrss, **self.told}
        print(json.dumps(own), flush=True)

    def _listen(self) -> None:
        sys.stdin.read()
        self._loop.call_soon_threadsafe(self._over.set)


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
