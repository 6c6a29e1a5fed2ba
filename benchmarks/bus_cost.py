"""What the bus costs: publishing to many, events through one session process, their age.

    python -P benchmarks/bus_cost.py [--quick] [--out FILE.json]

Figures of one run are comparable with each other; from machine to machine only their ratios are.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import zmq

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Sockets
from voicebus.cli.plan import Wish
from voicebus.cli.testing import Stack, running
from voicebus.client import RealtimeClient

SUBSCRIBERS = (1, 4, 16, 64)
READERS = 4
"""Processes that the subscribers are spread over."""
HEADER = json.dumps(
    {
        "v": 1,
        "kind": "assistant_transcript_delta",
        "session_id": "s0-01k9yq3v5m8x2c4e6g7h9j0n1p",
        "seq": 123456,
        "prev": 123450,
        "epoch": 3,
        "inc": "9f3a11c2",
        "at_us": 1793000000123456,
        "cause": None,
        "data": {"turn_id": "resp_002", "item_id": "item_4", "content_index": 0, "delta": " hello"},
    }
).encode()
TOPIC = b"event/s0-01k9yq3v5m8x2c4e6g7h9j0n1p/assistant_transcript_delta"
SCENARIO = """
about = "A flood of words, and words at the speed of speech."

[[answer]]
when = {{ text = "flood" }}
say = "{flood}"

[[answer]]
when = {{ text = "speak" }}
say = "{speech}"
pace = 1.0
"""


def machine() -> dict[str, Any]:
    """Where these figures come from."""
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "load": round(os.getloadavg()[0], 2),
    }


# --- publishing -------------------------------------------------------------------------------


def _read(endpoint: str, count: int, stop: Any) -> None:
    """A process with `count` subscribers that keep up."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    for number in range(count):
        raw = context.socket(zmq.SUB)
        raw.setsockopt(zmq.RCVHWM, 100_000)
        raw.subscribe(b"event/")
        # One of its own, after it: how the publisher knows that this one listens, too.
        raw.subscribe(f"reader/{os.getpid()}/{number}/".encode())
        raw.connect(endpoint)
        poller.register(raw, zmq.POLLIN)
    while not stop.is_set():
        for raw, _ in poller.poll(100):
            try:
                for _ in range(200):
                    raw.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                pass


