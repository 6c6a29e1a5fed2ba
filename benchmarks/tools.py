"""Tools: an empty round trip, the throughput of the pool, and a tool that must be killed."""

import asyncio
import os
import select
import tempfile
import time
from pathlib import Path

from voicebus.benchmarks.figures import Result, Table, ages
from voicebus.benchmarks.harness import Broken, Provider, Scale, cell, ours
from voicebus.benchmarks.interrupt import until_noted
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages import work
from voicebus.bus.messages.base import encode
from voicebus.bus.sockets import Frames, Sockets
from voicebus.client import RealtimeClient

GRACE_MS = 100.0
"""Of the tool `stuck` in load_tools.py."""
STRANGER = "s9-" + "0" * 26
"""A conversation of no session process: its calls are ours."""

_outcomes: Codec[work.ANY_FROM_DISPATCHER] = Codec(work.ANY_FROM_DISPATCHER, what="dispatcher")


def _round_trips(result: Result, table: Table, provider: Provider, scale: Scale) -> None:
    rounds = scale.rounds * 10
    with cell(provider) as stack:
        app = ours(stack)
        for run_number in range(scale.repeats):
            provider.do("call", names=["empty"], rounds=rounds)
            took = ages(ns / 1e6 for _, ns, _ in provider.outputs(rounds))
            table.add(
                "empty call, there and back", run_number + 1, took.frames, took.p50, took.p99, "ms"
            )
            result.note("tools.empty.p50", took.p50)
            result.note("tools.empty.p99", took.p99)
            alone = ages(asyncio.run(_pool_alone(stack.run_dir, rounds)))
            table.add(
                "empty call, the pool alone",
                run_number + 1,
                alone.frames,
                alone.p50,
                alone.p99,
                "ms",
            )
            result.note("tools.pool.p50", alone.p50)
        app.stop()
        app = ours(stack, sessions=8, style="light")
        for run_number in range(scale.repeats):
            count = 8 * 4 * rounds // 8
            began = time.monotonic()
            provider.do("call", names=["empty"] * 4, rounds=rounds // 8)
            count = len(provider.outputs(4 * (rounds // 8) * 8))
            per_s = count / (time.monotonic() - began)
            table.add(
                "4 runners, 8 sessions: calls per second", run_number + 1, count, per_s, "", "1/s"
            )
            result.note("tools.per_s", per_s)
        app.stop()


async def _pool_alone(run_dir: Path, rounds: int) -> list[float]:
    """Milliseconds from submitting an empty call to its outcome, in the place of a session."""
    waiting: dict[str, asyncio.Future[None]] = {}
    here = asyncio.Event()
    took: list[float] = []

    def heard(frames: Frames) -> None:
        message, _ = _outcomes.decode(frames)
        if isinstance(message, work.ToolCatalogue) and message.tools:
            here.set()
        elif isinstance(message, work.Outcome) and message.call_id in waiting:
            ack = work.OutcomeAck(session_id=STRANGER, call_id=message.call_id)
            dealer.send([encode(ack)])
            if message.status != "ok":
                raise Broken(f"tools: an empty call ended as {message.status}: {message.failure}")
            waiting.pop(message.call_id).set_result(None)

    with Sockets() as sockets:
        dealer = sockets.dealer(Endpoints(run_dir).calls, heard, name="session-9")
        dealer.send([encode(work.Follow(shard=9, inc="bench"))])
        async with asyncio.timeout(30):
            await here.wait()
        for number in range(rounds):
            call_id = f"bench-{time.monotonic_ns()}-{number}"
            waiting[call_id] = asyncio.get_running_loop().create_future()
            call = work.SubmitCall(
                session_id=STRANGER,
                call_id=call_id,
                tool="empty",
                args={},
                epoch=0,
                budget_ms=20_000,
            )
            at = time.perf_counter()
            dealer.send([encode(call)])
            async with asyncio.timeout(30):
                await waiting[call_id]
            took.append((time.perf_counter() - at) * 1000)
            await asyncio.sleep(0.001)
    return took


async def _killed(
    provider: Provider, run_dir: Path, rounds: int
) -> tuple[list[float], list[float]]:
    """After the grace until dead, and from there until the next call's code begins."""
    dead, next_ready = [], []
    with tempfile.TemporaryDirectory(prefix="vb") as folder:
        async with RealtimeClient(run_dir) as client:
            # The second session's call waits for the runner: an interrupt would cancel the first's.
            session = await client.connect({"lease_s": 600.0})
            other = await client.connect({"lease_s": 600.0})
            for one in (session, other):
                async for event in one.events():
                    if event.kind == "session_opened":
                        break
            for number in range(rounds):
                note, following = Path(folder) / f"stuck-{number}", Path(folder) / f"next-{number}"
                provider.do("call", line=0, names=["stuck"], arguments={"note": str(note)})
                await until_noted(note, "begun")
                pid = int(note.read_text().split()[2])
                fd = os.pidfd_open(pid)
                provider.do("call", line=1, names=["begins"], arguments={"note": str(following)})
                await asyncio.sleep(0.05)
                at_ns = time.monotonic_ns()
                await session.interrupt()
                gone = await asyncio.to_thread(_gone_ns, fd)
                os.close(fd)
                dead.append((gone - at_ns) / 1e6 - GRACE_MS)
                begun = await until_noted(following, "begun")
                next_ready.append((begun - gone) / 1e6)
                await asyncio.sleep(0.3)
            await session.close()
            await other.close()
    return dead, next_ready


def _gone_ns(fd: int) -> int:
    """When the process ended."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(10_000):
        raise Broken("tools: the stuck tool was not killed within 10 s")
    return time.monotonic_ns()


def run(scale: Scale) -> Result:
    """All of it."""
    table = Table(
        "Tools",
        ("what", "run", "count", "p50", "p99", "unit"),
        note="An empty call: from the provider's arguments.done to the output at the provider, so "
        "through transport, session, dispatcher, host and runner and back; the pool alone: from "
        "submit to outcome, in the session's place. Killed: a tool in a C call, by an interrupt, "
        "after its grace of 100 ms; with one runner, so that the next call waits for its "
        "replacement.",
    )
    result = Result([table])
    with Provider() as provider:
        _round_trips(result, table, provider, scale)
    with Provider() as provider, cell(provider, toolhost_runners="1") as stack:
        for run_number in range(scale.repeats):
            dead, next_ready = asyncio.run(
                _killed(provider, stack.run_dir, max(2, scale.rounds // 4))
            )
            for name, values in (
                ("stuck in C: grace over to dead", dead),
                ("dead to the next call's code", next_ready),
            ):
                of = ages(values)
                table.add(name, run_number + 1, of.frames, of.p50, of.p99, "ms")
            result.note("tools.dead.p99", ages(dead).p99)
            result.note("tools.refill.p99", ages(next_ready).p99)
    return result
