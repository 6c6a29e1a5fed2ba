"""Latency added: provider to application for sound and events, caller to provider for sound."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from voicebus.benchmarks.figures import Ages, Result, Table, of_rows
from voicebus.benchmarks.harness import (
    App,
    Busy,
    Cost,
    Provider,
    Scale,
    bare,
    cell,
    ours,
    pss_mb,
)
from voicebus.benchmarks.shared import stamps

WORDS_EVERY_S = 0.1
LOAD = ("spins", "spins")
"""Two tools that burn Python, called by the first session."""
QUIET = 0.6
"""Who is at work for less of the time is not catching up."""
LOOK_S = 0.3
LEAD_S, TAIL_S = 0.5, 0.5
"""So much of the sound before and after a stretch is not looked at."""


class Window(NamedTuple):
    """A stretch of time, and what was seen of it."""

    since_ns: int
    until_ns: int
    ages: dict[str, Ages]
    """Of "sound out", "events" and "sound in"."""
    made: int
    """Frames that the provider made in it, for all calls."""
    results: int
    cores: dict[str, float]
    """By process; client programs are `application-<n>`."""
    busy: float
    """Share of the whole machine."""

    def frames(self, calls: int) -> int:
        """How many 20 ms frames so many callers were to speak in it."""
        return round((self.until_ns - self.since_ns) / 20e6) * calls


def window(
    provider: Provider,
    apps: Sequence[App],
    seconds: float,
    *,
    loaded: bool,
    words: bool = True,
    pids: Mapping[str, int] | None = None,
) -> Window:
    """Full-duplex sound, and a transcript each 100 ms, in every session of these programs."""
    pids = {**(pids or {}), **{f"application-{n}": app.pid for n, app in enumerate(apps)}}
    names = LOAD if loaded else ()
    others = _others()
    for number, app in enumerate(apps):
        app.talk(number % stamps.FRAME_MS)
    time.sleep(LOOK_S)
    lasts_s = LEAD_S + seconds + TAIL_S
    provider.do("outputs")
    if names:
        provider.do("call", line=0, names=names, arguments={"seconds": lasts_s})
    provider.do("forget")
    provider.do("sound", seconds=lasts_s)
    if words:
        provider.do("words", every_s=WORDS_EVERY_S, count=int(lasts_s / WORDS_EVERY_S))
    time.sleep(LEAD_S)
    since_ns = time.monotonic_ns()
    until_ns = since_ns + round(seconds * 1e9)
    cost, busy = Cost(pids), Busy()
    time.sleep(max(0.0, (until_ns - time.monotonic_ns()) / 1e9))
    cores, share = cost.cores(), busy.share()
    provider.do("sound", seconds=0)
    for app in apps:
        app.hush()
    # Who is held up, by a tool or by too much to do, hears the rest only afterwards; it counts.
    settle(pids, others)
    results = len(provider.outputs(len(names), len(names) * lasts_s + 2.0))
    came = [app.came() for app in apps]
    rows = {
        "sound out": [row for one in came for row in one.sound],
        "events": [row for one in came for row in one.words],
        "sound in": provider.heard(),
    }
    ages = {what: of_rows(found, since_ns, until_ns) for what, found in rows.items()}
    made = provider.do("made", since_ns=since_ns, until_ns=until_ns)["made"]
    return Window(since_ns, until_ns, ages, made, results, cores, share)


def _others() -> float:
    """The share of the machine that is at work while nothing is measured."""
    busy = Busy()
    time.sleep(LOOK_S)
    return busy.share()


def settle(pids: Mapping[str, int], others: float = 0.0) -> None:
    """Until these processes, and the machine but for `others`, have caught up with everything; a
    minute at most."""
    until = time.monotonic() + 60.0
    is_quiet = False
    while not is_quiet and time.monotonic() < until:
        cost, busy = Cost(dict(pids)), Busy()
        time.sleep(LOOK_S)
        busiest = max(cost.cores().values(), default=0.0)
        is_quiet = busiest < QUIET and busy.share() < max(QUIET, others + 0.2)


def measure(
    provider: Provider, start: Callable[[], App], seconds: float, *, loaded: bool
) -> tuple[dict[str, Ages], float, float]:
    """One window with a client of its own: ages, its cores, its megabytes."""
    with start() as app:
        seen = window(provider, [app], seconds, loaded=loaded)
        memory = pss_mb(app.pid)
        app.stop()
    provider.until(0, "the client before")
    return seen.ages, seen.cores["application-0"], memory


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
