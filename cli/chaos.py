"""`voicebus chaos`: kill, freeze and cut at random while conversations go on, and count."""

import asyncio
import contextlib
import json
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Sockets
from voicebus.cli import chaos_recordings, chaos_stack, folders, stack
from voicebus.cli.audit import examine
from voicebus.cli.chaos_faults import Fault, Tormentor
from voicebus.cli.chaos_recordings import Recordings
from voicebus.cli.chaos_stack import Wire
from voicebus.cli.chaos_talk import (
    PATIENCE_S,
    TOO_MANY,
    TURN_S,
    Talker,
    Tally,
    by_bus,
    by_phone,
)
from voicebus.cli.options import AsJson, RunDir
from voicebus.cli.problems import Problem
from voicebus.client import RealtimeClient
from voicebus.config import extras
from voicebus.services.session.archive import Archive

DOUBLE_SHARE = 0.2
"""So many faults are followed at once by another."""
PAUSE_S = (0.1, 1.5)
SERVED_S = TURN_S


@dataclass
class Result:
    """Everything that happened."""

    seed: int
    sessions: int
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    done: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    recordings: Recordings | None = None
    """Of a stack of its own."""

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        return [*self.tally.faults, *self.problems]


def chaos(
    run_dir: RunDir = None,
    minutes: Annotated[float, typer.Option(metavar="M", help="For how long.")] = 1.0,
    seed: Annotated[
        int | None, typer.Option(metavar="S", help="The same seed, the same faults.")
    ] = None,
    sessions: Annotated[
        int, typer.Option(metavar="N", help="How many conversations at a time.")
    ] = 4,
    transports: Annotated[
        int, typer.Option(metavar="N", min=1, max=32, help="Of a stack of its own.")
    ] = 1,
    shards: Annotated[
        int, typer.Option(metavar="N", min=1, max=32, help="Of a stack of its own.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Kill, freeze and cut processes at random while conversations with tools and interrupts go on;
    report what was lost or repeated, and how long each kind of fault was felt.

    Without --run-dir a stack of its own is started, with the simulator, a recorder and a gateway,
    through which one of the conversations goes, and stopped again: every recording is compared
    with the journal. With it, the stack that runs there is tormented: never do that where people
    are talking.
    Exit code 0 when nothing was lost or repeated.
    """
    if not minutes > 0 or sessions < 1:
        raise Problem("give --minutes above 0 and --sessions of at least 1")
    chosen = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    result = Result(chosen, sessions)
    if run_dir is None:
        with tempfile.TemporaryDirectory(prefix="vbchaos", dir="/tmp") as folder:
            _own(Path(folder), minutes * 60, result, transports, shards)
    else:
        endpoints = folders.endpoints(run_dir)
        asyncio.run(torment(endpoints, minutes * 60, result, None))
    if as_json:
        print(json.dumps(summary(result), indent=2))
    else:
        show(result)
    if result.faults:
        raise typer.Exit(1)


def _own(folder: Path, seconds: float, result: Result, transports: int, shards: int) -> None:
    port, wire_port, door = chaos_stack.free_ports(3)
    gateway_port = door if chaos_stack.has_web() else None
    if gateway_port is None:
        _tell(f"without a gateway; to have one: {extras.how_to_get('web')}")
    _tell("starting a stack of its own")
    wish = chaos_stack.wish(folder, port, wire_port)
    wish = chaos_stack.with_doors(wish, folder, gateway_port)
    stack.start(chaos_stack.with_several(wish, transports, shards))
    try:
        asyncio.run(_wired(folder, port, wire_port, gateway_port, seconds, result))
        audit(folder, result)
        _listen_again(folder, result)
    finally:
        if result.faults:
            kept = Path(tempfile.mkdtemp(prefix="voicebus-chaos-"))
            for path in (*folder.glob("*.log"), *folder.glob("data/*")):
                shutil.copy(path, kept)
            _tell(f"logs and journal are kept in {kept}")
        stack.stop(folder)


async def _wired(
    folder: Path,
    port: int,
    wire_port: int,
    gateway_port: int | None,
    seconds: float,
    result: Result,
) -> None:
    wire = Wire(port)
    await wire.open(wire_port)
    try:
        await torment(Endpoints(folder), seconds, result, wire, gateway_port)
    finally:
        wire.close()


async def torment(
    endpoints: Endpoints,
    seconds: float,
    result: Result,
    wire: Wire | None,
    gateway_port: int | None = None,
) -> None:
    """The whole run. Raises Problem when nothing runs there."""
    status = await asyncio.to_thread(stack.status, endpoints.run_dir)
    if not status.is_ready:
        raise Problem(f"Voicebus is not ready in {endpoints.run_dir}: see voicebus status")
    names = [one.name for one in status.processes]
    chance = random.Random(result.seed)
    begun = time.monotonic()
    with Sockets(failed=_failed) as sockets:
        async with RealtimeClient(endpoints, deadline_s=PATIENCE_S) as client:
            tormentor = Tormentor(endpoints, names, sockets, chance, wire)
            async with _talking(client, result, chance, gateway_port) as talkers:
                await _strike(tormentor, talkers, begun + seconds, chance, result)
    result.seconds = time.monotonic() - begun


@contextlib.asynccontextmanager
async def _talking(
    client: RealtimeClient, result: Result, chance: random.Random, gateway_port: int | None
) -> AsyncIterator[list[Talker]]:
    stop = asyncio.Event()
    seeds = [chance.randrange(2**32) for _ in range(result.sessions)]
    dials = [by_bus(client)] * result.sessions
    if gateway_port is not None:
        dials[-1] = by_phone(gateway_port)
    talkers = [
        Talker(client, dial, result.tally, random.Random(seed))
        for dial, seed in zip(dials, seeds, strict=True)
    ]
    tasks = [asyncio.create_task(one.talk(stop)) for one in talkers]
    try:
        yield talkers
    finally:
        stop.set()
        done, late = await asyncio.wait(tasks, timeout=TURN_S + 2 * PATIENCE_S)
        for task in late:
            result.problems.append("a talker did not come to an end")
            task.cancel()
        for task in done:
            if (error := task.exception()) is not None:
                raise error


async def _strike(
    tormentor: Tormentor,
    talkers: list[Talker],
    until: float,
    chance: random.Random,
    result: Result,
) -> None:
    kinds: list[str] = []
    while time.monotonic() < until and len(result.faults) < TOO_MANY:
        if not kinds:  # each kind is tried once before any is again
            kinds = tormentor.kinds()
            chance.shuffle(kinds)
        tried = [await tormentor.do(kinds.pop())]
        if kinds and chance.random() < DOUBLE_SHARE:
            tried.append(await tormentor.do(kinds.pop()))
        struck = [one for one in tried if one is not None]
        if not struck:
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            continue
        result.done += struck
        for fault in struck:
            if not await tormentor.well(fault):
                result.problems.append(f"{fault.target} did not get well after {fault.kind}")
        await _served(talkers, struck, result)
        _feel(struck, result.tally)
        told = " + ".join(one.kind for one in struck)
        _tell(
            f"{struck[0].at - result.tally.begun:6.1f} s  {told:<40} "
            f"ready {struck[0].well_s or 0:5.2f} s  "
            f"served {struck[0].served_s or 0:5.2f} s  gap {struck[0].gap_s:5.2f} s  "
            f"{len(result.tally.faults)} lost or repeated"
        )
        await asyncio.sleep(chance.uniform(*PAUSE_S))


async def _served(talkers: list[Talker], struck: list[Fault], result: Result) -> None:
    """Until each talker has had an answer to something that was said after the fault."""
    at = max(one.at for one in struck)
    end = time.monotonic() + SERVED_S
    while any(one.served_since < at for one in talkers):
        if time.monotonic() > end:
            result.problems.append(f"not everybody was served again after {struck[0].kind}")
            return
        await asyncio.sleep(0.02)
    for fault in struck:
        fault.served_s = time.monotonic() - fault.at


def _feel(struck: list[Fault], tally: Tally) -> None:
    """The longest pause of the sound that began before the cell was well again."""
    for fault in struck:
        ends = fault.at + (fault.well_s or 0.0)
        fault.gap_s = max(
            (gap for at, gap in tally.gaps if at >= fault.at and at - gap <= ends), default=0.0
        )
    tally.gaps.clear()


def audit(folder: Path, result: Result) -> None:
    """What the journal says of it, and the marks that the tools have left."""
    found: set[str] = set()
    for path in sorted((folder / "data").glob("session-*.db")):
        with Archive(path) as archive:
            for kept in archive.sessions():
                found.add(kept.session_id)
                for fault in examine(archive, kept)["faults"]:
                    result.problems.append(f"journal: {kept.session_id}: {fault}")
            result.problems += _commands(archive, result.tally)
    lost = [one for one in result.tally.sent if one not in found]
    result.problems += [f"{one}: no journal knows this conversation" for one in lost]
    for call, count in chaos_stack.marks(folder).items():
        if count > 1:
            result.problems.append(f"call {call} left {count} marks")
        if call not in result.tally.calls_of:
            result.problems.append(f"call {call} left a mark and no event tells of it")


def _listen_again(folder: Path, result: Result) -> None:
    """What the recorder made of it."""
    kept: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((folder / "data").glob("session-*.db")):
        with Archive(path) as archive:
            for one in archive.sessions():
                if one.session_id in result.tally.spans:
                    kept[one.session_id] = archive.events(one.session_id)
    result.recordings = chaos_recordings.examine(
        chaos_stack.recordings(folder), kept, result.tally.spans, result.done
    )
    result.problems += [f"recorder: {one}" for one in result.recordings.faults]


def _commands(archive: Archive, tally: Tally) -> list[str]:
    """Every command that was answered with ok has been decided exactly once."""
    found: list[str] = []
    here = {one.session_id for one in archive.sessions()}
    for session_id, sent in tally.sent.items():
        if session_id not in here:
            continue  # another shard's, or missing: told by audit
        try:
            inputs = [msgspec.json.decode(body) for _, body in archive.inputs(session_id)]
        except sqlite3.Error as error:
            return [f"{archive.path} cannot be read: {error}"]
        done = Counter(one.get("command_id") for one in inputs if one["input"] == "Commanded")
        found += [
            f"{session_id}: command {id} was done {done[id]} times" for id in sent if done[id] != 1
        ]
    return found


# --- the report ---------------------------------------------------------------------------------


def summary(result: Result) -> dict[str, Any]:
    """As plain values."""
    tally = result.tally
    return {
        "seed": result.seed,
        "seconds": round(result.seconds, 1),
        "sessions": result.sessions,
        "conversations": tally.conversations,
        "conversations_not_opened": tally.not_opened,
        "turns": tally.turns,
        "interrupts": tally.interrupts,
        "commands": tally.commands,
        "events": tally.events,
        "events_fetched_again": tally.healed,
        "calls": tally.calls,
        "turns_cut": tally.cut_turns,
        "conversations_by_gateway": tally.phone_calls,
        "gateway_connected_again": tally.phoned_again,
        "recordings": None if result.recordings is None else _recorded(result.recordings),
        "faults_done": len(result.done),
        "by_kind": _by_kind(result.done),
        "lost_or_repeated": result.faults,
    }


def _recorded(found: Recordings) -> dict[str, int]:
    return {
        "whole": found.whole,
        "with_named_gaps": found.with_gaps,
        "longest_gap_ms": found.missing_ms,
        "while_no_recorder_ran": found.unseen,
    }


def _by_kind(done: list[Fault]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for kind in sorted({one.kind for one in done}):
        mine = [one for one in done if one.kind == kind]
        well = [one.well_s for one in mine if one.well_s is not None]
        served = [one.served_s for one in mine if one.served_s is not None]
        found[kind] = {
            "times": len(mine),
            "ready_median_s": round(statistics.median(well), 2) if well else -1,
            "ready_max_s": round(max(well, default=-1), 2),
            "served_max_s": round(max(served, default=-1), 2),
            "gap_max_s": round(max((one.gap_s for one in mine), default=0.0), 3),
        }
    return found


def show(result: Result) -> None:
    """For people."""
    if result.done:
        _table(result)
    tally = result.tally
    print(
        f"seed {result.seed}, {result.seconds:.0f} s, {len(result.done)} faults: "
        f"{tally.conversations} conversations ({tally.not_opened} not opened while something was "
        f"away), {tally.turns} turns ({tally.interrupts} interrupted, {tally.cut_turns} cut with "
        f"their connection), {tally.commands} commands, {tally.calls} calls, {tally.events} events "
        f"({tally.healed} fetched again)"
    )
    if tally.phone_calls:
        print(
            f"gateway: {tally.phone_calls} of the conversations went through it, "
            f"{tally.phoned_again} connections were made again"
        )
    if (found := result.recordings) is not None:
        print(
            f"recorder: {found.whole} recordings whole, {found.with_gaps} with gaps that are named "
            f"(the longest {found.missing_ms} ms), {found.unseen} conversations began and ended "
            "while no recorder ran"
        )
    for fault in result.faults[:50]:
        print(f"  {fault}")
    print(f"{len(result.faults)} lost or repeated")


def _table(result: Result) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("fault", "times", "ready again", "at most", "all served", "pause of sound"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for kind, one in _by_kind(result.done).items():
        table.add_row(
            kind,
            f"{one['times']:.0f}",
            f"{one['ready_median_s']:.2f} s",
            f"{one['ready_max_s']:.2f} s",
            f"{one['served_max_s']:.2f} s",
            f"{one['gap_max_s'] * 1000:.0f} ms",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _failed(error: Exception) -> None:
    raise error
