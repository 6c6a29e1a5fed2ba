"""The shell of the health listener: hears supervisord and the beacons, and does what is decided."""

import asyncio
import contextlib
import os
import signal
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import psutil

from voicebus.bus.frames import Codec
from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.messages.system import ProcessReport, State
from voicebus.config.settings import HealthSettings
from voicebus.services.health import notices, watch
from voicebus.services.runtime import Runtime
from voicebus.services.supervisor import Program, Silent, Supervisor

What = Literal["died", "restarted", "frozen", "recovered", "killed", "given_up", "revived"]

LOOK_S = 0.25
ROUND_S = 1.0
"""How often supervisord is asked how its programs are, while all is quiet."""
POKE_S = 0.2
"""The same where the system does not tell us of a child's death."""
URGENT_S = 0.03
URGENT_ROUNDS = 100
ANSWER_S = 2.0
LOG_BYTES = 16_384
BLIND = (
    "supervisord cannot be reached, its socket supervisor.sock was deleted: frozen processes are "
    "woken but not replaced; to mend it: voicebus down, then voicebus up"
)
ALIVE = frozenset({"STARTING", "RUNNING"})
COMING = ALIVE | {"EXITED", "UNKNOWN"}
PATIENCE = {"simulator": 3.0}
"""Roles that load large models on their way: so many times the usual."""

_states: Codec[State] = Codec(State, what="state")
Gone = (OSError, xmlrpc.client.Error, Silent)


class _Process:
    """One program of supervisord's."""

    def __init__(self, name: str, policy: watch.Policy) -> None:
        self.name = name
        self.policy = policy
        self.state = "UNKNOWN"
        self.watched: watch.Watched | None = None
        self.spoken_pid: int | None = None
        """Who spoke last. Notices come late at the listener's own start: STARTING of a process that
        has been heard long before, and may be stuck by now."""
        self.lost_pid: int | None = None
        """Died, and its successor is not ready yet."""
        self.forget: Callable[[], None] | None = None
        """Stops waiting for its death."""
        self.reviving: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        return None if self.watched is None else self.watched.pid


