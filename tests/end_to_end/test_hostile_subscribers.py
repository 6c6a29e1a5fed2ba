"""Whatever a subscriber does, nobody else notices; and one that was too slow recovers."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import psutil
import pytest

from voicebus.cli.testing import Stack
from voicebus.client import Event, RealtimeClient, Sound

SAMPLES = Path(__file__).parent / "samples"
FOLLOW = Path(__file__).parents[2] / "examples" / "python" / "follow.py"
FLOOD = 10_000
"""Events: more than a publisher (5000) and a subscriber (1000) keep for each other."""
JOINING = 10
"""More than there can be before a follower's subscription is active; it asks for those, too."""
TONE_MS = 1500
TOPICS = 10_000
"""Of samples/greedy.py."""

# What each may make a process hold, in MB. It need not give it back: heaps do not shrink.
COLD_MB = 10
"""A process's first conversations; 9 were measured."""
STUCK_MB = 5_000 // 1000
"""A stuck subscriber: its publisher's queue, of events of 1 kB. A delta is 340 bytes of header and
62 of topic, each with 120 of ZeroMQ's own."""
FLOOD_MB = FLOOD * 2 // 1000
"""The flood while nothing of it can be journaled, 2 kB an event; 18 were measured with the
journal's lock held all along, cold."""
TOPICS_MB = TOPICS * 5 // 2 // 1000
"""Subscriptions, 2.5 kB each, as message, in ZeroMQ's tree and in ours, with the welcomes; 21 were
measured, cold."""
NOISE_MB = 18
"""Two sockets of a process read what samples/vandal.py sends, at most 9 each by its dice, and may
come to it when all of it is there. Publishers end a connection that says what is too long."""

SCENARIO = f"""
about = "A flood of events, and a tone as fast as it is played."

[[answer]]
when = {{ text = "flood" }}
say = "{" ".join(f"w{n}" for n in range(FLOOD))}"

[[answer]]
when = {{ text = "tone" }}
say = "A tone."
tone_ms = {TONE_MS}
pace = 1.0
"""

WITHIN_S = 30.0


class Program:
    """A running program; its lines as they come."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-P", *map(str, words)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self._lines: Queue[str] = Queue()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    async def line(self, start: str) -> str:
        """The next line that begins so."""
        loop = asyncio.get_running_loop()
        end = loop.time() + WITHIN_S
        while loop.time() < end:
            try:
                line = self._lines.get_nowait()
            except Empty:
                await asyncio.sleep(0.01)
                continue
            if line.startswith(start):
                return line
            assert line, f"it ended before {start!r}"
        raise TimeoutError(f"no {start!r} within {WITHIN_S:g} s")

    def tell(self, line: str) -> None:
        """On its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._reading.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


Start = Callable[..., Program]


