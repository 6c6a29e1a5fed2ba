"""Capacity: full-duplex sessions, what each costs in CPU and memory, and where it goes."""

import itertools
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

from voicebus.benchmarks import latency
from voicebus.benchmarks.figures import Ages, Result, Table
from voicebus.benchmarks.harness import Broken, Provider, Scale, cell, ours, pss_mb
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


class Quality(NamedTuple):
    """Of the sound of so many calls at once."""

    out_ms: float
    """p99 of its age at the application."""
    in_ms: float
    """… and of the caller's at the provider."""
    lost: float
    """Share of the frames that did not come to the application."""
    lost_in: float
    """… to the provider."""

    def worst_ms(self) -> float:
        """The later way; without end when nothing came."""
        return math.inf if math.isnan(self.out_ms + self.in_ms) else max(self.out_ms, self.in_ms)

    def is_held(self, joined_ms: float = 0.0) -> bool:
        """Whether so many calls are held; the caller's sound may be late by what is joined."""
        return (
            self.out_ms <= LATE_MS
            and self.in_ms <= LATE_MS + joined_ms
            and max(self.lost, self.lost_in) <= MISSING
        )


def lost(frames: int, due: int) -> float:
    """The share of the frames that are missing."""
    return max(0.0, 1 - frames / due) if due > 0 else 0.0


class Seen(NamedTuple):
    """What so many sessions did in a stretch of time."""

    out: Ages
    heard: Ages
    made: int
    """Frames that the provider made."""
    cores: dict[str, float]
    """By process."""
    memory_mb: float
    """Of transport and session processes."""
    quality: Quality


def measure(provider: Provider, stack: Stack, sessions: int, seconds: float) -> Seen:
    """So many full-duplex sessions at once."""
    pids = services(stack)
    with ours(stack, sessions=sessions, talk=True, style="light") as app:
        every = {**pids, "generator": provider.pid}
        window = latency.window(provider, [app], seconds, loaded=False, words=False, pids=every)
        memory_mb = sum(map(pss_mb, pids.values()))
        app.stop()
    provider.until(0, "voicebus")
    out, heard = window.ages["sound out"], window.ages["sound in"]
    missing = lost(out.frames, window.made), lost(heard.frames, window.frames(sessions))
    return Seen(
        out,
        heard,
        window.made,
        {**window.cores, "client": window.cores["application-0"]},
        memory_mb,
        Quality(out.p99, heard.p99, *missing),
    )


def services(stack: Stack) -> dict[str, int]:
    """Its transport and session processes, by name."""
    return {name: pid for name, pid in stack.pids().items() if name.startswith(ROLES)}


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
        "run on the same machine, stand beside. MB/session: both processes' PSS, less that before "
        "the first session of all.",
    )
    result = Result([table])
    sizes = sorted({max(1, n // 5 * 2) for n in scale.sessions[-1:]} | {*scale.sessions})
    held = 0
    with Provider() as provider, cell(provider, session_max_sessions=LIMIT) as stack:
        empty_mb = sum(map(pss_mb, services(stack).values()))
        for sessions in sizes:
            for run_number in range(scale.repeats):
                seen = measure(provider, stack, sessions, scale.seconds)
                per_session = sum(seen.cores[name] for name in SERVICES) / sessions
                megabytes = (seen.memory_mb - empty_mb) / sessions
                table.add(
                    *(sessions, run_number + 1, seen.out.frames, seen.made),
                    *(seen.out.p50, seen.out.p99, seen.heard.p99),
                    *(seen.cores["transport-0"], seen.cores["session-0"]),
                    *(per_session, megabytes, seen.cores["generator"], seen.cores["client"]),
                )
                result.note(f"capacity.{sessions}.p99", seen.out.p99)
                result.note(f"capacity.{sessions}.in.p99", seen.heard.p99)
                result.note(f"capacity.{sessions}.core", per_session)
                result.note(f"capacity.{sessions}.mb", megabytes)
                result.note(f"capacity.{sessions}.lost", float(seen.made - seen.out.frames))
                if seen.quality.is_held():
                    held = max(held, sessions)
        result.tables.append(_most(result, provider, stack, held, scale))
    return result


def more(first: int, most: int) -> Iterator[int]:
    """The numbers of sessions to try, until one is too many."""
    sessions = min(first, most)
    yield sessions
    while sessions < most:
        sessions = min(most, max(sessions + 1, round(sessions * GROWTH)))
        yield sessions


def _most(result: Result, provider: Provider, stack: Stack, held: int, scale: Scale) -> Table:
    """How many sessions this machine holds, with everything else that runs on it.

    `held`: so many it does hold.
    """
    cores_of_machine = os.cpu_count() or 1
    table = Table(
        f"Capacity: sessions per core with p99 up to {LATE_MS:g} ms",
        (
            *("sessions", "frames", "of", "out p99 ms", "in p99 ms", "held"),
            *("services core", "generator", "client"),
            *("per core of the machine", "per core of the services"),
        ),
    )
    tries = itertools.product(more(scale.sessions[-1], scale.most), range(scale.repeats))
    for sessions, run_number in tries:
        if sessions == held:
            continue
        try:
            seen = measure(provider, stack, sessions, scale.seconds / 2)
        except Broken:  # the client could not open so many
            table.add(sessions, 0, *["none"] * 3, "no", *["none"] * 5)
            break
        used = sum(seen.cores[name] for name in SERVICES)
        table.add(
            *(sessions, seen.out.frames, seen.made, seen.out.p99, seen.heard.p99),
            *("yes" if seen.quality.is_held() else "no", used),
            *(seen.cores["generator"], seen.cores["client"], sessions / cores_of_machine),
            sessions / used if used else float("nan"),
        )
        if seen.quality.is_held():
            held = sessions
        elif run_number == scale.repeats - 1:
            break
    table.note = (
        f"{held} sessions were held, {held / cores_of_machine:g} per core of this machine. From "
        "the most of the table before a quarter more each time, until sound is older than "
        f"{LATE_MS:g} ms at p99 or more than {100 * MISSING:g} % of the frames are missing, each "
        "way, as often as each is measured. Generator and client run on the same machine and take "
        "their share of it; the last column counts only what transport and session used."
    )
    result.note("capacity.held", float(held))
    result.note("capacity.held.per_core", held / cores_of_machine)
    return table
