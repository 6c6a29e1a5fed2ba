"""Wakes processes that were stopped, tells of them, and kills those that do not wake."""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import psutil

from voicebus.bus import topics
from voicebus.bus.frames import Codec
from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.messages.system import ProcessReport, State
from voicebus.services.runtime import Runtime
from voicebus.services.tools import stopped

_states: Codec[State] = Codec(State, what="state")


class Waker:
    """Looks at whom it is told to."""

    def __init__(self, runtime: Runtime[Any], *, found_s: float = stopped.FOUND_S) -> None:
        self._runtime = runtime
        self._stopped = stopped.Watch(found_s)

    def look(self, watched: Mapping[int, str], now_s: float) -> None:
        """Process ids, and what they are called. Costs what a beat costs, for each of them."""
        for seen in self._stopped.looked([pid for pid in watched if _is_stopped(pid)], now_s):
            if seen.pid not in watched:
                continue  # it has ended, which is told elsewhere
            self._tell(watched[seen.pid], seen)
            if seen.what != "recovered":
                number = signal.SIGCONT if seen.what == "frozen" else signal.SIGKILL
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seen.pid, number)

    def _tell(self, name: str, seen: stopped.Seen) -> None:
        why = {
            "frozen": "it was stopped",
            "recovered": "it runs again",
            "killed": "it was still stopped after it had been woken",
        }[seen.what]
        report = ProcessReport(
            inc=self._runtime.inc,
            process=name,
            pid=seen.pid,
            what=seen.what,
            why=why,
            silent_ms=round(seen.stopped_s * 1000),
            at_us=time.time_ns() // 1000,
        )
        self._runtime.publish_system("process", encode(report))
        log = self._runtime.log
        tell = log.info if seen.what == "recovered" else log.warning
        tell(f"process.{seen.what}", process=name, pid=seen.pid, why=why)


class Watchman:
    """`health-0`, which watches everybody else: where it is, by its own words."""

    def __init__(self, runtime: Runtime[Any]) -> None:
        self._pid: int | None = None
        topic = topics.system("health", 0, "state")
        runtime.sockets.subscriber([runtime.endpoints.state("health", 0)], [topic], self._spoke)

    def pids(self) -> dict[int, str]:
        """For a waker; empty until it has spoken."""
        return {} if self._pid is None else {self._pid: "health-0"}

    def _spoke(self, frames: list[bytes]) -> None:
        with contextlib.suppress(BadMessage, psutil.Error):
            state, _ = _states.decode(frames[1:])
            # Its number may be a stranger's by now.
            is_ours = psutil.Process(state.pid).ppid() == os.getppid()
            self._pid = state.pid if is_ours else None


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        # Not a debugger's stop: whoever looks into a tool is not disturbed.
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False
