"""Listeners: how old sound is at one application while others listen badly, or send garbage."""

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
TENTH_S = 0.2
"""Between two messages: sound alone comes in fifty a second."""
READER = """
import asyncio, sys, time
from voicebus.bus.sockets import Sockets

async def listen(pause_s, topics, endpoints):
    with Sockets() as sockets:
        sockets.subscriber(endpoints, topics, lambda frames: time.sleep(pause_s))
        print("listening", flush=True)
        await asyncio.Event().wait()

count, pause_s, *endpoints = sys.argv[1:]
topics = [b""] if count == "0" else [b"event/%d/" % n for n in range(int(count))]
asyncio.run(listen(float(pause_s), topics, endpoints))
"""
DEAF = """
import sys, time, zmq

raw = zmq.Context().socket(zmq.SUB)
raw.subscribe(b"")
for endpoint in sys.argv[1:]:
    raw.connect(endpoint)
print("listening", flush=True)
while True:
    time.sleep(60)
"""
"""Its sockets' own thread goes on: what it has no room for waits at the publishers."""
VANDAL = """
import random, sys, time, zmq

chance, context, sockets = random.Random(7), zmq.Context(), []
for endpoint in sys.argv[1:]:
    publishes = endpoint.endswith((".events", ".audio-out", ".state"))
    raw = context.socket(zmq.XSUB if publishes else zmq.DEALER)
    raw.setsockopt(zmq.LINGER, 0)
    raw.setsockopt(zmq.RCVHWM, 1)
    raw.connect(endpoint)
    sockets.append(raw)
print("listening", flush=True)
while True:
    for raw in sockets:
        frames = [chance.choice([b"{}", b"[" * 500, b"\\x01x", chance.randbytes(4000)])]
        try:
            raw.send_multipart(frames * chance.choice([1, 3]), zmq.DONTWAIT)
        except zmq.Again:
            pass
    time.sleep(0.001)
"""


@contextlib.contextmanager
def _program(text: str, *words: object) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", text, *map(str, words)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "listening\n":
                raise Broken("the listener did not start")
            yield process.pid
        finally:
            process.kill()


def _publishers(stack: Stack) -> list[str]:
    return [stack.endpoints.events(0), stack.endpoints.audio_out(0)]


@contextlib.contextmanager
def _nobody(stack: Stack) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _frozen(stack: Stack) -> Iterator[None]:
    """It subscribed to everything, and is stopped with all its threads."""
    with _program(READER, 0, 0, *_publishers(stack)) as pid:
        os.kill(pid, signal.SIGSTOP)
        yield


@contextlib.contextmanager
def _deaf(stack: Stack) -> Iterator[None]:
    """It subscribed to everything and reads nothing."""
    with _program(DEAF, *_publishers(stack)):
        yield


@contextlib.contextmanager
def _slow(stack: Stack) -> Iterator[None]:
    """It subscribed to everything and reads a tenth of it."""
    with _program(READER, 0, TENTH_S, *_publishers(stack)):
        yield


@contextlib.contextmanager
def _greedy(stack: Stack) -> Iterator[None]:
    with _program(READER, TOPICS, 0, *_publishers(stack)):
        yield


@contextlib.contextmanager
def _vandal(stack: Stack) -> Iterator[None]:
    """What means nothing, to every socket that is bound, a thousand times a second."""
    with _program(VANDAL, *stack.endpoints.every().values()):
        yield


CASES = {
    "none": _nobody,
    "one that is frozen": _frozen,
    "one that reads nothing": _deaf,
    "one that reads a tenth": _slow,
    f"one with {TOPICS} topics": _greedy,
    "one that sends garbage": _vandal,
}


def run(scale: Scale) -> Result:
    """The same sound each time; only who else listens differs."""
    table = Table(
        "Age of sound at an application while another program is slow, greedy or hostile",
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
