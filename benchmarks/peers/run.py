"""The peers' benchmark: stalls and the cost of one session, against the same provider."""

import json
import os
import time
from collections.abc import Callable
from functools import partial

from voicebus.benchmarks import stall
from voicebus.benchmarks.figures import Result, Table, of_rows
from voicebus.benchmarks.harness import (
    HERE,
    SHARED,
    App,
    Broken,
    Cost,
    Provider,
    Scale,
    bare,
    cell,
    ours,
    pss_mb,
)
from voicebus.cli.testing import Stack

CALLS = (1, 8)
ENVIRONMENTS = HERE / ".venvs"
PEERS: dict[str, tuple[str, str, str]] = {
    "mojentic": ("mojentic", "mojentic_client.py", ""),
    "openai-agents": ("openai-agents", "openai_agents_client.py", ""),
    "pipecat": ("pipecat", "pipecat_client.py", ""),
    "pipecat, in threads": ("pipecat", "pipecat_client.py", "threads"),
    "livekit": ("livekit", "livekit_client.py", ""),
    "livekit, in threads": ("livekit", "livekit_client.py", "threads"),
}
"""Name -> environment, program, tool style."""


def start(provider: Provider, name: str, *, talk: bool = False) -> App:
    """A peer's program, connected and configured. Raises Broken."""
    environment, program, style = PEERS[name]
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.is_file():
        failed = ENVIRONMENTS / f"{environment}.failed"
        why = (
            failed.read_text("utf-8").strip()[-300:]
            if failed.is_file()
            else "run: make bench-peers"
        )
        raise Broken(f"{name} is not installed: {why}")
    variables = {**os.environ, "PYTHONPATH": str(SHARED), "OPENAI_API_KEY": "none"}
    before = provider.do("count")["count"]
    app = App(
        [str(python), str(HERE / "peers" / program)],
        url=provider.url,
        talk=talk,
        style=style,
        environment=variables,
    )
    until = time.monotonic() + 10
    while provider.do("count")["count"] <= before:
        if time.monotonic() > until:
            app.end()
            raise Broken(f"{name}: it has not configured a session within 10 s")
        time.sleep(0.05)
    return app


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


def _calls(
    table: Table,
    provider: Provider,
    name: str,
    begin: Callable[[int], list[App]],
    pids: dict[str, int],
    scale: Scale,
) -> None:
    """Full-duplex calls at once: `begin` starts the programs that hold so many."""
    for calls in CALLS if scale.repeats > 1 else CALLS[:1]:
        for run_number in range(scale.repeats):
            apps = begin(calls)
            provider.do("sound", seconds=scale.seconds + 1)
            time.sleep(0.7)
            since_ns = time.monotonic_ns()
            provider.do("forget")
            every = pids or {f"{name}-{n}": app.pid for n, app in enumerate(apps)}
            cost = Cost(every)
            time.sleep(scale.seconds)
            cores = sum(cost.cores().values()) / calls
            memory = sum(map(pss_mb, every.values())) / calls
            heard = of_rows(provider.heard(), since_ns)
            provider.do("sound", seconds=0)
            out = of_rows((row for app in apps for row in app.stop().sound), since_ns)
            table.add(
                *(name, calls, run_number + 1, cores, memory),
                *(out.p50, out.p99, heard.p50, heard.p99),
            )


def _bare(provider: Provider, calls: int) -> list[App]:
    return [bare(provider, talk=True) for _ in range(calls)]


def _ours(stack: Stack, calls: int) -> list[App]:
    return [ours(stack, talk=True, sessions=calls)]


def _one_each(provider: Provider, name: str, calls: int) -> list[App]:
    return [start(provider, name, talk=True) for _ in range(calls)]


def run(scale: Scale) -> Result:
    """Those that are installed; the others are named with the reason."""
    stalls = Table("Age of sound at the application while a tool runs", stall.COLUMNS)
    costs = Table(
        "Full-duplex calls at once: what each costs",
        (
            *("client", "calls", "run", "core/call", "PSS MB/call"),
            *("out p50 ms", "p99 ms", "in p50 ms", "p99 ms"),
        ),
        note="peers: a process per call, which is what pipecat and livekit recommend. voicebus: "
        "transport and session processes, which hold all calls; its application, one process for "
        "all, is not counted.",
    )
    absent = Table("Not measured", ("peer", "why"))
    result = Result([stalls, costs])
    with Provider() as provider:
        stall.cases(stalls, result, provider, "bare", partial(bare, provider), scale)
        _calls(costs, provider, "bare", lambda n: _bare(provider, n), {}, scale)
        for name in PEERS:
            try:
                stall.cases(stalls, result, provider, name, partial(start, provider, name), scale)
                if "threads" not in name:
                    _calls(costs, provider, name, partial(_one_each, provider, name), {}, scale)
            except Broken as error:
                absent.add(name, str(error).replace("\n", " ")[:400])
        with cell(provider) as stack:
            stall.cases(stalls, result, provider, "voicebus", partial(ours, stack), scale)
            pids = {n: p for n, p in stack.pids().items() if n in ("transport-0", "session-0")}
            _calls(costs, provider, "voicebus", lambda n: _ours(stack, n), pids, scale)
    stalls.note = f"versions: {json.dumps(versions())}. Columns as in `make bench`."
    if absent.rows:
        result.tables.append(absent)
    return result
