"""The peers' benchmark: stalls, latency and cost of calls at once, against the same provider."""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from voicebus.benchmarks import latency, stall
from voicebus.benchmarks.figures import Result, Table
from voicebus.benchmarks.harness import (
    HERE,
    SHARED,
    App,
    Broken,
    Provider,
    Scale,
    bare,
    cell,
    ours,
    pss_mb,
)
from voicebus.cli.testing import Stack

ENVIRONMENTS = HERE / ".venvs"
CONFIGURED_S = 20.0
AT_ONCE = 4
"""How many programs start at the same time: each burns a core for seconds while it imports."""
FULL = 0.9
"""A machine that is at work for more than this share measures its own queue."""
MEMORY = 0.8
"""The share of memory that calls may take."""


class Peer(NamedTuple):
    """How a peer is run."""

    environment: str
    program: str
    style: str = ""
    """Of its tools."""
    together: bool = False
    """All calls in one process, where its program can hold several."""
    joins: int = 1
    """How many of the caller's frames it puts into one message; the first one's stamp is seen."""


PEERS = {
    "mojentic": Peer("mojentic", "mojentic_client.py"),
    "mojentic, one process": Peer("mojentic", "mojentic_client.py", together=True),
    "openai-agents": Peer("openai-agents", "openai_agents_client.py"),
    "openai-agents, one process": Peer("openai-agents", "openai_agents_client.py", together=True),
    "pipecat": Peer("pipecat", "pipecat_client.py"),
    "pipecat, in threads": Peer("pipecat", "pipecat_client.py", "threads"),
    "livekit": Peer("livekit", "livekit_client.py", joins=5),
    "livekit, in threads": Peer("livekit", "livekit_client.py", "threads", joins=5),
}


class Each(NamedTuple):
    """What a call costs."""

    cores: float
    megabytes: float


def unfit(calls: int, each: Each, cores: float, megabytes: float) -> str:
    """Why a machine of so many cores and megabytes cannot hold so many calls; "" when it can."""
    if calls * each.cores > FULL * cores:
        return f"needs {calls * each.cores:.1f} cores of {cores:g}, {each.cores:.3f} a call"
    if calls * each.megabytes > MEMORY * megabytes:
        return (
            f"needs {calls * each.megabytes / 1024:.1f} GB of {megabytes / 1024:.1f}, "
            f"{each.megabytes:.0f} MB a call"
        )
    return ""


def start(provider: Provider, name: str, calls: int = 1, *, talk: bool = False) -> list[App]:
    """A peer's programs for so many calls, connected and configured. Raises Broken."""
    peer = PEERS[name]
    python = ENVIRONMENTS / peer.environment / "bin" / "python"
    if not python.is_file():
        failed = ENVIRONMENTS / f"{peer.environment}.failed"
        why = (
            failed.read_text("utf-8").strip()[-300:]
            if failed.is_file()
            else "run: make bench-peers"
        )
        raise Broken(f"{name} is not installed: {why}")
    one = partial(
        App,
        [str(python), str(HERE / "peers" / peer.program)],
        url=provider.url,
        talk=talk,
        style=peer.style,
        sessions=calls if peer.together else 1,
        environment={**os.environ, "PYTHONPATH": str(SHARED), "OPENAI_API_KEY": "none"},
    )
    _wait(provider, 0, name)
    with ThreadPoolExecutor(AT_ONCE) as starting:
        waiting = [starting.submit(one) for _ in range(1 if peer.together else calls)]
    apps = [future.result() for future in waiting if future.exception() is None]
    try:
        for future in waiting:
            future.result()
        _wait(provider, calls, name)
    except Broken:
        for app in apps:
            app.end()
        raise
    return apps


def _wait(provider: Provider, calls: int, name: str) -> None:
    """Until the provider has so many calls."""
    until = time.monotonic() + CONFIGURED_S
    while (count := provider.do("count")["count"]) != calls:
        if time.monotonic() > until:
            raise Broken(f"{name}: {count} calls instead of {calls} after {CONFIGURED_S:g} s")
        time.sleep(0.05)


def versions() -> dict[str, str]:
    """What is installed, by environment."""
    found = {}
    for environment in dict.fromkeys(one[0] for one in PEERS.values()):
        for path in sorted(
            ENVIRONMENTS.glob(f"{environment}/lib/python3*/site-packages/*.dist-info")
        ):
            name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
            if name.replace("_", "-") in (environment, "pipecat-ai", "livekit-agents"):
                found[name.replace("_", "-")] = version
    return found


class Calls(NamedTuple):
    """The tables of calls at once."""

    ages: Table
    costs: Table
    absent: Table


