"""Full-duplex calls at once: how old their sound is, what each costs, and how many fit."""

import itertools
import math
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from voicebus.benchmarks import latency
from voicebus.benchmarks.capacity import LATE_MS, MISSING, Quality, lost, more
from voicebus.benchmarks.figures import Result, Table
from voicebus.benchmarks.harness import Broken, Provider, Scale, pss_mb
from voicebus.benchmarks.latency import Window
from voicebus.benchmarks.peers.crowd import PEERS, Crowd

FULL = 0.9
"""A machine that is at work for more than this share measures its own queue."""
MEMORY = 0.8
"""The share of memory that calls may take."""


class Calls(NamedTuple):
    """The tables."""

    ages: Table
    costs: Table
    most: Table
    absent: Table


BROKEN = Quality(math.nan, math.nan, 1.0, 1.0)


def tables() -> Calls:
    """Empty ones."""
    ages = Table(
        "Full-duplex calls at once: provider to application, and caller to provider",
        (
            *("client", "calls", "tools", "run", "out p50 ms", "p99 ms", "max ms", "lost %"),
            *("events p50 ms", "p99 ms", "in p50 ms", "p99 ms", "lost %", "results"),
        ),
        note="As in the table of latency: 20 ms frames both ways, a piece of the caller's "
        "transcript each 100 ms in every call; under load the first call runs two Python loops as "
        "tools. With a process per call they hold up that call alone, one frame of 20 of 20 "
        "calls: p99 and max show it, the median does not. lost: not there when all had caught up "
        "with what there was; of the sound in, what a held-up client never made. livekit joins "
        "five of the caller's frames into one message, and the first is 80 ms old by then. Peers "
        "have a process per call, which is what pipecat and livekit recommend, unless one process "
        "is said; the bare client has one for all, and so has Voicebus's application, with the "
        "SDK up to 20 calls and its bare sockets beyond. Events are what the peers' public "
        "interfaces give an application: mojentic user_transcript_delta, openai-agents the raw "
        "server event (it has none of its own for pieces), pipecat InterimTranscriptionFrame, "
        "livekit user_input_transcribed. More calls than a machine has CPU for (full in the next "
        "table) fall behind for as long as it lasts, here 4 s, and their ages with them.",
    )
    costs = Table(
        "Full-duplex calls at once: what each costs",
        (
            *("client", "calls", "run", "core/call", "PSS MB/call", "busiest process, core"),
            *("machine busy %", "full"),
        ),
        note="While no tool runs. All processes, with the application: of voicebus also "
        "supervisord, tool host and runners. full: a process or the machine, with the "
        f"provider and all else, was at work for more than {100 * FULL:.0f} % of the time: ages "
        "are those of a queue, and core/call is what a call got, not what it needs.",
    )
    most = Table(
        f"Full-duplex calls at once: how many this machine holds with p99 up to {LATE_MS:g} ms",
        (
            *("client", "held", "per core", "tried", "out p99 ms", "in p99 ms"),
            *("lost out %", "lost in %"),
        ),
        note="Idle, with the provider on the same machine. From the most of the table before that "
        f"were held, a quarter more each time, until sound is older than {LATE_MS:g} ms at p99 or "
        f"more than {100 * MISSING:g} % of the frames are missing, each way, in every repetition; "
        "tried: where that was so, with the better repetition. To livekit the 80 ms of the "
        "frames that it joins are allowed, and of the caller's sound one message a call, which "
        "the window cuts.",
    )
    return Calls(ages, costs, most, Table("Not measured", ("peer", "why")))


def unfit(calls: int, each_mb: float, machine_mb: float) -> str:
    """Why a machine of so much memory cannot hold so many calls; "" when it can."""
    if calls * each_mb > MEMORY * machine_mb:
        return (
            f"needs {calls * each_mb / 1024:.1f} GB of {machine_mb / 1024:.1f}, "
            f"{each_mb:.0f} MB a call"
        )
    return ""


