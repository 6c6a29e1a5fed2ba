"""`voicebus restart`: other code, the same conversations."""

import asyncio
import contextlib
import signal
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Annotated

import typer

from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.system import State
from voicebus.cli import calm, folders, processes, stack
from voicebus.cli.options import RunDir
from voicebus.cli.problems import Problem
from voicebus.config import loader
from voicebus.services.supervisor import Program, Silent, Supervisor

ORDER = (
    "tools",
    "dispatcher",
    "session",
    "transport",
    "gateway",
    "relay",
    "recorder",
    "simulator",
    "health",
)
"""What costs least first."""
SILENCE_S = 30.0
READY_S = 60.0
LOOK_S = 1.0
"""How often it is looked whether one that says nothing has ended."""
FAILING_S = 10.0
"""Who says for so long that it cannot work will not soon; a slow disk says so for a moment."""
NEXT_HOST = "toolhost-1"
HOST = "toolhost-0"


def restart(
    roles: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE…",
            help=f"{', '.join(ORDER)}; or all.",
        ),
    ],
    run_dir: RunDir = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="How long a transport waits for a silence of all conversations.",
        ),
    ] = SILENCE_S,
) -> None:
    """Restart roles one process after the other while calls go on; return when each is ready.

    session: its conversations wait half a second and go on, the sound does not pause. tools: the
    next host takes the new calls while the old one finishes what runs. transport: each conversation
    leaves for another transport in its next silence; of a single transport a silence of all is
    awaited. They reconnect to the provider, which is told their history.
    """
    wanted = ORDER if "all" in roles else tuple(dict.fromkeys(roles))
    for role in wanted:
        if role not in ORDER:
            raise Problem(
                f"there is no role {role!r} to restart{loader.nearest(role, (*ORDER, 'all'))}"
            )
    work = Restart(folders.choose(run_dir), wait)
    for role in sorted(wanted, key=ORDER.index):
        work.role(role, must_be_there="all" not in roles)


