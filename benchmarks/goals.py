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
    floor: str | float
    """The figure below which nothing can be, by its name in the same run, or as it is."""


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
    Goal("empty tool call, the pool alone: p50", ("tools.pool.p50",), 1.0, "ms", "floor.wakes.p50"),
    Goal("stuck in C: dead after its grace, p99", ("tools.dead.p99",), 50.0, "ms", "floor.killed.p99"),
    Goal("stuck in C: next runner at work after that, p99", ("tools.refill.p99",), 50.0, "ms", "floor.wakes.p99"),
    Goal("full-duplex sound: core per session, 100 sessions", ("capacity.100.core",), 0.01, "core", "latency.100.bare.core"),
    Goal("full-duplex sound: memory per session, 100 sessions", ("capacity.100.mb",), 2.0, "MB", "bare.mb"),
    Goal("100 sessions on this machine: p99 age", ("capacity.100.p99", "capacity.100.in.p99"), 20.0, "ms", "latency.100.idle.sound out.bare.p99"),
    Goal("session process killed: sound frames lost", ("recovery.session-0.sound_lost",), 0.0, "frames", 0.0),
    Goal("session process killed: oldest sound, times the run without", ("recovered.age",), 1.5, "x", 1.0),
    Goal("session process killed: events resume", ("recovery.session-0.resume_ms",), 1500.0, "ms", "start.session-0.import_ms"),
    Goal("session process killed: events lost or doubled", ("recovery.session-0.events_lost", "recovery.session-0.events_twice"), 0.0, "events", 0.0),
    Goal("manual interrupt: flush at the player, p99", ("interrupt.manual.flush at the player.p99",), 5.0, "ms", "floor.wakes.p99"),
    Goal("barge-in: flush at the player, p99", ("interrupt.barge-in.flush at the player.p99",), 2.0, "ms", "floor.bare.p99"),
    Goal("calls under random kills: lost or doubled", ("chaos.lost", "chaos.twice"), 0.0, "calls", 0.0),
    Goal("an event through the session process, CPU", ("growth.event.1.1000",), 60.0, "us", "growth.event.bare.1000"),
    Goal("a late minute of a long conversation, times an early one", ("growth.core.ratio", "growth.journal.ratio"), 1.2, "x", 1.0),
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
    one, many = figures.get("latency.1.bare.mb"), figures.get("latency.100.bare.mb")
    if one and many:
        figures["bare.mb"] = [(b - a) / 99 for a, b in zip(one, many, strict=True)]


def table(figures: Figures) -> Table:
    """One row per goal. The figure is the worst of all repetitions; the other stands beside."""
    derive(figures)
    found = Table(
        "Goals",
        ("what", "goal", "figure", "best run", "floor", "unit", ""),
        note="figure: the worst repetition. floor: what bare programs took in the same run at "
        "their best: a client on one WebSocket (age of sound; core, memory and event), two kernel "
        "wake-ups (interrupt, call, next runner), a process that is killed, a Python that imports "
        "the service (events resume); elsewhere the number that nothing can be below.",
    )
    for goal in GOALS:
        known = [figures[name] for name in goal.names if name in figures]
        if not known:
            found.add(goal.what, goal.limit, "not measured", "", "", goal.unit, "")
            continue
        worst = max(max(values) for values in known)
        best = max(min(values) for values in known)
        said = "reached" if worst <= goal.limit else "missed"
        found.add(goal.what, goal.limit, worst, best, _floor(goal, figures), goal.unit, said)
    return found


def _floor(goal: Goal, figures: Figures) -> float | str:
    if not isinstance(goal.floor, str):
        return goal.floor
    low = figures.get(goal.floor)
    return min(low) if low else ""


PARTS = ("WebSocket frame built", "JSON parsed", "base64 decoded")
"""Of the floor, beside two wake-ups; in microseconds."""


def near(figures: Figures) -> Table:
    """How near a frame of sound is to what no program can be below. Without rows where a part was
    not measured."""
    table = Table(
        "How near the floor: a frame of sound, provider to application",
        ("what", "p50 us", "times the floor", "times the bare client"),
        note="The floor: two kernel wake-ups, a WebSocket frame, a JSON parse and a base64 decode, "
        "each in a bare loop. Medians, the better repetition of each.",
    )
    parts = [figures.get(f"floor.{part}") for part in PARTS]
    wakes = figures.get("floor.wakes.p50")
    bare = figures.get("stall.bare.no tool.p50")
    ours = figures.get("stall.voicebus.no tool.p50")
    if wakes and bare and ours and all(parts):
        floor = 1000 * min(wakes) + sum(min(part) for part in parts if part)
        for what, took in (
            ("the floor", floor),
            ("the bare client", 1000 * min(bare)),
            ("voicebus", 1000 * min(ours)),
        ):
            table.add(what, took, took / floor, took / (1000 * min(bare)))
    return table


def missed(figures: Figures) -> list[str]:
    """What was measured and not reached."""
    rows = table(figures).rows
    return [str(row[0]) for row in rows if row[-1] == "missed"]
