"""Latency added: provider to application for sound and events, caller to provider for sound."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from voicebus.benchmarks.figures import Ages, Result, Table, of_rows
from voicebus.benchmarks.harness import (
    App,
    Busy,
    Came,
    Cost,
    Provider,
    Scale,
    bare,
    cell,
    ours,
    pss_mb,
)

WORDS_EVERY_S = 0.1


LOAD = ("spins", "spins")
"""Two tools that burn Python, called by the first session."""


class Window(NamedTuple):
    """A stretch of time, and what was seen of it outside the client programs."""

    since_ns: int
    until_ns: int
    heard: list[tuple[int, int, int]]
    results: int
    cores: dict[str, float]
    busy: float
    """Share of the whole machine."""

    def frames(self, calls: int) -> int:
        """How many 20 ms frames were to come in it."""
        return round((self.until_ns - self.since_ns) / 20e6) * calls

    def ages(self, came: Iterable[Came]) -> dict[str, Ages]:
        """Of what the client programs saw of it, and the provider."""
        programs = list(came)
        rows = {
            "sound out": [row for one in programs for row in one.sound],
            "events": [row for one in programs for row in one.words],
            "sound in": self.heard,
        }
        return {what: of_rows(found, self.since_ns, self.until_ns) for what, found in rows.items()}


def window(
    provider: Provider, seconds: float, *, loaded: bool, pids: Mapping[str, int] | None = None
) -> Window:
    """Full-duplex sound and a transcript each 100 ms in every session that is open."""
    names = LOAD if loaded else ()
    provider.do("outputs")
    if names:
        provider.do("call", line=0, names=names, arguments={"seconds": seconds + 0.5})
    provider.do("forget")
    since_ns = time.monotonic_ns() + 200_000_000
    provider.do("sound", seconds=seconds + 0.5)
    provider.do("words", every_s=WORDS_EVERY_S, count=int(seconds / WORDS_EVERY_S))
    cost, busy = Cost(dict(pids or {})), Busy()
    time.sleep(seconds)
    cores, share = cost.cores(), busy.share()
    until_ns = time.monotonic_ns() - 20_000_000
    heard = provider.heard()
    provider.do("sound", seconds=0)
    # A client that a tool holds up hears the rest only afterwards, and it counts.
    within_s = len(names) * (seconds + 0.5) + 2.0
    results = len(provider.outputs(len(names), within_s))
    if names:
        time.sleep(0.3)
    return Window(since_ns, until_ns, heard, results, cores, share)


def measure(
    provider: Provider, start: Callable[[], App], seconds: float, *, loaded: bool
) -> tuple[dict[str, Ages], float, float]:
    """One window with a client of its own: ages, its cores, its megabytes."""
    app = start()
    time.sleep(0.3)
    seen = window(provider, seconds, loaded=loaded, pids={"client": app.pid})
    memory = pss_mb(app.pid)
    return seen.ages([app.stop()]), seen.cores["client"], memory


def run(scale: Scale) -> Result:
    """A bare client and Voicebus, side by side for each size."""
    table = Table(
        "Latency: provider to application, and caller to provider",
        ("sessions", "tools", "what", "run", "bare p50", "p99", "voicebus p50", "p99", "max ms"),
        note="All sessions of a client in one process, 20 ms frames both ways in real time. Up to "
        "20 sessions with the SDK, more with its bare sockets. Under load two Python loops run as "
        "tools; the bare client's run in threads, as one does it there.",
    )
    result = Result([table])
    seconds = min(3.0, scale.seconds)
    with Provider() as provider, cell(provider) as stack:
        for sessions in scale.sessions:
            style = "" if sessions <= 20 else "light"
            for loaded in (False, True):
                for run_number in range(scale.repeats):
                    floor, cores, memory = measure(
                        provider,
                        functools.partial(bare, provider, sessions=sessions, talk=True),
                        seconds,
                        loaded=loaded,
                    )
                    found, _, _ = measure(
                        provider,
                        functools.partial(ours, stack, sessions=sessions, talk=True, style=style),
                        seconds,
                        loaded=loaded,
                    )
                    if not loaded:
                        result.note(f"latency.{sessions}.bare.core", cores / sessions)
                        result.note(f"latency.{sessions}.bare.mb", memory)
                    for what, ages in found.items():
                        low = floor[what]
                        table.add(
                            sessions,
                            "2 loops" if loaded else "idle",
                            what,
                            run_number + 1,
                            low.p50,
                            low.p99,
                            ages.p50,
                            ages.p99,
                            ages.max,
                        )
                        where = f"latency.{sessions}.{'load' if loaded else 'idle'}.{what}"
                        result.note(f"{where}.bare.p50", low.p50)
                        result.note(f"{where}.bare.p99", low.p99)
                        result.note(f"{where}.p50", ages.p50)
                        result.note(f"{where}.p99", ages.p99)
                        result.note(f"{where}.added", ages.p50 - low.p50)
    return result
