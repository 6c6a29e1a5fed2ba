"""Latency added: provider to application for sound and events, caller to provider for sound."""

import functools
import time
from collections.abc import Callable

from voicebus.benchmarks.figures import Ages, Result, Table, of_rows
from voicebus.benchmarks.harness import App, Provider, Scale, bare, cell, ours

WORDS_EVERY_S = 0.1


def measure(
    provider: Provider, start: Callable[[], App], seconds: float, *, loaded: bool
) -> dict[str, Ages]:
    """Full-duplex sound and a transcript each 100 ms in every session."""
    app = start()
    time.sleep(0.3)
    if loaded:
        # Two tools that burn Python, called by the first session.
        provider.do("call", line=0, names=["spins", "spins"], arguments={"seconds": seconds + 0.5})
    provider.do("forget")
    since_ns = time.monotonic_ns() + 200_000_000
    provider.do("sound", seconds=seconds + 0.5)
    provider.do("words", every_s=WORDS_EVERY_S, count=int(seconds / WORDS_EVERY_S))
    time.sleep(seconds)
    until_ns = time.monotonic_ns() - 20_000_000
    heard = provider.heard()
    provider.do("sound", seconds=0)
    came = app.stop()
    return {
        "sound out": of_rows(came.sound, since_ns, until_ns),
        "events": of_rows(came.words, since_ns, until_ns),
        "sound in": of_rows(heard, since_ns, until_ns),
    }


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
    with Provider() as provider, cell(provider) as stack:
        for sessions in scale.sessions:
            style = "" if sessions <= 20 else "light"
            for loaded in (False, True):
                for run_number in range(scale.repeats):
                    floor = measure(
                        provider,
                        functools.partial(bare, provider, sessions=sessions, talk=True),
                        scale.seconds,
                        loaded=loaded,
                    )
                    found = measure(
                        provider,
                        functools.partial(ours, stack, sessions=sessions, talk=True, style=style),
                        scale.seconds,
                        loaded=loaded,
                    )
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