def measure(
    into: Calls,
    result: Result,
    provider: Provider,
    crowd: Crowd,
    scale: Scale,
    beside: Callable[[], dict[str, int]] = dict,
) -> None:
    """A client's rows. `beside`: the processes that its calls need beside its programs."""
    peer = PEERS.get(crowd.name)
    found: dict[int, list[Quality]] = {}
    each_mb = 0.0
    for calls in scale.sessions:
        if peer is not None and peer.together and calls == 1:
            continue  # the same as a process per call
        if peer is not None and calls > peer.up_to:
            return
        if why := unfit(calls, each_mb, _memory_mb()):
            into.absent.add(crowd.name, f"{calls} calls: {why} (computed from the row before)")
            break
        if crowd.together:
            crowd.end()
        crowd.become(calls)
        look = partial(latency.window, provider, crowd.apps, scale.seconds)
        seen = [
            (loaded, run, look(loaded=loaded, pids=beside()))
            for loaded in (False, True)
            for run in range(scale.repeats)
        ]
        held_by = (*beside().values(), *(app.pid for app in crowd.apps))
        memory = sum(map(pss_mb, held_by)) / calls
        if not crowd.together:
            each_mb = memory
        for loaded, run, window in seen:
            quality = _quality(window, calls, crowd.name)
            _ages(into.ages, result, crowd.name, calls, loaded, run, window, quality)
            if not loaded:
                found.setdefault(calls, []).append(quality)
                _costs(into.costs, result, crowd.name, calls, run, window, memory)
    _most(into.most, result, provider, crowd, found, each_mb, scale)


def _quality(window: Window, calls: int, name: str) -> Quality:
    out, heard = window.ages["sound out"], window.ages["sound in"]
    joins = PEERS[name].joins if name in PEERS else 1
    messages = window.frames(1) // joins - 1  # the window cuts one
    return Quality(
        out.p99,
        heard.p99,
        lost(out.frames, window.made),
        lost(heard.frames, calls * messages),
    )


def _ages(
    table: Table,
    result: Result,
    name: str,
    calls: int,
    loaded: bool,
    run: int,
    window: Window,
    quality: Quality,
) -> None:
    out, events, heard = (window.ages[what] for what in ("sound out", "events", "sound in"))
    table.add(
        *(name, calls, "2 loops" if loaded else "idle", run + 1),
        *(out.p50, out.p99, out.max, 100 * quality.lost),
        *(events.p50, events.p99),
        *(heard.p50, heard.p99, 100 * quality.lost_in),
        f"{window.results}/{len(latency.LOAD)}" if loaded else "",
    )
    where = f"peers.{name}.{calls}.{'load' if loaded else 'idle'}"
    for what, ages in window.ages.items():
        result.note(f"{where}.{what}.p50", ages.p50)
        result.note(f"{where}.{what}.p99", ages.p99)


def _costs(
    table: Table, result: Result, name: str, calls: int, run: int, window: Window, memory: float
) -> None:
    cores, busiest = sum(window.cores.values()) / calls, max(window.cores.values())
    is_full = window.busy > FULL or busiest > FULL
    table.add(
        *(name, calls, run + 1, cores, memory, busiest, 100 * window.busy),
        "full" if is_full else "",
    )
    result.note(f"peers.{name}.{calls}.idle.core", cores)
    result.note(f"peers.{name}.{calls}.idle.mb", memory)


def _most(
    table: Table,
    result: Result,
    provider: Provider,
    crowd: Crowd,
    found: dict[int, list[Quality]],
    each_mb: float,
    scale: Scale,
) -> None:
    """How many it holds, from the sizes that were measured already."""
    joined_ms = 20.0 * (PEERS[crowd.name].joins - 1) if crowd.name in PEERS else 0.0

    def is_held(calls: int) -> bool:
        return any(one.is_held(joined_ms) for one in found[calls])

    held = max(filter(is_held, found), default=0)
    end = min((calls for calls in found if calls > held), default=scale.most + 1)
    for calls in itertools.takewhile(lambda n: n < end, more(max(held, 1), scale.most)):
        if calls in found:
            continue
        if unfit(calls, each_mb, _memory_mb()):
            break
        if crowd.together:
            crowd.end()
        found[calls] = []
        try:
            crowd.become(calls)
            while len(found[calls]) < scale.repeats and not is_held(calls):
                window = latency.window(provider, crowd.apps, scale.seconds / 2, loaded=False)
                found[calls].append(_quality(window, calls, crowd.name))
        except Broken:  # it could not open so many, or did not survive them
            found[calls] = found[calls] or [BROKEN]
        if not is_held(calls):
            break
        held = calls
    cores = os.cpu_count() or 1
    tried = min((calls for calls in found if calls > held), default=None)
    best = min(found[tried], key=Quality.worst_ms) if tried else None
    table.add(
        *(crowd.name, held, held / cores),
        *(("none", *["none"] * 4) if best is None else (tried, best.out_ms, best.in_ms)),
        *(() if best is None else (100 * best.lost, 100 * best.lost_in)),
    )
    result.note(f"peers.{crowd.name}.held", float(held))


def _memory_mb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
