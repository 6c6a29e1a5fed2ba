"""The floor: what one frame of sound costs at least, as bare loops on this machine, now."""

import base64
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event

from voicebus.benchmarks import noise, wire
from voicebus.benchmarks.figures import Result, Table, ages
from voicebus.benchmarks.harness import Provider, Scale, bare
from voicebus.benchmarks.shared import stamps

WAKES = 300
KILLS = 20
_DELTA = {
    "type": "response.output_audio.delta",
    "event_id": "event_sound",
    "response_id": "resp_1_1",
    "item_id": "item_1_1",
    "output_index": 0,
    "content_index": 0,
    "delta": stamps.frame_base64(1).decode(),
}


def _echo(end: socket.socket, is_over: Event) -> None:
    while not is_over.is_set():
        got = end.recv(64)
        if not got:
            return
        end.send(got)


def two_wakes_ms() -> list[float]:
    """Another process is woken and wakes us: a socket there and back, at the pace of sound."""
    ours, theirs = socket.socketpair()
    is_over = multiprocessing.Event()
    child = multiprocessing.get_context("fork").Process(target=_echo, args=(theirs, is_over))
    child.start()
    found = []
    try:
        for _ in range(WAKES):
            time.sleep(0.005)
            began = time.monotonic_ns()
            ours.send(b"x" * 16)
            ours.recv(64)
            found.append((time.monotonic_ns() - began) / 1e6)
    finally:
        is_over.set()
        ours.close()
        theirs.close()
        child.join(2)
        if child.is_alive():
            child.kill()
    return found


def killed_ms() -> list[float]:
    """A process that computes is killed and has ended for its parent: SIGKILL to its collection."""
    found = []
    for _ in range(KILLS):
        child = multiprocessing.get_context("fork").Process(target=_spin)
        child.start()
        time.sleep(0.01)
        began = time.monotonic_ns()
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        found.append((time.monotonic_ns() - began) / 1e6)
    return found


def _spin() -> None:
    while True:
        pass


def each_us(what: Callable[[], object], seconds: float = 0.2) -> float:
    """How long one takes in a loop of its own, without the loop."""
    what()
    count = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(100):
            what()
        count += 100
    return (time.perf_counter() - began) / count * 1e6


def run(scale: Scale) -> Result:
    """All of it, once per repetition."""
    taken = Table(
        "Noise: what a program that only looks at the clock loses, one on each core",
        ("run", "times over 1 ms, per second and core", "longest ms", "lost %"),
        note="Whatever needs every core is held up like this; several hops in a row more often.",
    )
    table = Table(
        "The floor: bare loops on this machine",
        ("what", "run", "p50", "p99", "unit"),
        note="Two wake-ups: a byte to another process and back. Killed: from SIGKILL to a bare "
        "process that computes until its parent has collected it. The bare client: one WebSocket "
        "from the provider to an application that does nothing else.",
    )
    result = Result([table, taken])
    text = json.dumps(_DELTA)
    audio = str(_DELTA["delta"])
    loops: dict[str, Callable[[], object]] = {
        "WebSocket frame built": lambda: wire.encode(text.encode()),
        "JSON parsed": lambda: json.loads(text),
        "base64 decoded": lambda: base64.b64decode(audio),
    }
    cores = os.cpu_count() or 1
    for run_number in range(scale.repeats):
        gaps = noise.held_up(scale.seconds / 2)
        watched_s = scale.seconds / 2 * cores
        longest, lost = max(gaps, default=0.0), sum(gaps) / watched_s / 10
        taken.add(run_number + 1, len(gaps) / watched_s, longest, lost)
        result.note("floor.held_up.longest", longest)
        wakes = ages(two_wakes_ms())
        table.add("two kernel wake-ups", run_number + 1, wakes.p50 * 1000, wakes.p99 * 1000, "us")
        result.note("floor.wakes.p50", wakes.p50)
        result.note("floor.wakes.p99", wakes.p99)
        killed = ages(killed_ms())
        table.add("killed", run_number + 1, killed.p50 * 1000, killed.p99 * 1000, "us")
        result.note("floor.killed.p99", killed.p99)
        for name, loop in loops.items():
            took = each_us(loop)
            table.add(name, run_number + 1, took, "", "us")
            result.note(f"floor.{name}", took)
        with Provider() as provider:
            app = bare(provider)
            provider.do("sound", seconds=scale.seconds)
            time.sleep(scale.seconds + 0.2)
            sound = ages((got - made) / 1e6 for made, got, _ in app.stop().sound)
        table.add("bare client, sound", run_number + 1, sound.p50 * 1000, sound.p99 * 1000, "us")
        result.note("floor.bare.p50", sound.p50)
        result.note("floor.bare.p99", sound.p99)
        result.note("floor.bare.max", sound.max)
    return result
