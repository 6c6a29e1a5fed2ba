"""Capacity: full-duplex sessions, what each costs in CPU and memory, and where it goes."""

import time

from voicebus.benchmarks.figures import Ages, Result, Table, of_rows
from voicebus.benchmarks.harness import Cost, Provider, Scale, cell, ours, pss_mb
from voicebus.cli.testing import Stack

SERVICES = ("transport-0", "session-0")
ROLES = ("transport-", "session-")


def measure(
    provider: Provider, stack: Stack, sessions: int, seconds: float
) -> tuple[Ages, Ages, int, dict[str, float], float]:
    """Ages out and in, frames that should have come, cores by process, megabytes per session."""
    pids = {name: pid for name, pid in stack.pids().items() if name.startswith(ROLES)}
    before = sum(map(pss_mb, pids.values()))
    app = ours(stack, sessions=sessions, talk=True, style="light")
    provider.do("sound", seconds=seconds + 2)
    time.sleep(1.0)
    provider.do("forget")
    since_ns = time.monotonic_ns()
    cost = Cost({**pids, "generator": provider.pid, "client": app.pid})
    time.sleep(seconds)
    cores = cost.cores()
    until_ns = time.monotonic_ns() - 50_000_000
    memory = (sum(map(pss_mb, pids.values())) - before) / sessions
    heard = provider.heard()
    provider.do("sound", seconds=0)
    came = app.stop()
    expected = round((until_ns - since_ns) / 20e6) * sessions
    return (
        of_rows(came.sound, since_ns, until_ns),
        of_rows(heard, since_ns, until_ns),
        expected,
        cores,
        memory,
    )


def run(scale: Scale) -> Result:
    """Growing numbers of sessions."""
    table = Table(
        "Capacity: full-duplex 20 ms sound",
        (
            "sessions",
            "run",
            "frames",
            "of",
            "out p50 ms",
            "out p99",
            "in p99",
            "transport core",
            "session core",
            "core/session",
            "MB/session",
            "generator",
            "client",
        ),
        note="core/session: transport and session processes together; generator and client, which "
        "run on the same machine, stand beside. MB/session: growth of both processes' PSS.",
    )
    result = Result([table])
    sizes = sorted({max(1, n // 5 * 2) for n in scale.sessions[-1:]} | {*scale.sessions})
    with Provider() as provider, cell(provider) as stack:
        for sessions in sizes:
            for run_number in range(scale.repeats):
                out, heard, expected, cores, memory = measure(
                    provider, stack, sessions, scale.seconds
                )
                per_session = sum(cores[name] for name in SERVICES) / sessions
                table.add(
                    sessions,
                    run_number + 1,
                    out.frames,
                    expected,
                    out.p50,
                    out.p99,
                    heard.p99,
                    cores["transport-0"],
                    cores["session-0"],
                    per_session,
                    memory,
                    cores["generator"],
                    cores["client"],
                )
                result.note(f"capacity.{sessions}.p99", out.p99)
                result.note(f"capacity.{sessions}.in.p99", heard.p99)
                result.note(f"capacity.{sessions}.core", per_session)
                result.note(f"capacity.{sessions}.mb", memory)
                result.note(f"capacity.{sessions}.lost", float(expected - out.frames))
    return result
