"""`voicebus soak`: conversations for an hour, and whether memory or descriptors grow."""

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from voicebus.bus.endpoints import Endpoints
from voicebus.cli import chaos, chaos_stack, stack
from voicebus.cli.chaos_stack import Wire
from voicebus.cli.chaos_talk import PATIENCE_S, TURN_S, Talker, by_bus
from voicebus.cli.problems import Problem
from voicebus.client import RealtimeClient
from voicebus.config import extras
from voicebus.services.supervisor import Supervisor

SAMPLE_S = 5.0
SETTLED_S = 600.0
"""Until then memory fills up: with what has ended a minute ago, the database's cache, and room for
the longest moments."""
LIMIT_PERCENT = 1.0
"""Growth in an hour that is allowed."""
PAUSE_S = (1.0, 4.0)
"""What a talker thinks between two turns."""
NOT_OURS = frozenset({"simulator"})
"""It stands in for the provider."""


@dataclass
class Sample:
    """All processes at one moment; a process together with its children."""

    at_s: float
    pss_kb: dict[str, int] = field(default_factory=dict)
    own_kb: dict[str, int] = field(default_factory=dict)
    """PSS without what is read from files: of that, which is code, a process's share grows also
    when another program that runs the same Python ends. It tells the two apart."""
    descriptors: dict[str, int] = field(default_factory=dict)


def soak(
    minutes: Annotated[float, typer.Option(metavar="M", help="For how long.")] = 60.0,
    sessions: Annotated[int, typer.Option(metavar="N", help="How many at a time.")] = 20,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where soak.json and soak.png go.")
    ] = Path("var/soak"),
    seed: Annotated[int, typer.Option(metavar="S", help="What is said, and when.")] = 1,
) -> None:
    """Hold conversations with tools and interrupts on a stack of its own, and watch the memory
    (PSS) and the descriptors of all processes.

    Exit code 1 when, after the first ten minutes, either grows by more than 1 % in an hour, or
    anything is lost. A shorter run shows the figures and judges only what was lost.
    """
    if not minutes > 0 or sessions < 1:
        raise Problem("give --minutes above 0 and --sessions of at least 1")
    result = chaos.Result(seed, sessions)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="vbsoak", dir="/tmp") as name:
        folder = Path(name)
        port, wire_port = chaos_stack.free_ports(2)
        _tell("starting a stack of its own")
        stack.start(chaos_stack.wish(folder, port, wire_port))
        try:
            asyncio.run(_run(folder, port, wire_port, minutes * 60, result, samples))
            chaos.audit(folder, result)
        finally:
            stack.stop(folder)
    found = judge(samples)
    out.mkdir(parents=True, exist_ok=True)
    report = {**chaos.summary(result), **found, "samples": [asdict(one) for one in samples]}
    (out / "soak.json").write_text(json.dumps(report, indent=1), "utf-8")
    drawn = draw(samples, out / "soak.png")
    _show(result, found)
    print(f"{out / 'soak.json'}" + (f", {out / 'soak.png'}" if drawn else ""))
    if result.faults or found["grows"]:
        raise typer.Exit(1)


async def _run(
    folder: Path,
    port: int,
    wire_port: int,
    seconds: float,
    result: chaos.Result,
    samples: list[Sample],
) -> None:
    wire = Wire(port)
    await wire.open(wire_port)
    chance = random.Random(result.seed)
    stop = asyncio.Event()
    begun = time.monotonic()
    try:
        async with RealtimeClient(Endpoints(folder), deadline_s=PATIENCE_S) as client:
            talkers = [
                Talker(
                    client,
                    by_bus(client),
                    result.tally,
                    random.Random(chance.randrange(2**32)),
                    pause_s=PAUSE_S,
                )
                for _ in range(result.sessions)
            ]
            tasks = [asyncio.create_task(one.talk(stop)) for one in talkers]
            while (passed := time.monotonic() - begun) < seconds:
                samples.append(await asyncio.to_thread(take, folder, passed))
                if len(samples) % 12 == 0:
                    _tell(_line(samples[-1], result))
                await asyncio.sleep(min(SAMPLE_S, seconds - passed))
            stop.set()
            await asyncio.wait(tasks, timeout=TURN_S + PATIENCE_S)
            for task in tasks:
                task.cancel()
    finally:
        wire.close()
    result.seconds = time.monotonic() - begun