class Restart:
    """Restarts the roles of one run folder."""

    def __init__(
        self, run_dir: Path, silence_s: float = SILENCE_S, tell: stack.Tell | None = None
    ) -> None:
        """Raises Problem when nothing runs there."""
        self._endpoints = Endpoints(run_dir)
        self._supervisor = Supervisor(run_dir)
        self._silence_s = silence_s
        self._tell = tell or _print
        try:
            self._programs = self._supervisor.programs() if self._supervisor.pid() else {}
        except (Silent, OSError, xmlrpc.client.Error) as error:
            raise Problem(f"supervisord in {run_dir} gives no answer: {error}") from None
        if not self._programs:
            recorded = processes.recorded_supervisor(run_dir)
            if recorded is not None:
                raise Problem(
                    f"{stack.out_of_reach(run_dir, recorded.pid)}; `voicebus down` ends it after "
                    "the last call, and `voicebus up` starts it anew"
                )
            raise Problem(
                f"Voicebus does not run in {run_dir}; "
                f"start it with `voicebus up --run-dir {run_dir}`"
            )

    def role(self, role: str, *, must_be_there: bool = True) -> None:
        """All processes of a role, one after the other. Raises Problem."""
        if role == "tools":
            self._tools()
            return
        mine = [one for one in self._programs.values() if one.name.startswith(f"{role}-")]
        # One that was stopped, perhaps by an interrupted restart, is started if it is named.
        wanted = self._supervisor.wanted() if must_be_there else set()
        running = [one for one in mine if one.pid or one.has_fallen or one.name in wanted]
        if not running and must_be_there:
            raise Problem(f"no {role} runs in {self._endpoints.run_dir}")
        for program in running:
            if role == "transport" and sum(1 for one in running if one.pid) > 1:
                self._empty(program.name)
            elif role == "transport":
                self._wait_for_silence()
            self._again(program)

    def _again(self, program: Program) -> None:
        begun = time.monotonic()
        self._stop(program.name)
        self._start(program.name, after=program.pid)
        self._tell(f"{program.name} is ready again after {time.monotonic() - begun:.1f} s")

    def _tools(self) -> None:
        """By generation: there is always a host that takes calls."""
        if HOST not in self._programs:
            raise Problem(f"no tool host runs in {self._endpoints.run_dir}")
        found = self._supervisor.now()
        if found[NEXT_HOST].pid:
            # A restart was interrupted, and what it left there may be the code of before.
            if found[HOST].state == "STOPPING":
                self._stop(HOST)
            self._start(HOST, after=0)
            self._stop(NEXT_HOST)
        before = self._supervisor.now()[HOST].pid
        try:
            self._start(NEXT_HOST, after=0)
        except Problem as problem:
            self._stop(NEXT_HOST)
            raise Problem(f"{problem}\n  {HOST} goes on with the tools that it has") from None
        self._tell(f"{NEXT_HOST} takes the new calls; {HOST} finishes what runs")
        self._stop(HOST)
        self._start(HOST, after=before)
        self._stop(NEXT_HOST)
        self._tell(f"{HOST} is ready again")

    def _empty(self, name: str) -> None:
        """Its conversations leave it for the other transports, each in a silence of its own."""
        try:
            self._supervisor.send_signal(name, signal.SIGUSR2)
        except (Silent, OSError, xmlrpc.client.Error):
            return  # it has just ended by itself
        left = asyncio.run(
            calm.until(
                self._endpoints,
                lambda now: not _on(now, name),
                self._silence_s,
                lambda now: self._tell(f"waiting for {len(_on(now, name))} to leave {name}"),
            )
        )
        if cut := len(_on(left, name)):
            self._tell(
                f"{cut} conversations found no silence to leave {name} within "
                f"{self._silence_s:g} s: their turns are cut"
            )

    def _wait_for_silence(self) -> None:
        begun = time.monotonic()
        left = asyncio.run(
            calm.until(
                self._endpoints,
                calm.are_silent,
                self._silence_s,
                lambda now: self._tell(f"waiting for a silence: {_busy(now)}"),
            )
        )
        waited_s = time.monotonic() - begun
        if not calm.are_silent(left):
            self._tell(
                f"no silence within {self._silence_s:g} s ({_busy(left)}): their turns are cut"
            )
        elif waited_s > 1:
            self._tell(f"silence after {waited_s:.1f} s")

    def _stop(self, name: str) -> None:
        try:
            self._supervisor.stop(name)
        except (Silent, OSError, xmlrpc.client.Error) as error:
            raise Problem(f"{name} did not stop: {error}; see voicebus status") from None

    def _start(self, name: str, *, after: int) -> None:
        """Until another process than `after` is ready. Raises Problem, as soon as it is clear that
        this one does not get so."""
        run_dir = self._endpoints.run_dir
        logs = stack.log_sizes(run_dir)
        end = time.monotonic() + READY_S
        failing_at: float | None = None
        try:
            self._supervisor.start(name, wait=False)
            while True:
                state = asyncio.run(self._spoke(name, after))
                now = time.monotonic()
                if state is None:
                    failing_at = None
                elif state.state == "ready":
                    return
                else:
                    failing_at = failing_at or now
                    time.sleep(LOOK_S)
                how = stack.ended(name, run_dir, logs)
                if how is not None:
                    fault = f"could not start: {how}"
                elif state is not None and now - (failing_at or now) > FAILING_S:
                    fault = f"is not ready: {state.why}"
                elif now > end:
                    fault = f"did not get ready within {READY_S:g} s"
                else:
                    continue
                tail = stack.tail(self._supervisor.now()[name], logs)
                raise Problem(f"{name} {fault}{tail}")
        except (Silent, OSError, xmlrpc.client.Error) as error:
            raise Problem(f"{name} could not be started: {error}; see voicebus status") from None

    async def _spoke(self, name: str, after: int) -> State | None:
        """What the next process says of itself, once it works or knows that it does not."""

        def fits(state: State) -> bool:
            return state.pid != after and state.state in {"ready", "failing"}

        with contextlib.suppress(TimeoutError):
            role, number = stack.role_of(name)
            return await testing.next_state(self._endpoints, role, number, fits, LOOK_S)
        return None


def _on(sessions: calm.Sessions, transport: str) -> calm.Sessions:
    return [one for one in sessions if one.get("transport") == transport]


def _busy(sessions: calm.Sessions) -> str:
    loud = [one["session_id"] for one in sessions if not one.get("silent")]
    return f"{len(loud)} of {len(sessions)} conversations are not silent"


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
