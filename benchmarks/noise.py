"""Noise: what a program that only looks at the clock loses to others, on every core at once."""

import multiprocessing
import os
import time
from multiprocessing.connection import Connection

HELD_UP_MS = 1.0


def held_up(seconds: float) -> list[float]:
    """Every stretch of over a millisecond that was taken from one such program per core, in
    milliseconds. They want nothing but the core, so what takes it is another program of this
    machine or, if it is a virtual one, of its host."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(os.cpu_count() or 1)]
    watchers = [context.Process(target=_look_at_the_clock, args=(seconds, end)) for _, end in pipes]
    for watcher in watchers:
        watcher.start()
    found = [gap for end, _ in pipes for gap in end.recv()]
    for watcher in watchers:
        watcher.join()
    return found


def _look_at_the_clock(seconds: float, end: Connection) -> None:
    gaps = []
    last = time.monotonic()
    until = last + seconds
    while last < until:
        now = time.monotonic()
        if now - last > HELD_UP_MS / 1000:
            gaps.append((now - last) * 1000)
        last = now
    end.send(gaps)
