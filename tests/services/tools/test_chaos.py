"""Runners, the host and the dispatcher are killed at random while conversations call tools; the
auditor reads the journal, and every call has ended exactly once.

Everything is real: session processes, journals, supervisord. `make chaos` makes 10,000 calls.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from tests.end_to_end.support import Caller
from voicebus.cli import main
from voicebus.cli.audit import examine
from voicebus.cli.plan import Wish
from voicebus.cli.testing import Stack, running
from voicebus.client import RealtimeClient
from voicebus.client import audit as rules
from voicebus.services.session.archive import Archive

COUNTED = Path(__file__).parent / "samples" / "counted.py"
CALLS = int(os.environ.get("CHAOS_CALLS", "250"))
SESSIONS = 20
RUNNERS = 8
MIXES = 40
"""So many different things a model may ask for at once,"""
AT_ONCE = 5
"""each of so many calls."""
TURN_S = 90.0
ATTEMPTS = 3
EFFECTS = {"read": "none", "store": "idempotent", "pay": "once"}
VICTIMS = ("toolhost-0", "dispatcher-0", "runner", "runner")
CALLS_PER_KILL = (20, 100) if CALLS >= 10_000 else (10, 40)
KILLS = CALLS // CALLS_PER_KILL[1]
"""At least; where processes come back slowly, more calls are made for that."""


def scenario(chance: random.Random) -> str:
    """What the model asks for: calls of all kinds that take 1 to 150 ms."""
    parts = ['about = "Several calls at once."', "[server]", "pace = 0", "[[answer]]"]
    parts += ['when = { output = "" }', 'say = "Done."']
    for number in range(MIXES):
        parts += ["[[answer]]", f'when = {{ text = "mix {number:02}" }}', "call = ["]
        for _ in range(AT_ONCE):
            tool, ms = chance.choice(tuple(EFFECTS)), chance.randrange(1, 150)
            parts.append(f'{{ name = "{tool}", arguments = {{ ms = {ms} }} }},')
        parts.append("]")
    return "\n".join(parts)


class Chaos:
    """Twenty conversations while one hand kills processes."""

    def __init__(self, stack: Stack, chance: random.Random) -> None:
        self.stack = stack
        self.random = chance
        self.called = 0
        self.killed: Counter[str] = Counter()
        self._came = asyncio.Event()

    async def converse(self, client: RealtimeClient) -> str:
        """One conversation: a turn with several calls after the other."""
        caller = Caller(await client.connect({"modalities": ["text"], "lease_s": 300}))
        while self.called < CALLS or sum(self.killed.values()) < KILLS:
            self.called += AT_ONCE
            self._came.set()
            await caller.turn(f"mix {self.random.randrange(MIXES):02}", within_s=TURN_S)
        await caller.session.close()
        await caller.event("session_closed", within_s=TURN_S)
        await caller.close()
        return caller.id

    async def kill(self) -> None:
        """Until cancelled: one after so many calls, at a moment of their own."""
        while True:
            due = self.called + self.random.randrange(*CALLS_PER_KILL)
            victim = self.random.choice(VICTIMS)
            while self.called < due:
                self._came.clear()
                await self._came.wait()
            await asyncio.sleep(self.random.uniform(0, 0.2))
            if victim == "runner":
                self._kill_a_runner()
            else:
                # A process that supervisord has not brought back yet cannot be killed.
                await self.stack.ready(victim)
                self.stack.kill(victim)
            self.killed[victim] += 1

    def _kill_a_runner(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess, IndexError, KeyError):
            host = psutil.Process(self.stack.pids()["toolhost-0"])
            server = host.children()[0]
            self.random.choice(server.children()).kill()


@pytest.fixture
def seed() -> int:
    """Of everything that is chosen here; the moments are the machine's."""
    chosen = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
    print(f"CHAOS_SEED={chosen}", flush=True)  # noqa: T201 - shown when it fails
    return chosen


