"""Stall: how old sound is at the application while a tool sleeps, burns Python, or burns C."""

import os
import time
from collections.abc import Callable

from voicebus.benchmarks.figures import Result, Table, ages
from voicebus.benchmarks.harness import App, Provider, Scale, bare, cell, ours

CORES = os.cpu_count() or 1
CASES: dict[str, list[str]] = {
    "no tool": [],
    "sleeps": ["sleeps"],
    "Python loop": ["spins"],
    "C call": ["holds"],
    f"{2 * CORES} Python loops": ["spins"] * (2 * CORES),
}
COLUMNS = ("client", "tool", "run", "frames", "p50 ms", "p99 ms", "max ms", "results")


def measure(provider: Provider, names: list[str], seconds: float) -> tuple[int, int, int]:
    """Sound for `seconds` while the tools run as long. From when to when, and results."""
    provider.do("outputs")
    since_ns = time.monotonic_ns()
    if names:
        provider.do("call", names=names, arguments={"seconds": seconds})
    provider.do("sound", seconds=seconds + 0.5)
    time.sleep(seconds)
    until_ns = time.monotonic_ns()
    results = len(provider.outputs(len(names), within_s=3.0))
    provider.do("sound", seconds=0)
    return since_ns, until_ns, results


def cases(
    table: Table,
    result: Result,
    provider: Provider,
    client: str,
    start: Callable[[], App],
    scale: Scale,
) -> None:
    """Every case with one client, as often as asked."""
    seconds = min(2.0, scale.seconds)
    for case, names in CASES.items():
        for run in range(scale.repeats):
            stretches, results = [], 0
            with start() as app:
                provider.until(1, client)
                for _ in range(scale.stalls):
                    since_ns, until_ns, came = measure(provider, names, seconds)
                    stretches.append((since_ns, until_ns))
                    results += came
                sound = app.stop().sound
            provider.until(0, client)
            found = ages(
                (got - made) / 1e6
                for made, got, _ in sound
                if any(since_ns <= made < until_ns for since_ns, until_ns in stretches)
            )
            table.add(
                client,
                case,
                run + 1,
                found.frames,
                found.p50,
                found.p99,
                found.max,
                f"{results}/{len(names) * scale.stalls}",
            )
            for what in ("p50", "p99", "max"):
                result.note(f"stall.{client}.{case}.{what}", getattr(found, what))


def run(scale: Scale) -> Result:
    """Voicebus and a bare client."""
    table = Table(
        "Age of sound at the application while a tool runs",
        COLUMNS,
        note="bare: websockets, json and base64 in one process; its tools run in threads.",
    )
    result = Result([table])
    with Provider() as provider:
        cases(table, result, provider, "bare", lambda: bare(provider), scale)
        with cell(provider) as stack:
            cases(table, result, provider, "voicebus", lambda: ours(stack), scale)
    return result