def _calls(
    tables: Calls,
    result: Result,
    provider: Provider,
    name: str,
    begin: Callable[[int], list[App]],
    pids: dict[str, int],
    scale: Scale,
) -> None:
    """Full-duplex calls at once: `begin` starts the programs that hold so many."""
    each: Each | None = None
    """Of the size before, where many say something of more: with a process per call. One process
    for all becomes cheaper by the call, and a single call says little of many."""
    alike = name in PEERS and not PEERS[name].together
    for calls in scale.sessions:
        if name in PEERS and PEERS[name].together and calls == 1:
            continue  # the same as a process per call
        why = unfit(calls, each, os.cpu_count() or 1, _memory_mb()) if each else ""
        if why:
            tables.absent.add(name, f"{calls} calls: {why} (computed from the row before)")
            return
        apps = begin(calls)
        every = {**pids, **{f"application-{n}": app.pid for n, app in enumerate(apps)}}
        with ExitStack() as running:
            for app in apps:
                running.enter_context(app)
            time.sleep(0.5)
            seen = [
                (loaded, run, latency.window(provider, scale.seconds, loaded=loaded, pids=every))
                for loaded in (False, True)
                for run in range(scale.repeats)
            ]
            memory = sum(map(pss_mb, every.values())) / calls
            came = [app.stop() for app in apps]
        _wait(provider, 0, name)
        for loaded, run, window in seen:
            ages = window.ages(came)
            due = window.frames(calls)
            joins = PEERS[name].joins if name in PEERS else 1
            out, events, heard = (ages[what] for what in ("sound out", "events", "sound in"))
            tables.ages.add(
                *(name, calls, "2 loops" if loaded else "idle", run + 1),
                *(out.p50, out.p99, out.max, _lost(out.frames, due)),
                *(events.p50, events.p99),
                *(heard.p50, heard.p99, _lost(heard.frames, due / joins)),
                f"{window.results}/{len(latency.LOAD)}" if loaded else "",
            )
            where = f"peers.{name}.{calls}.{'load' if loaded else 'idle'}"
            for what, found in ages.items():
                result.note(f"{where}.{what}.p50", found.p50)
                result.note(f"{where}.{what}.p99", found.p99)
            if not loaded:
                each = Each(sum(window.cores.values()) / calls, memory)
                busiest = max(window.cores.values())
                is_full = window.busy > FULL or busiest > FULL
                tables.costs.add(
                    *(name, calls, run + 1, *each, busiest, 100 * window.busy),
                    "full" if is_full else "",
                )
                result.note(f"{where}.core", each.cores)
                result.note(f"{where}.mb", each.megabytes)
        if calls == 1 or not alike:
            each = None


def _lost(frames: int, due: float) -> float:
    return 100 * max(0.0, 1 - frames / due)


def _memory_mb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def _bare(provider: Provider, calls: int) -> list[App]:
    return [bare(provider, talk=True, sessions=calls)]


def _ours(stack: Stack, calls: int) -> list[App]:
    return [ours(stack, talk=True, sessions=calls, style="" if calls <= 20 else "light")]


def _one(provider: Provider, name: str) -> App:
    return start(provider, name)[0]


def _tables() -> Calls:
    ages = Table(
        "Full-duplex calls at once: provider to application, and caller to provider",
        (
            *("client", "calls", "tools", "run", "out p50 ms", "p99 ms", "max ms", "lost %"),
            *("events p50 ms", "p99 ms", "in p50 ms", "p99 ms", "lost %", "results"),
        ),
        note="As in the table of latency: 20 ms frames both ways, a piece of the caller's "
        "transcript each 100 ms in every call; under load the first call runs two Python loops as "
        "tools. With a process per call they hold up that call alone, one frame of 20 of 20 "
        "calls: p99 and max show it, the median does not. lost: not there when the tools had "
        "ended; of the sound in, what a held-up client never made. livekit joins five of the "
        "caller's frames into one message, and the first is 80 ms old by then. Peers have a "
        "process per call, which is what pipecat and livekit recommend, unless one process is "
        "said; the bare client has one for all, and so has Voicebus's application, with the SDK up "
        "to 20 calls and its bare sockets beyond. Events are what the peers' public interfaces "
        "give an application: mojentic user_transcript_delta, openai-agents the raw server event "
        "(it has none of its own for pieces), pipecat "
        "InterimTranscriptionFrame, livekit user_input_transcribed.",
    )
    costs = Table(
        "Full-duplex calls at once: what each costs",
        (
            *("client", "calls", "run", "core/call", "PSS MB/call", "busiest process, core"),
            *("machine busy %", "full"),
        ),
        note="While no tool runs. All processes that hold calls, with the application: for "
        "voicebus transport, session and application. full: a process or the machine, with the "
        f"provider and all else, was at work for more than {100 * FULL:.0f} % of the time, so "
        "that ages are those of a queue.",
    )
    return Calls(ages, costs, Table("Not measured", ("peer", "why")))


def run(scale: Scale, names: Sequence[str] = tuple(PEERS)) -> Result:
    """Those that are installed; the others are named with the reason."""
    stalls = Table("Age of sound at the application while a tool runs", stall.COLUMNS)
    tables = _tables()
    result = Result([stalls, tables.ages, tables.costs])
    with Provider() as provider:
        stall.cases(stalls, result, provider, "bare", partial(bare, provider), scale)
        _calls(tables, result, provider, "bare", partial(_bare, provider), {}, scale)
        for name in names:
            try:
                if not PEERS[name].together:
                    one = partial(_one, provider, name)
                    stall.cases(stalls, result, provider, name, one, scale)
                begin = partial(start, provider, name, talk=True)
                _calls(tables, result, provider, name, begin, {}, scale)
            except Broken as error:
                tables.absent.add(name, str(error).replace("\n", " ")[:400])
        with cell(provider) as stack:
            stall.cases(stalls, result, provider, "voicebus", partial(ours, stack), scale)
            pids = {n: p for n, p in stack.pids().items() if n in ("transport-0", "session-0")}
            _calls(tables, result, provider, "voicebus", partial(_ours, stack), pids, scale)
    stalls.note = f"versions: {json.dumps(versions())}. Columns as in `make bench`."
    if tables.absent.rows:
        result.tables.append(tables.absent)
    return result