@pytest.fixture
def stack(tmp_path: Path, seed: int) -> Iterator[Stack]:
    (tmp_path / "chaos.toml").write_text(scenario(random.Random(seed)))
    (tmp_path / "begun").touch()
    tools_file = tmp_path / "tools.toml"
    tools_file.write_text('[tools]\nenvironment = ["BEGUN_FILE"]\n')
    wish = Wish(
        tools=[str(shutil.copy(COUNTED, tmp_path))],
        environment={**os.environ, "BEGUN_FILE": str(tmp_path / "begun")},
        settings={
            "VOICEBUS_DATA": str(tmp_path / "data"),
            "VOICEBUS_SIMULATOR_SCENARIO": str(tmp_path / "chaos.toml"),
            "VOICEBUS_SIMULATOR_SPEECH": "off",
            "VOICEBUS_TOOLHOST_TOOLS_FILE": str(tools_file),
            "VOICEBUS_TOOLHOST_RUNNERS": str(RUNNERS),
            # Shown is that nothing is lost: what is refused early would not be called.
            "VOICEBUS_DISPATCHER_BREAKER_FAILURES": "0",
            "VOICEBUS_DISPATCHER_REFUSE_LATE": "0",
            "VOICEBUS_DISPATCHER_PER_SESSION_RUNNING": "50",
        },
    )
    with running(wish) as one:
        yield one


# By itself it is not repeated: a fault that comes at random would hide behind its second chance.
@pytest.mark.flaky(reruns=0)
@pytest.mark.timeout(3600)
async def test_the_auditor_finds_nothing_missing_doubled_or_dangling(
    stack: Stack, seed: int, tmp_path: Path
) -> None:
    chaos = Chaos(stack, random.Random(seed))
    async with RealtimeClient(stack.run_dir) as client, asyncio.TaskGroup() as group:
        killing = group.create_task(chaos.kill())
        talking = [group.create_task(chaos.converse(client)) for _ in range(SESSIONS)]
        await asyncio.wait(talking)
        killing.cancel()
    sessions = [one.result() for one in talking]

    # What `voicebus audit` calls, and what it says.
    data = tmp_path / "data"
    with Archive(data / "session-0.db") as archive:
        reports = [examine(archive, kept) for kept in archive.sessions()]
        events = [one for session in sessions for one in archive.events(session)]
    words = ["audit", "--data", str(data), "--json"]
    told = CliRunner().invoke(main.build(words), words)
    ran = Counter((tmp_path / "begun").read_text().split())
    faults = rules.runs(events, ran, EFFECTS, most=ATTEMPTS)
    ended = Counter(
        (one["data"]["name"], one["data"].get("reason", "ok"))
        for one in events
        if one["kind"] in rules.ENDS
    )
    print(f"CHAOS_SEED={seed}", dict(ended), f"kills: {dict(chaos.killed)}")  # noqa: T201

    assert {one["session_id"] for one in reports} == set(sessions)
    assert [one["faults"] for one in reports] == [[]] * SESSIONS
    assert (told.exit_code, json.loads(told.stdout)) == (0, reports)
    assert faults == []
    assert sum(ended.values()) == chaos.called >= CALLS
    assert sum(chaos.killed.values()) >= KILLS
    assert {tool for tool, status in ended if status == "unknown"} <= {"pay"}
    assert {tool for tool, status in ended if status == "lost"} <= {"read", "store"}
    assert {status for _, status in ended} <= {"ok", "crashed", "unknown", "lost", "busy"}
    # On a machine that is too busy, health may take the dispatcher for frozen and replace it.
    refused = {one["data"]["error"] for one in events if one["data"].get("reason") == "busy"}
    assert refused <= {"the tool pool is being stopped; try again"}
    harmless = {status: ended["read", status] + ended["store", status] for _, status in ended}
    # A killed runner takes one call with it; of few calls that is a large part.
    if CALLS >= 10_000:
        assert harmless["ok"] >= 0.99 * sum(harmless.values())
