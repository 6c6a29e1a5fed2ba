"""Recovery: kill each process in mid-sentence: the gap in the sound, and the next event."""

import itertools
import time
from typing import NamedTuple

from voicebus.benchmarks.figures import Result, Table
from voicebus.benchmarks.harness import Came, Provider, Scale, cell, ours
from voicebus.cli.testing import Stack

BEFORE_S = 1.0
AFTER_S = 3.0
WORDS_EVERY_S = 0.02


class Seen(NamedTuple):
    """What came to the application, and what had been sent to it."""

    came: Came
    killed_ns: int
    frames: int
    words: int


def measure(provider: Provider, stack: Stack, name: str | None) -> Seen:
    """Sound and words every 20 ms while that process is killed."""
    seconds = BEFORE_S + AFTER_S
    with ours(stack) as app:
        provider.until(1, "voicebus")
        time.sleep(0.3)
        words = int(seconds / WORDS_EVERY_S)
        before = provider.do("words", every_s=WORDS_EVERY_S, count=words)["sent"]
        provider.do("sound", seconds=seconds)
        time.sleep(BEFORE_S)
        killed_ns = time.monotonic_ns()
        if name is not None:
            pid = stack.kill(name)
            if name.startswith("transport-"):
                # Its connection has gone with it: the answer begins anew on the next one.
                for calls in (0, 1):
                    provider.until(calls, "voicebus", every_s=0.002)
                provider.do("sound", seconds=seconds)
            stack.wait_ready(name, after=pid)
        time.sleep(max(0.0, AFTER_S + 0.1 - (time.monotonic_ns() - killed_ns) / 1e9))
        frames = provider.do("sound", seconds=0)["sent"] - before
        time.sleep(0.2)
        came = app.stop()
    provider.until(0, "voicebus")
    return Seen(came, killed_ns, frames, words)


def _gap_ms(rows: list[tuple[int, int, int]], since_ns: int) -> float:
    """The longest silence at the application from then on."""
    got = sorted(got for _, got, _ in rows)
    silences = ((b - a) / 1e6 for a, b in itertools.pairwise(got) if b >= since_ns)
    return max(silences, default=float("nan"))


def run(scale: Scale) -> Result:
    """Each process, and once none."""
    table = Table(
        "Recovery: a process is killed with SIGKILL in mid-sentence",
        (
            "killed",
            "run",
            "sound gap ms",
            "sound max age ms",
            "frames lost",
            "events resume ms",
            "events",
            "of",
            "twice",
        ),
        note="Sound and a transcript each 20 ms in one session. A killed transport loses its "
        "connection to the provider and what was in flight; the provider begins another answer as "
        "soon as there is a connection again, and repeats nothing.",
    )
    result = Result([table])
    with Provider() as provider, cell(provider) as stack:
        for name in (None, *scale.kills):
            for run_number in range(scale.repeats):
                came, killed_ns, frames, said = measure(provider, stack, name)
                lost = frames - len({number for _, _, number in came.sound})
                resume = _gap_ms(came.words, killed_ns)
                words = [number for _, _, number in came.words]
                oldest = max(((g - m) / 1e6 for m, g, _ in came.sound), default=float("nan"))
                who = name or "nobody"
                table.add(
                    who,
                    run_number + 1,
                    _gap_ms(came.sound, killed_ns),
                    oldest,
                    lost,
                    resume,
                    len(set(words)),
                    said,
                    len(words) - len(set(words)),
                )
                result.note(f"recovery.{who}.sound_lost", float(lost))
                result.note(f"recovery.{who}.sound_max_age", oldest)
                result.note(f"recovery.{who}.resume_ms", resume)
                result.note(f"recovery.{who}.events_lost", float(said - len(set(words))))
                result.note(f"recovery.{who}.events_twice", float(len(words) - len(set(words))))
                time.sleep(0.5)
    return result
