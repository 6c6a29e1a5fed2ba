"""The peers' benchmark: stalls and the cost of one session, against the same provider."""

import json
import os
import time
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
    app = App(
        [str(python), str(HERE / "peers" / program)],
        url=provider.url,
        talk=talk,
        style=style,
        environment=variables,
    )
    until = time.monotonic() + 10
    while provider.do("count")["count"] < 1:
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


def _one_session(
    table: Table,
    provider: Provider,
    name: str,
    begin: partial[App],
    pids: dict[str, int],
    scale: Scale,
) -> None:
    app = begin(talk=True)
    provider.do("sound", seconds=scale.seconds + 1)
    time.sleep(0.7)
    since_ns = time.monotonic_ns()
    provider.do("forget")
    every = pids or {name: app.pid}
    cost = Cost(every)
    time.sleep(scale.seconds)
    cores = sum(cost.cores().values())
    memory = sum(map(pss_mb, every.values()))
    heard = of_rows(provider.heard(), since_ns)
    provider.do("sound", seconds=0)
    out = of_rows(app.stop().sound, since_ns)
    table.add(name, cores, memory, out.p50, out.p99, heard.p50, heard.p99)


def run(scale: Scale) -> Result:
    """Those that are installed; the others are named with the reason."""
    stalls = Table("Age of sound at the application while a tool runs", stall.COLUMNS)
    costs = Table(
        "One full-duplex session",
        ("client", "cores", "PSS MB", "out p50 ms", "p99 ms", "in p50 ms", "p99 ms"),
        note="voicebus: transport and session processes; peers: their one process, of which one "
        "per call is what pipecat and livekit recommend.",
    )
    absent = Table("Not measured", ("peer", "why"))
    result = Result([stalls, costs])
    with Provider() as provider:
        stall.cases(stalls, result, provider, "bare", partial(bare, provider), scale)
        _one_session(costs, provider, "bare", partial(bare, provider), {}, scale)
        for name in PEERS:
            try:
                stall.cases(stalls, result, provider, name, partial(start, provider, name), scale)
                if "threads" not in name:
                    _one_session(costs, provider, name, partial(start, provider, name), {}, scale)
            except Broken as error:
                absent.add(name, str(error).replace("\n", " ")[:400])
        with cell(provider) as stack:
            stall.cases(stalls, result, provider, "voicebus", partial(ours, stack), scale)
            pids = {n: p for n, p in stack.pids().items() if n in ("transport-0", "session-0")}
            _one_session(costs, provider, "voicebus", partial(ours, stack), pids, scale)
    stalls.note = f"versions: {json.dumps(versions())}. Columns as in `make bench`."
    if absent.rows:
        result.tables.append(absent)
    return result