def take(folder: Path, at_s: float) -> Sample:
    """Look at each process and its children."""
    sample = Sample(round(at_s, 1))
    for name, program in Supervisor(folder).now().items():
        if not program.pid:
            continue
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(program.pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    memory = process.memory_full_info()
                    pss_kb = int(getattr(memory, "pss", memory.uss)) // 1024
                    sample.pss_kb[name] = sample.pss_kb.get(name, 0) + pss_kb
                    own_kb = _own_kb(process.pid) or pss_kb
                    sample.own_kb[name] = sample.own_kb.get(name, 0) + own_kb
                    count = sample.descriptors.get(name, 0)
                    sample.descriptors[name] = count + process.num_fds()
    return sample


def _own_kb(pid: int) -> int | None:
    """A process's share of the memory that stands in no file; None where only Linux tells."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    except OSError:
        return None
    parts = dict(line.split(":", 1) for line in text.splitlines()[1:])
    kinds = ("Pss_Anon", "Pss_Shmem")
    return sum(int(parts[kind].split()[0]) for kind in kinds if kind in parts) or None


def judge(samples: Sequence[Sample]) -> dict[str, Any]:
    """How memory and descriptors grow, in percent of their mean per hour."""
    is_long_enough = bool(samples) and samples[-1].at_s > 1.5 * SETTLED_S
    from_s = SETTLED_S if is_long_enough else (samples[-1].at_s / 2 if samples else 0.0)
    later = [one for one in samples if one.at_s >= from_s]
    memory = growth([(one.at_s, _total(one.own_kb)) for one in later])
    pss = growth([(one.at_s, _total(one.pss_kb)) for one in later])
    descriptors = growth([(one.at_s, _total(one.descriptors)) for one in later])
    return {
        "judged_from_s": from_s,
        "is_long_enough": is_long_enough,
        "own_percent_per_hour": round(memory, 2),
        "pss_percent_per_hour": round(pss, 2),
        "descriptors_percent_per_hour": round(descriptors, 2),
        "grows": is_long_enough and max(memory, pss, descriptors) > LIMIT_PERCENT,
    }


def growth(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the straight line through the points, in percent of their mean per hour."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread or not mean_y:
        return 0.0
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return slope * 3600 / mean_y * 100


def draw(samples: Sequence[Sample], path: Path) -> bool:
    """A picture of both; needs matplotlib. Whether it was drawn."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        _tell(f"no picture without matplotlib: {extras.how_to_get('bench')}")
        return False
    figure = Figure(figsize=(10, 7))
    upper, lower = figure.subplots(2, 1, sharex=True)
    minutes = [one.at_s / 60 for one in samples]
    for name in sorted({name for one in samples for name in one.pss_kb}):
        upper.plot(minutes, [one.pss_kb.get(name, 0) / 1024 for one in samples], label=name)
        lower.plot(minutes, [one.descriptors.get(name, 0) for one in samples], label=name)
    upper.set_ylabel("PSS, MB")
    lower.set_ylabel("descriptors")
    lower.set_xlabel("minutes")
    for axes in (upper, lower):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    upper.legend(fontsize="small", ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return True


def _total(parts: dict[str, int]) -> float:
    ours = {name: n for name, n in parts.items() if name.rpartition("-")[0] not in NOT_OURS}
    return float(sum(ours.values()))


def _show(result: chaos.Result, found: dict[str, Any]) -> None:
    chaos.show(result)
    print(
        f"from {found['judged_from_s'] / 60:.1f} min on: PSS "
        f"{found['pss_percent_per_hour']:+.2f} % an hour (without code from files "
        f"{found['own_percent_per_hour']:+.2f} %), descriptors "
        f"{found['descriptors_percent_per_hour']:+.2f} % an hour: {verdict(found)}"
    )


def verdict(found: dict[str, Any]) -> str:
    """What was judged, in words."""
    if not found["is_long_enough"]:
        return "too short to judge"
    if not found["grows"]:
        return "no growth"
    said = f"GROWS by more than {LIMIT_PERCENT:g} %"
    if max(found["own_percent_per_hour"], found["descriptors_percent_per_hour"]) > LIMIT_PERCENT:
        return said
    return f"{said}, all of it the share of code from files: let no other program end beside it"


def _line(sample: Sample, result: chaos.Result) -> str:
    return (
        f"{sample.at_s / 60:5.1f} min  PSS {_total(sample.pss_kb) / 1024:6.1f} MB  "
        f"{_total(sample.descriptors):5.0f} descriptors  {result.tally.turns} turns  "
        f"{len(result.faults)} lost or repeated"
    )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
