"""Capacity: full-duplex sessions, what each costs in CPU and memory, and where it goes."""

import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping

from voicebus.benchmarks.figures import Ages, Result, Table, of_rows
from voicebus.benchmarks.harness import Broken, Cost, Provider, Scale, cell, ours, pss_mb
from voicebus.cli.testing import Stack

SERVICES = ("transport-0", "session-0")
ROLES = ("transport-", "session-")
LATE_MS = 20.0
"""Sound that is older at p99 is late: so many sessions are too many."""
MISSING = 0.01
"""As is this share of frames that have not come."""
GROWTH = 5 / 4
LIMIT = "100000"
"""Of sessions: the machine is to be the limit, not a setting."""


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
    with Provider() as provider, cell(provider, session_max_sessions=LIMIT) as stack:
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
        result.tables.append(_most(result, provider, stack, scale))
    return result


def more(first: int, most: int) -> Iterator[int]:
    """The numbers of sessions to try, until one is too many."""
    sessions = min(first, most)
    yield sessions
    while sessions < most:
        sessions = min(most, max(sessions + 1, round(sessions * GROWTH)))
        yield sessions


def most_held(figures: Mapping[str, list[float]]) -> int:
    """The most sessions whose sound was not late in at least one repetition; 0 for none."""
    found = 0
    for name, ages in figures.items():
        if (match := re.fullmatch(r"capacity\.(\d+)\.p99", name)) is not None:
            sessions = int(match[1])
            both = zip(ages, figures[f"capacity.{sessions}.in.p99"], strict=True)
            if any(max(out, heard) <= LATE_MS for out, heard in both):
                found = max(found, sessions)
    return found


def _most(result: Result, provider: Provider, stack: Stack, scale: Scale) -> Table:
    """How many sessions this machine holds, with everything else that runs on it."""
    cores_of_machine = os.cpu_count() or 1
    table = Table(
        f"Capacity: sessions per core with p99 up to {LATE_MS:g} ms",
        (
            *("sessions", "frames", "of", "out p99 ms", "in p99 ms", "held"),
            *("services core", "generator", "client"),
            *("per core of the machine", "per core of the services"),
        ),
    )
    held = most_held(result.figures)
    tries = itertools.product(more(scale.sessions[-1], scale.most), range(scale.repeats))
    for sessions, run_number in tries:
        if sessions == held:
            continue
        try:
            out, heard, expected, cores, _ = measure(provider, stack, sessions, scale.seconds / 2)
        except Broken:  # the client could not open so many
            table.add(sessions, 0, *["none"] * 3, "no", *["none"] * 5)
            break
        used = sum(cores[name] for name in SERVICES)
        is_held = max(out.p99, heard.p99) <= LATE_MS and out.frames >= (1 - MISSING) * expected
        table.add(
            *(sessions, out.frames, expected, out.p99, heard.p99, "yes" if is_held else "no"),
            *(used, cores["generator"], cores["client"], sessions / cores_of_machine),
            sessions / used if used else float("nan"),
        )
        if is_held:
            held = sessions
        elif run_number == scale.repeats - 1:
            break
    table.note = (
        f"{held} sessions were held, {held / cores_of_machine:g} per core of this machine. From "
        "the most of the table before a quarter more each time, until sound is older than "
        f"{LATE_MS:g} ms at p99 or more than {100 * MISSING:g} % of the frames are missing, as "
        "often as each is measured. Generator and client run on the same machine and take their "
        "share of it; the last column counts only what transport and session used."
    )
    result.note("capacity.held", float(held))
    result.note("capacity.held.per_core", held / cores_of_machine)
    return table
