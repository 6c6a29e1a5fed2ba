"""Calls under random kills: every call must have exactly one outcome, whatever dies."""

import asyncio
import collections
import contextlib
import os
import random
import signal
import time

import psutil

from voicebus.benchmarks.figures import Result, Table
from voicebus.benchmarks.harness import Broken, Provider, Scale, cell
from voicebus.cli.testing import Stack
from voicebus.client import Event, RealtimeClient, RealtimeSession

SESSIONS = 8
BATCH = 4
KILL_EVERY_S = (0.3, 1.0)
SEED = 11
ENDS = frozenset({"tool_call_completed", "tool_call_failed"})
PATIENCE_S = 60.0


class _Count:
    """Outcomes of one session, by call."""

    def __init__(self, session: RealtimeSession) -> None:
        self.ended: collections.Counter[str] = collections.Counter()
        self.reasons: collections.Counter[str] = collections.Counter()
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self._read(session))

    async def _read(self, session: RealtimeSession) -> None:
        async for event in session.events():
            self._note(event)

    def _note(self, event: Event) -> None:
        call_id = getattr(event.data, "call_id", None)
        if call_id is None:
            return
        if event.kind in ENDS:
            self.ended[call_id] += 1
            self.reasons[str(getattr(event.data, "reason", "ok"))] += 1
        self.changed.set()


async def _kill(
    stack: Stack, chance: random.Random, over: asyncio.Event
) -> collections.Counter[str]:
    """Runners mostly, hosts and the dispatcher now and then, until it is over."""
    killed: collections.Counter[str] = collections.Counter()
    while not over.is_set():
        await asyncio.sleep(chance.uniform(*KILL_EVERY_S))
        who = chance.choices(("runner", "toolhost-0", "dispatcher-0"), (8, 1, 1))[0]
        pids = await asyncio.to_thread(stack.pids)
        with contextlib.suppress(psutil.Error, KeyError, ProcessLookupError, ValueError):
            if who == "runner":
                found = psutil.Process(pids["toolhost-0"]).children(recursive=True)
                if found:
                    os.kill(chance.choice(found[1:] or found).pid, signal.SIGKILL)
            else:
                os.kill(pids[who], signal.SIGKILL)
            killed[who] += 1
    return killed


async def _calls(
    provider: Provider, stack: Stack, calls: int
) -> tuple[int, list[_Count], collections.Counter[str], float]:
    async with RealtimeClient(stack.run_dir) as client:
        sessions = [await client.connect({"lease_s": 3600.0}) for _ in range(SESSIONS)]
        counts = [_Count(session) for session in sessions]
        while provider.do("count")["count"] < SESSIONS:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)
        over = asyncio.Event()
        killing = asyncio.create_task(_kill(stack, random.Random(SEED), over))
        began = time.monotonic()
        rounds = -(-calls // (SESSIONS * BATCH))
        asked = rounds * BATCH * SESSIONS
        provider.do("call", names=["empty"] * BATCH, rounds=rounds)
        last, moved_at = 0, time.monotonic()
        while (done := sum(len(one.ended) for one in counts)) < asked:
            if done != last:
                last, moved_at = done, time.monotonic()
            elif time.monotonic() - moved_at > PATIENCE_S:
                break
            await asyncio.sleep(0.1)
        took = time.monotonic() - began
        over.set()
        killed = await killing
        await asyncio.sleep(1.0)
        for one in counts:
            one.task.cancel()
        for name in ("toolhost-0", "dispatcher-0"):
            await stack.ready(name)
        for session in sessions:
            await session.close()
    return asked, counts, killed, took


def run(scale: Scale) -> Result:
    """Once: the chances are seeded, the machine's are not."""
    table = Table(
        "Tool calls under random kills",
        ("calls", "kills", "lost", "outcome twice", "output twice", "calls per s", "outcomes"),
        note="Eight sessions, four calls a turn; SIGKILL to a runner, now and then to the tool "
        "host or the dispatcher, every 0.3 to 1 s. calls: those that the provider asked for. lost: "
        "a call without an outcome, or whose output did not come to the provider.",
    )
    result = Result([table])
    with Provider() as provider, cell(provider) as stack:
        asked, counts, killed, took = asyncio.run(_calls(provider, stack, scale.calls))
        outputs = collections.Counter(
            call_id for call_id, _, _ in provider.do("outputs")["outputs"]
        )
    if not any(one.ended for one in counts):
        raise Broken("chaos: no call has ended")
    lost = asked - min(sum(len(one.ended) for one in counts), len(outputs))
    twice = sum(1 for one in counts for times in one.ended.values() if times > 1)
    again = sum(1 for times in outputs.values() if times > 1)
    reasons: collections.Counter[str] = collections.Counter()
    for one in counts:
        reasons += one.reasons
    table.add(
        asked, sum(killed.values()), lost, twice, again, asked / took,
        ", ".join(f"{name} {count}" for name, count in reasons.most_common()),
    )  # fmt: skip
    result.note("chaos.calls", float(asked))
    result.note("chaos.kills", float(sum(killed.values())))
    result.note("chaos.lost", float(lost))
    result.note("chaos.twice", float(twice + again))
    return result
