"""A whole cell for tests: every process under supervisord, in a private run folder."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.system import State
from voicebus.cli import processes, stack
from voicebus.cli.guard import GUARD
from voicebus.cli.plan import Wish
from voicebus.services.supervisor import Supervisor

LOG_LINES = 50


class LeftBehind(AssertionError):
    """A process, socket or lock outlived the cell, or a process had to be ended by force."""


class Stack:
    """A running cell."""

    def __init__(self, status: stack.StackStatus) -> None:
        self.run_dir: Path = status.run_dir
        self.endpoints = Endpoints(status.run_dir)
        self.provider = status.provider
        self.names: tuple[str, ...] = tuple(one.name for one in status.processes)
        self.supervisor = Supervisor(status.run_dir)
        self._known: dict[int, psutil.Process] = {}
        self._note_processes()

    def pids(self) -> dict[str, int]:
        """Process name -> pid, of those that run."""
        return {one.name: one.pid for one in self.supervisor.programs().values() if one.pid}

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one process. Returns its pid."""
        self._note_processes()
        pid = self.pids()[name]
        os.kill(pid, number)
        return pid

    def wait_ready(self, name: str, *, after: int | None = None, within_s: float = 30.0) -> State:
        """Until that process is ready; with `after`, one with another pid. Not inside a loop."""
        return asyncio.run(self.ready(name, after=after, within_s=within_s))

    async def ready(self, name: str, *, after: int | None = None, within_s: float = 30.0) -> State:
        """As wait_ready, inside a loop."""
        role, _, instance = name.rpartition("-")

        def fits(state: State) -> bool:
            return state.state == "ready" and state.pid != after

        return await testing.next_state(self.endpoints, role, int(instance), fits, within_s)

    def log(self, name: str, lines: int = LOG_LINES) -> list[str]:
        """The last lines of one process's log (`supervisord`, too)."""
        return stack.log_tail(self.run_dir / f"{name}.log", lines)

    def logs(self, lines: int = LOG_LINES) -> dict[str, list[str]]:
        """The last lines of each."""
        return logs(self.run_dir, lines)

    def close(self) -> None:
        """Stop it. Raises LeftBehind when anything stays, or had to be ended by force."""
        self._note_processes()
        ended = stack.stop(self.run_dir)
        left = testing.left_behind(self.run_dir, tuple(self._known.values()))
        processes.end(self._known.values())
        faults = [f"ended by force: process {one}" for one in ended.stragglers] + left
        if faults:
            raise LeftBehind("\n  ".join(["the cell was not stopped cleanly:", *faults]))

    def _note_processes(self) -> None:
        with contextlib.suppress(Exception):
            pid = self.supervisor.pid()
            if pid is not None:
                for process in processes.family([psutil.Process(pid)]):
                    self._known.setdefault(process.pid, process)


def logs(run_dir: Path, lines: int = LOG_LINES) -> dict[str, list[str]]:
    """The last lines of each log of a run folder."""
    return {path.stem: stack.log_tail(path, lines) for path in sorted(run_dir.glob("*.log"))}


@contextlib.contextmanager
def running(wish: Wish, on_failure: Callable[[str], None] = stack.silent) -> Iterator[Stack]:
    """A cell in a private run folder, ready; stopped and checked at the end.

    The environment's provider and key never get in: without a provider of the wish's own, the
    simulator is it. `on_failure` gets the logs when the cell does not start. When this process is
    killed, the cell ends within seconds, too.
    """
    given = dict(os.environ if wish.environment is None else wish.environment)
    for name in [name for name in given if name.startswith("VOICEBUS_")] + ["OPENAI_API_KEY"]:
        given.pop(name, None)
    with testing.run_folder() as folder, GUARD.watching(folder):
        simulator = wish.simulator if wish.simulator is not None else wish.provider_url is None
        own = replace(wish, run_dir=folder, environment=given, simulator=simulator)
        try:
            cell = Stack(stack.start(own))
        except Exception as error:
            for name, tail in logs(folder).items():
                text = "\n".join(tail)
                error.add_note(f"--- {name} ---\n{text}")
                on_failure(f"--- {name} ---\n{text}")
            raise
        try:
            yield cell
        finally:
            cell.close()