async def _publish(endpoint: str, subscribers: int, messages: int) -> float:
    """Microseconds of CPU per message, I/O thread included."""
    come = asyncio.Event()
    arrived = 0

    def subscribed(topic: bytes) -> None:
        nonlocal arrived
        arrived += topic.startswith(b"reader/")
        if arrived == subscribers:
            come.set()

    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    share = [subscribers // READERS + (n < subscribers % READERS) for n in range(READERS)]
    processes = [
        spawn.Process(target=_read, args=(endpoint, count, stop), daemon=True)
        for count in share
        if count
    ]
    with Sockets() as sockets:
        publisher = sockets.publisher(endpoint, subscribed, queue=100_000)
        for process in processes:
            process.start()
        await come.wait()
        before = time.process_time()
        for number in range(messages):
            publisher.publish(TOPIC, [HEADER])
            if number % 50 == 49:
                await asyncio.sleep(0.002)  # 25,000 a second at most: nobody is to fall behind
        await asyncio.sleep(0.2)
        used = time.process_time() - before
    stop.set()
    for process in processes:
        process.join(5)
    return used / messages * 1e6


def publishing(messages: int) -> list[dict[str, Any]]:
    """CPU per message for more and more subscribers."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as folder:
        for subscribers in SUBSCRIBERS:
            cost = asyncio.run(
                _publish(Endpoints(folder).events(subscribers % 99), subscribers, messages)
            )
            ratio = cost / rows[0]["cpu_us_per_message"] if rows else 1.0
            rows.append(
                {
                    "subscribers": subscribers,
                    "cpu_us_per_message": round(cost, 1),
                    "ratio": round(ratio, 2),
                }
            )
            print(f"  {subscribers:3} subscribers  {cost:6.1f} us CPU/message  x{ratio:.2f}")
    return rows


# --- through a session process ----------------------------------------------------------------


async def _flood(stack: Stack) -> dict[str, Any]:
    process = psutil.Process(stack.pids()["session-0"])
    async with RealtimeClient(stack.run_dir) as client:
        session = await client.connect(modalities=["text"])
        events = session.events()
        before, began = process.cpu_times(), time.perf_counter()
        await session.send_text("flood")
        count = 0
        async for event in events:
            count += 1
            if event.kind == "assistant_turn_completed":
                break
        wall = time.perf_counter() - began
        after = process.cpu_times()
        await session.close()
    cpu = after.user + after.system - before.user - before.system
    row = {
        "events": count,
        "events_per_s": round(count / wall),
        "session_cpu_us_per_event": round(cpu / count * 1e6, 1),
    }
    print(f"  {row['events_per_s']} events/s, {row['session_cpu_us_per_event']} us CPU each")
    return row


class Listener:
    """A plain subscriber in a thread: notes how old each event is when it arrives."""

    def __init__(self, endpoint: str) -> None:
        self.ages_us: list[int] = []
        self._stop = threading.Event()
        self._endpoint = endpoint
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        raw = context.socket(zmq.SUB)
        raw.setsockopt(zmq.LINGER, 0)
        raw.subscribe(b"event/")
        raw.connect(self._endpoint)
        while not self._stop.is_set():
            if raw.poll(100):
                _, header = raw.recv_multipart()
                now_us = time.time_ns() // 1000
                event = json.loads(header)
                if event.get("seq") is not None:  # not a welcome, not a head
                    self.ages_us.append(now_us - event["at_us"])
        raw.close()
        context.term()

    def stop(self) -> list[int]:
        """The ages, sorted."""
        self._stop.set()
        self._thread.join()
        return sorted(self.ages_us)


async def _age(stack: Stack, sessions: int, seconds: float) -> dict[str, Any]:
    async with RealtimeClient(stack.run_dir) as client:
        opened = [await client.connect(headless=True) for _ in range(sessions)]
        await asyncio.gather(*(one.send_text("speak") for one in opened))
        await asyncio.sleep(1.0)
        listener = await asyncio.to_thread(Listener, stack.endpoints.events(0))
        await asyncio.sleep(seconds)
        ages = await asyncio.to_thread(listener.stop)
        await asyncio.gather(*(one.close() for one in opened))
    p50, p99 = (ages[int(len(ages) * part)] / 1000 for part in (0.5, 0.99))
    row = {
        "sessions": sessions,
        "events": len(ages),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "mean_ms": round(statistics.fmean(ages) / 1000, 2),
    }
    print(f"  {sessions:3} sessions  {len(ages)} events  p50 {p50:.2f} ms  p99 {p99:.2f} ms")
    return row


def through_a_session(words: int, seconds: float, sessions: tuple[int, ...]) -> dict[str, Any]:
    """Events a second, CPU for each, and their age at a subscriber."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "words.toml"
        flood = " ".join(f"w{n}" for n in range(words))
        speech = " ".join(f"w{n}" for n in range(int(seconds * 10) + 60))
        scenario.write_text(SCENARIO.format(flood=flood, speech=speech))
        settings = {
            "VOICEBUS_SIMULATOR_SPEECH": "off",
            "VOICEBUS_SIMULATOR_SCENARIO": str(scenario),
        }
        with running(Wish(settings=settings)) as stack:
            print("events through one session process")
            flooded = [asyncio.run(_flood(stack)) for _ in range(3)]
            print("age of an event at a subscriber")
            ages = [asyncio.run(_age(stack, count, seconds)) for count in sessions]
    return {"flood": flooded, "age": ages}


def main(words: Sequence[str] | None = None) -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it work?")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    options = parser.parse_args(words)
    about = machine()
    print(" ".join(f"{name}={value}" for name, value in about.items()))
    print("publisher: CPU per message")
    found: dict[str, Any] = {"about": about}
    found["publisher"] = publishing(2_000 if options.quick else 20_000)
    found |= through_a_session(
        1_000 if options.quick else 8_000,
        1.0 if options.quick else 10.0,
        (2, 5) if options.quick else (1, 20, 100),
    )
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
