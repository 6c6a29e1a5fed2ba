"""The goals: each with its figure, the floor of the same run, and whether it was reached."""

from typing import NamedTuple

from voicebus.benchmarks.figures import Table
from voicebus.benchmarks.stall import CASES

Figures = dict[str, list[float]]


class Goal(NamedTuple):
    """What we want to reach. `names` may have several: the worst of them counts."""

    what: str
    names: tuple[str, ...]
    limit: float
    unit: str
    floor: str | None = None
    """The name of the figure below which nothing can be, for comparison."""


_TOOLS = [case for case in CASES if case not in ("no tool",)][:3]

# ruff: noqa: E501 - a table is read by its rows
GOALS = (
    Goal(
        "sound age while a tool sleeps, loops, or sits in C: p99",
        tuple(f"stall.voicebus.{case}.p99" for case in _TOOLS), 3.0, "ms", "floor.bare.p99",
    ),
    Goal(
        "the same: max",
        tuple(f"stall.voicebus.{case}.max" for case in _TOOLS), 20.0, "ms", "floor.bare.max",
    ),
    Goal(
        "sound age, no tool: p50 over the bare client",
        ("added.sound",), 0.5, "ms", "floor.bare.p50",
    ),
    Goal("manual interrupt: tool has seen it, p99", ("interrupt.manual.tool has seen it.p99",), 5.0, "ms", "floor.wakes.p99"),
    Goal("empty tool call, the pool alone: p50", ("tools.pool.p50",), 1.0, "ms"),
    Goal("stuck in C: dead after its grace, p99", ("tools.dead.p99",), 50.0, "ms"),
    Goal("stuck in C: next runner at work after that, p99", ("tools.refill.p99",), 50.0, "ms"),
    Goal("full-duplex sound: core per session, 100 sessions", ("capacity.100.core",), 0.01, "core"),
    Goal("full-duplex sound: memory per session, 100 sessions", ("capacity.100.mb",), 2.0, "MB"),
    Goal("100 sessions on this machine: p99 age", ("capacity.100.p99", "capacity.100.in.p99"), 20.0, "ms", "latency.100.idle.sound out.bare.p99"),
    Goal("session process killed: sound frames lost", ("recovery.session-0.sound_lost",), 0.0, "frames"),
    Goal("session process killed: oldest sound, times the run without", ("recovered.age",), 1.5, "x"),
    Goal("session process killed: events resume", ("recovery.session-0.resume_ms",), 1500.0, "ms"),
    Goal("session process killed: events lost or doubled", ("recovery.session-0.events_lost", "recovery.session-0.events_twice"), 0.0, "events"),
    Goal("manual interrupt: flush at the player, p99", ("interrupt.manual.flush at the player.p99",), 5.0, "ms", "floor.wakes.p99"),
    Goal("barge-in: flush at the player, p99", ("interrupt.barge-in.flush at the player.p99",), 2.0, "ms", "floor.bare.p99"),
    Goal("calls under random kills: lost or doubled", ("chaos.lost", "chaos.twice"), 0.0, "calls"),
    Goal("an event through the session process, CPU", ("growth.event.1.1000",), 60.0, "us"),
    Goal("a late minute of a long conversation, times an early one", ("growth.core.ratio", "growth.journal.ratio"), 1.2, "x"),
)  # fmt: skip


def derive(figures: Figures) -> None:
    """Figures that are made of others."""
    floor = figures.get("stall.bare.no tool.p50")
    ours = figures.get("stall.voicebus.no tool.p50")
    if floor and ours:
        figures["added.sound"] = [a - b for a, b in zip(ours, floor, strict=True)]
    killed = figures.get("recovery.session-0.sound_max_age")
    alive = figures.get("recovery.nobody.sound_max_age")
    if killed and alive:
        figures["recovered.age"] = [a / max(alive) for a in killed]


def table(figures: Figures) -> Table:
    """One row per goal. The figure is the worst of all repetitions; the other stands beside."""
    derive(figures)
    found = Table(
        "Goals",
        ("what", "goal", "figure", "best run", "floor", "unit", ""),
        note="figure: the worst repetition. floor: what a bare client, or two bare kernel "
        "wake-ups, took in the same run, where that is comparable.",
    )
    for goal in GOALS:
        known = [figures[name] for name in goal.names if name in figures]
        if not known:
            found.add(goal.what, goal.limit, "not measured", "", "", goal.unit, "")
            continue
        worst = max(max(values) for values in known)
        best = max(min(values) for values in known)
        low = figures.get(goal.floor or "")
        said = "reached" if worst <= goal.limit else "missed"
        found.add(goal.what, goal.limit, worst, best, min(low) if low else "", goal.unit, said)
    return found


def missed(figures: Figures) -> list[str]:
    """What was measured and not reached."""
    rows = table(figures).rows
    return [str(row[0]) for row in rows if row[-1] == "missed"]