class Listener:
    """All programs of one supervisord."""

    def __init__(self, runtime: Runtime[HealthSettings], protocol: int) -> None:
        self._runtime = runtime
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._log = runtime.log
        run_dir = runtime.endpoints.run_dir
        self._supervisor = Supervisor(run_dir, answer_s=ANSWER_S)
        self._supervisor_log = run_dir / "supervisord.log"
        self._inbox = notices.Inbox()
        self._processes: dict[str, _Process] = {}
        self._urgent = asyncio.Event()
        self._is_shutting_down = False
        self._looked_s = self._loop.time()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until told to stop."""
        os.set_blocking(0, False)
        self._loop.add_reader(0, self._read)
        self._answer(notices.READY)
        await self._ask()
        self._runtime.ready()
        work = [
            asyncio.create_task(self._look_for_ever()),
            asyncio.create_task(self._ask_for_ever()),
        ]
        stopping = asyncio.create_task(self._runtime.stopping.wait())
        await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
        self._loop.remove_reader(0)
        for task in (*work, stopping, *self._tasks):
            task.cancel()
        for task in work:
            if task.done() and not task.cancelled():
                task.result()

    # --- supervisord's notices ----------------------------------------------------------------

    def _read(self) -> None:
        try:
            piece = os.read(0, 65_536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._loop.remove_reader(0)  # the runtime sees that supervisord is gone
            return
        for notice in self._inbox.take(piece):
            self._noticed(notice)
            self._answer(notices.DONE + notices.READY)

    def _answer(self, words: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._protocol, words)

    def _noticed(self, notice: notices.Notice) -> None:
        if notice.what == "SUPERVISOR_STATE_CHANGE_STOPPING":
            self._is_shutting_down = True
        if not notice.what.startswith("PROCESS_STATE_") or not notice.process:
            return
        process = self._known(notice.process)
        if process is None:
            return
        process.state = notice.what.removeprefix("PROCESS_STATE_")
        match process.state:
            case "STARTING":
                self._follow(process, None)
            case "RUNNING" if notice.pid is not None:
                self._follow(process, notice.pid)
            case "EXITED" | "BACKOFF":
                self._died(process, notice.pid)
            case "STOPPED":
                process.lost_pid = None
                self._follow(process, None)
            case "FATAL":
                self._given_up(process)
            case _:
                pass

    def _known(self, name: str) -> _Process | None:
        role, _, number = name.rpartition("-")
        if role == self._runtime.role or not number.isdigit():
            return None
        if name not in self._processes:
            self._processes[name] = _Process(name, _policy(self._runtime.settings, role))
            address = self._runtime.endpoints.state(role, int(number))
            self._runtime.sockets.subscriber([address], [b"system/"], self._heard)
        return self._processes[name]

    def _died(self, process: _Process, pid: int | None) -> None:
        end = notices.end_of(process.name, _tail(self._supervisor_log))
        known = pid if pid is not None else process.pid
        process.lost_pid = known or process.lost_pid or 0
        self._follow(process, None)
        self._report(
            process.name,
            "died",
            pid=known,
            why=end.words,
            exit_code=end.exit_code,
            signal=end.signal,
        )
        self._urgent.set()

    def _given_up(self, process: _Process) -> None:
        if process.reviving is not None:
            return
        after_s = self._runtime.settings.revive_s
        why = f"supervisord has given it up; it is started again in {after_s:g} s"
        self._report(process.name, "given_up", why=why)
        process.reviving = self._loop.call_later(after_s, self._revive, process)

    def _revive(self, process: _Process) -> None:
        process.reviving = None
        if process.state == "FATAL" and not self._is_shutting_down:
            self._in_background(self._start(process))

    async def _start(self, process: _Process) -> None:
        with contextlib.suppress(*Gone):
            await asyncio.to_thread(self._supervisor.start, process.name, wait=False)
            self._report(process.name, "revived", why="it had been given up")

    # --- pids and deaths ----------------------------------------------------------------------

    def _follow(self, process: _Process, pid: int | None) -> None:
        """This pid is the program now."""
        if process.pid == pid:
            return
        if process.forget is not None:
            process.forget()
            process.forget = None
        has_spoken = pid == process.spoken_pid
        process.watched = None if pid is None else watch.Watched(pid=pid, has_spoken=has_spoken)
        if pid is not None:
            process.forget = self._on_death(pid)

    def _on_death(self, pid: int) -> Callable[[], None] | None:
        """Wake up when it dies; None where the system cannot tell."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._urgent.set()
            return None
        except (AttributeError, OSError):
            return None

        def forget() -> None:
            self._loop.remove_reader(fd)
            os.close(fd)

        def died() -> None:
            self._loop.remove_reader(fd)
            self._urgent.set()

        self._loop.add_reader(fd, died)
        return forget

    async def _ask_for_ever(self) -> None:
        """A look at supervisord each second; after a death, until the dead are back."""
        while True:
            blind = any(one.pid and one.forget is None for one in self._processes.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POKE_S if blind else ROUND_S):
                    await self._urgent.wait()
            if self._urgent.is_set():
                self._urgent.clear()
                await self._hurry()
            await self._ask()

    async def _hurry(self) -> None:
        """supervisord buries in one round of its loop and starts in the next: make it go round."""
        for _ in range(URGENT_ROUNDS):
            found = await self._ask()
            if all(one.pid or one.state not in COMING for one in found.values()) and all(
                one.pid is None or psutil.pid_exists(one.pid) for one in self._processes.values()
            ):
                return
            await asyncio.sleep(URGENT_S)

    async def _ask(self) -> dict[str, Program]:
        try:
            found = await asyncio.to_thread(self._supervisor.now)
        except Silent:
            self._wake_supervisor()
            return {}
        except Gone as error:
            if isinstance(error, FileNotFoundError) and not self._is_shutting_down:
                self._runtime.failing(BLIND)
            return {}  # else it is ending; the runtime sees when it has
        self._runtime.ready()
        for program in found.values():
            process = self._known(program.name)
            if process is None:
                continue
            process.state = program.state
            if program.pid and program.state in ALIVE:
                self._follow(process, program.pid)
            if program.state == "FATAL":
                self._given_up(process)
        return found

    def _wake_supervisor(self) -> None:
        pid = os.getppid()
        with contextlib.suppress(psutil.Error):
            stopped = psutil.Process(pid).status() == psutil.STATUS_STOPPED
            why = f"it does not answer within {ANSWER_S:g} s" + (": it was stopped" * stopped)
            self._report("supervisord", "frozen", pid=pid, why=why, silent_ms=ANSWER_S * 1000)
            if stopped:
                os.kill(pid, signal.SIGCONT)

    # --- silence ------------------------------------------------------------------------------

    def _heard(self, frames: list[bytes]) -> None:
        try:
            state, _ = _states.decode(frames[1:])
        except BadMessage:
            return  # not a state: roles say other things on this lane, too
        process = self._known(f"{state.role}-{state.instance}")
        if process is None:
            return
        if process.pid is None and process.state in COMING and psutil.pid_exists(state.pid):
            self._follow(process, state.pid)
        process.spoken_pid = state.pid
        if process.watched is None or process.pid != state.pid:
            return
        process.watched, deeds = watch.spoke(process.watched)
        self._do(process, deeds)
        if process.lost_pid is not None and state.state == "ready":
            before, process.lost_pid = process.lost_pid, None
            self._report(process.name, "restarted", pid=state.pid, why=f"it follows {before}")

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = self._loop.time()
            seconds, self._looked_s = now_s - self._looked_s, now_s
            for process in tuple(self._processes.values()):
                self._look(process, seconds)

    def _look(self, process: _Process, seconds: float) -> None:
        watched = process.watched
        if watched is None or process.state not in ALIVE or self._is_shutting_down:
            return
        body = None
        if watch.wants_a_closer_look(watched, process.policy):
            body = _body(watched.pid)
        process.watched, deeds = watch.passed(watched, seconds, body, process.policy)
        self._do(process, deeds)

    def _do(self, process: _Process, deeds: tuple[watch.Deed, ...]) -> None:
        pid = process.pid
        if pid is None:
            return
        for deed in deeds:
            match deed:
                case watch.Tell("frozen" | "recovered" | "killed" as what, why, silent_s):
                    silent_ms = round(silent_s * 1000)
                    self._report(process.name, what, pid=pid, why=why, silent_ms=silent_ms)
                case watch.Dump() if process.watched is not None and process.watched.has_spoken:
                    _signal(pid, signal.SIGUSR1)
                case watch.Continue():
                    _signal(pid, signal.SIGCONT)
                case watch.Kill():
                    self._in_background(self._kill(process, pid))
                case _:
                    pass

    async def _kill(self, process: _Process, pid: int) -> None:
        """Unless somebody has just asked for its stop, or it is another one by now."""
        found = await self._ask()
        program = found.get(process.name)
        if program is not None and program.pid == pid and program.state in ALIVE:
            _signal(pid, signal.SIGKILL)

    # --- telling ------------------------------------------------------------------------------

    def _report(self, process: str, what: What, **fields: Any) -> None:
        report = ProcessReport(
            inc=self._runtime.inc,
            process=process,
            what=what,
            at_us=time.time_ns() // 1000,
            **fields,
        )
        self._runtime.publish_system("process", encode(report))
        known = {name: value for name, value in fields.items() if value is not None}
        tell = self._log.info if what in ("restarted", "recovered") else self._log.warning
        tell(f"process.{what}", process=process, **known)

    def _in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _policy(settings: HealthSettings, role: str) -> watch.Policy:
    by = PATIENCE.get(role, 1.0)
    grace_s = settings.transport_grace_s if role == "transport" else settings.grace_s
    return watch.Policy(
        stopped_s=settings.silent_s,
        stuck_s=settings.silent_s * by,
        starved_s=max(settings.starved_s, settings.silent_s) * by,
        start_s=settings.start_s,
        grace_s=grace_s,
    )


def _body(pid: int) -> watch.Body | None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        status, times = process.status(), process.cpu_times()
        return watch.Body(
            is_stopped=status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP),
            is_waiting=status in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP),
            cpu_s=times.user + times.system,
        )
    return None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
