"""Listeners: how old sound is at one application while others listen badly."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from voicebus.benchmarks.figures import Result, Table, of_rows
from voicebus.benchmarks.harness import Broken, Provider, Scale, cell, ours
from voicebus.benchmarks.stall import measure
from voicebus.cli.testing import Stack

COLUMNS = ("other listeners", "run", "frames", "p50 ms", "p99 ms", "max ms")
TOPICS = 10_000
PROGRAM = """
import asyncio, sys
from voicebus.bus.sockets import Sockets

async def listen(topics, endpoints):
    with Sockets() as sockets:
        sockets.subscriber(endpoints, topics, lambda frames: None)
        print("listening", flush=True)
        await asyncio.Event().wait()

count, *endpoints = sys.argv[1:]
topics = [b""] if count == "0" else [b"event/%d/" % n for n in range(int(count))]
asyncio.run(listen(topics, endpoints))
"""


@contextlib.contextmanager
def _nobody(stack: Stack) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _listener(stack: Stack, topics: int) -> Iterator[int]:
    endpoints = [stack.endpoints.events(0), stack.endpoints.audio_out(0)]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(topics), *endpoints],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "listening\n":
                raise Broken("the listener did not start")
            yield process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def _frozen(stack: Stack) -> Iterator[None]:
    """It subscribed to everything and reads nothing more."""
    with _listener(stack, 0) as pid:
        os.kill(pid, signal.SIGSTOP)
        yield


@contextlib.contextmanager
def _greedy(stack: Stack) -> Iterator[None]:
    with _listener(stack, TOPICS):
        yield


CASES = {"none": _nobody, "one that is frozen": _frozen, f"one with {TOPICS} topics": _greedy}


def run(scale: Scale) -> Result:
    """The same sound each time; only who else listens differs."""
    table = Table(
        "Age of sound at an application while another subscriber is slow or greedy",
        COLUMNS,
        note="The first row, measured again, is the noise of this machine.",
    )
    result = Result([table])
    seconds = min(2.0, scale.seconds)
    with Provider() as provider, cell(provider) as stack:
        for run_number in range(scale.repeats):
            for case, listening in CASES.items():
                with listening(stack):
                    app = ours(stack)
                    since_ns, until_ns, _ = measure(provider, [], seconds)
                    ages = of_rows(app.stop().sound, since_ns, until_ns)
                table.add(case, run_number + 1, ages.frames, ages.p50, ages.p99, ages.max)
                for what in ("p50", "p99", "max"):
                    result.note(f"listeners.{case}.{what}", getattr(ages, what))
    return result