@pytest.fixture(scope="module")
def cell(start_shared_stack: Callable[..., Stack], tmp_path_factory: Any) -> Stack:
    scenario = tmp_path_factory.mktemp("hostile") / "flood.toml"
    scenario.write_text(SCENARIO)
    return start_shared_stack(scenario=scenario)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program; ended with the test."""
    with contextlib.ExitStack() as running:

        def run(*words: object) -> Program:
            program = Program(*words)
            running.callback(program.close)
            return program

        yield run


async def _ask(session: Any, text: str) -> list[Event]:
    seen: list[Event] = []
    events = session.events()
    await session.send_text(text)
    async for event in events:
        seen.append(event)
        if event.kind == "assistant_turn_completed":
            break
    return seen


async def _undisturbed(client: RealtimeClient) -> None:
    """A conversation with sound at the speed of time: every event and every sample, in order."""
    async with client.connect() as session:
        sound = session.audio_output()
        seen = await _ask(session, "tone")
        at = 0
        samples = 24 * TONE_MS
        async for piece in sound:
            if isinstance(piece, Sound):
                assert piece.offset_samples == at
                at += len(piece.samples) // 2
            if at >= samples:
                break

        assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
        joining = [stretch for stretch in session.healed if stretch.last == 1]
        assert list(session.healed) == joining  # the first event may come before our subscription


def _memory_mb(cell: Stack) -> dict[str, int]:
    return {
        name: psutil.Process(pid).memory_info().rss >> 20
        for name, pid in cell.pids().items()
        if name.startswith(("session", "transport", "dispatcher"))
    }


def _check_memory(cell: Stack, before: dict[str, int], *allowed_mb: int) -> None:
    limit_mb = COLD_MB + sum(allowed_mb)
    now = _memory_mb(cell)
    assert now.keys() == before.keys()
    for name, size in now.items():
        told = f"{name} has grown from {before[name]} to {size} MB, by more than {limit_mb}"
        assert size - before[name] <= limit_mb, told


@pytest.mark.parametrize("mode", ["still", "tenth", "frozen"])
async def test_a_slow_subscriber_disturbs_nobody_and_recovers(
    cell: Stack, start: Start, mode: str
) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        session = await client.connect(modalities=["text"])
        program = [FOLLOW] if mode == "frozen" else [SAMPLES / "slow_listener.py", mode]
        slow = start(*program, cell.run_dir, session.id)
        await slow.line("following")
        if mode == "frozen":
            slow.process.send_signal(signal.SIGSTOP)
        before = _memory_mb(cell)

        flood = asyncio.create_task(_ask(session, "flood"))
        await _undisturbed(client)
        await flood

        _check_memory(cell, before, STUCK_MB, FLOOD_MB)
        if mode == "frozen":
            slow.process.send_signal(signal.SIGCONT)
        else:
            slow.tell("go\n")
        await session.close()
        told = (await slow.line("complete:")).split()
        assert int(told[1]) > FLOOD
        lost = int(told[3]) - JOINING
        assert lost > 0, "nothing was lost: the flood was too small to show anything"


async def test_a_subscriber_of_ten_thousand_topics_disturbs_nobody(
    cell: Stack, start: Start
) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        before = _memory_mb(cell)
        greedy = start(SAMPLES / "greedy.py", cell.run_dir)
        talking = asyncio.create_task(_undisturbed(client))
        await greedy.line("done")
        await talking
        await _undisturbed(client)

        _check_memory(cell, before, TOPICS_MB)


async def test_sound_is_whole_beside_all_of_them_at_once(cell: Stack, start: Start) -> None:
    """One that is frozen and has subscribed to everything, ten thousand topics, and garbage."""
    async with RealtimeClient(cell.run_dir) as client:
        pids = cell.pids()
        before = _memory_mb(cell)
        frozen = start(SAMPLES / "hoarder.py", cell.run_dir)
        await frozen.line("listening")
        frozen.process.send_signal(signal.SIGSTOP)
        greedy = start(SAMPLES / "greedy.py", cell.run_dir)
        vandal = start(SAMPLES / "vandal.py", cell.run_dir)
        talking = asyncio.create_task(_undisturbed(client))
        async with client.connect(modalities=["text"]) as flooded:
            await _ask(flooded, "flood")
        await greedy.line("done")
        await vandal.line("done")
        await talking
        await _undisturbed(client)

        assert cell.pids() == pids
        _check_memory(cell, before, STUCK_MB, FLOOD_MB, TOPICS_MB, NOISE_MB)


async def test_garbage_to_every_socket_disturbs_nobody(cell: Stack, start: Start) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        pids = cell.pids()
        before = _memory_mb(cell)
        vandal = start(SAMPLES / "vandal.py", cell.run_dir)
        talking = asyncio.create_task(_undisturbed(client))
        done = await vandal.line("done")
        await talking
        await _undisturbed(client)

        assert int(done.split()[1]) >= 12, "it found fewer sockets than there are"
        assert cell.pids() == pids
        _check_memory(cell, before, NOISE_MB)
