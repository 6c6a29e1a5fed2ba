"""The stack: all processes of a run folder under supervisord, started, shown and stopped as one."""

import asyncio
import contextlib
import importlib.resources
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from voicebus.bus import locks
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.locks import AlreadyRunning, RoleLock
from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.system import State
from voicebus.bus.sockets import Sockets
from voicebus.cli import plan, processes
from voicebus.cli.plan import Plan, Wish
from voicebus.cli.problems import Problem
from voicebus.services.runtime import prepare_folder
from voicebus.services.supervisor import SOCKET, Leaving, Program, Silent, Supervisor

Tell = Callable[[str], None]

READY_S = 60.0
"""The simulator's speech models take a while on a slow machine."""
QUIET_S = 1.0
"""What takes longer is shown: who is ready,"""
LONG_S = 3.0
"""and after that also who is not, and why."""
LOOK_S = 0.25
"""How often supervisord is asked whether somebody has fallen, while nobody says anything."""
BEACONS_S = 1.5
"""A role that runs says how it is at once to a new subscriber; who is silent for so long hangs."""
STOP_S = 60.0
SHUTDOWN_S = 120.0
"""For all of them, where supervisord is told by a signal alone."""

SAYS_NOTHING = "it runs but says nothing"
STATE_LINE = '"event": "service.state"'
"""In a log line that only repeats what the state's `why` says."""

_states: Codec[State] = Codec(State, what="state")


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """How one process is."""

    name: str
    state: str
    """starting, ready, draining, failing; silent (runs but says nothing); stopped, restarting."""
    pid: int | None
    why: str | None = None
    running_s: int = 0


@dataclass(frozen=True, kw_only=True)
class StackStatus:
    """How a run folder's processes are."""

    run_dir: Path
    supervisor: int | None
    processes: tuple[ProcessStatus, ...]
    provider: str | None = None
    """Its address; known to whoever started it."""
    page: str | None = None
    """Of the gateway, where there is one; known to whoever started it."""
    note: str | None = None
    """What is the matter with all of them together, and what to do: nobody supervises them,
    supervisord cannot be reached, or somebody is ending them."""
    is_reachable: bool = True
    """Whether supervisord answers. Without it `processes` are those that hold a role."""

    @property
    def is_running(self) -> bool:
        """Whether there is a supervisord, or a process that it left behind."""
        return self.supervisor is not None or bool(self.processes)

    @property
    def is_ready(self) -> bool:
        """Whether each process that should run is ready."""
        return (
            self.supervisor is not None
            and self.is_reachable
            and bool(self.processes)
            and all(one.state == "ready" for one in self.processes)
        )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What `stop` did."""

    processes: int
    """How many there were, their children included."""
    stragglers: tuple[str, ...] = ()
    """Those that outlived the orderly stop and had to be ended one by one."""


def supervisord_conf() -> Path:
    """The configuration that comes with the package: the checkout's own file, or the wheel's."""
    return Path(str(importlib.resources.files("voicebus.config") / "supervisord.conf")).resolve()


def silent(text: str) -> None:
    """Tells nobody."""


# --- start ------------------------------------------------------------------------------------


def start(wish: Wish, tell: Tell = silent, *, within_s: float = READY_S) -> StackStatus:
    """Start everything and return when each process is ready.

    Otherwise stops what it started and raises Problem, which names the process, why, and the last
    lines of its log. Also raises BadSettings and BadRunFolder before anything is started. Call it
    from plain code, or in a thread: it runs a loop of its own.
    """
    planned = plan.make(wish)
    prepare_folder(planned.run_dir)
    with _alone(planned.run_dir):
        _check_unused(planned.run_dir)
        processes.sweep(planned.run_dir)
        plan.write_key(planned)
        logs = log_sizes(planned.run_dir)
        try:
            with plan.reserving(planned):
                _launch(planned)
                ready = asyncio.run(_wait_ready(planned, tell, within_s, logs))
        except BaseException:
            _stop(planned.run_dir, silent)
            raise
    return ready


@contextlib.contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Only one `up` or `down` at a time works on a run folder."""
    lock = RoleLock(run_dir / processes.UP_LOCK)
    try:
        lock.take()
    except AlreadyRunning:
        other = locks.holder(lock.path) or "?"
        raise Problem(
            f"process {other} is starting or stopping Voicebus in {run_dir} right now; "
            "wait for it, or choose another folder with --run-dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _check_unused(run_dir: Path) -> None:
    recorded = processes.recorded_supervisor(run_dir)
    pid = None if recorded is None else recorded.pid
    try:
        pid = Supervisor(run_dir).pid() or pid
    except Silent:
        pid = pid or 0
    if pid is not None:
        raise Problem(
            f"Voicebus already runs in {run_dir} (supervisord is process {pid}); "
            f"stop it with `voicebus down --run-dir {run_dir}` or choose another folder "
            "with --run-dir"
        )
    left = processes.holders(run_dir)
    if left:
        named = ", ".join(f"{name} (process {pid})" for name, pid in left.items())
        raise Problem(
            f"the run folder {run_dir} is in use by {named}, but no supervisord is there; "
            f"end it with `voicebus down --run-dir {run_dir}`"
        )


def _launch(planned: Plan) -> None:
    """Start supervisord in the background. Raises Problem with its own words."""
    command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(supervisord_conf())]
    done = subprocess.run(
        command,
        env=dict(planned.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = done.stdout.strip().splitlines() or ["it said nothing"]
        raise Problem(f"supervisord did not start (exit code {done.returncode}): {said[-1]}")


async def _wait_ready(
    planned: Plan, tell: Tell, within_s: float, logs: dict[str, int]
) -> StackStatus:
    supervisor = Supervisor(planned.run_dir)
    expected = await _once_listening(supervisor)
    states: dict[str, State] = {}
    shown: dict[str, str] = {}
    changed = asyncio.Event()

    def heard(frames: list[bytes]) -> None:
        with contextlib.suppress(BadMessage):
            state, _ = _states.decode(frames[1:])
            states[f"{state.role}-{state.instance}"] = state
            changed.set()

    def missing() -> list[str]:
        return [name for name in expected if name not in states or states[name].state != "ready"]

    loop = asyncio.get_running_loop()
    begun = loop.time()
    with Sockets() as sockets:
        addresses = [planned.endpoints.state(*role_of(name)) for name in expected]
        sockets.subscriber(addresses, [b"system/"], heard)
        while waited_for := missing():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await changed.wait()
            changed.clear()
            programs = supervisor.programs()
            for name in waited_for:
                how = ended(name, planned.run_dir, logs)
                if how is not None or programs[name].has_fallen:
                    raise Problem(_fallen(programs[name], how, logs))
                if name in states and states[name].state == "failing":
                    raise Problem(_not_ready(programs[name], states[name], logs))
            if loop.time() - begun > QUIET_S:
                _show(expected, states, shown, tell, with_waiting=loop.time() - begun > LONG_S)
            if loop.time() - begun > within_s and (late := missing()):
                text = _not_ready(programs[late[0]], states.get(late[0]), logs)
                others = f"; also not ready: {', '.join(late[1:])}" if late[1:] else ""
                raise Problem(f"after {within_s:.0f} s {text}{others}")
        if shown:
            _show(expected, states, shown, tell, with_waiting=False)
    pid = supervisor.pid()
    return StackStatus(
        run_dir=planned.run_dir,
        supervisor=pid,
        processes=tuple(
            ProcessStatus(name=name, state="ready", pid=states[name].pid) for name in expected
        ),
        provider=planned.provider,
        page=planned.page,
    )


async def _once_listening(supervisor: Supervisor) -> list[str]:
    """The programs that are started with supervisord, in order."""
    wanted = supervisor.wanted()
    return [name for name in supervisor.programs() if name in wanted]


def _show(
    expected: Sequence[str],
    states: dict[str, State],
    shown: dict[str, str],
    tell: Tell,
    *,
    with_waiting: bool,
) -> None:
    for name in expected:
        state = states.get(name)
        if state is not None and state.state == "ready":
            text = f"{name} is ready"
        elif with_waiting:
            why = "" if state is None else f": {state.why or state.state}"
            text = f"waiting for {name}{why}"
        else:
            continue
        if shown.get(name) != text:
            shown[name] = text
            tell(text)


def _fallen(program: Program, how: str | None, logs: dict[str, int]) -> str:
    return f"{program.name} could not start: {how or program.problem}{tail(program, logs)}"


def ended(name: str, run_dir: Path, logs: dict[str, int]) -> str | None:
    """How this process ended since the start, if it did: `exit status 1`, `terminated by …`.

    From supervisord's log: its own state forgets how a process ended that ended too soon, and
    shows one that ended a little later as starting again.
    """
    log = run_dir / "supervisord.log"
    for line in reversed(log_tail(log, 200, since=logs.get(log.name, 0))):
        _, found, rest = line.partition(f"exited: {name} (")
        if found:
            return rest.partition(";")[0]
    return None


def _not_ready(program: Program, state: State | None, logs: dict[str, int]) -> str:
    why = "it says nothing" if state is None else state.why or f"it is {state.state}"
    return f"{program.name} is not ready: {why}{tail(program, logs)}"


def tail(program: Program, logs: dict[str, int]) -> str:
    """The last lines that it wrote since the start, for the end of a message."""
    since = logs.get(program.log.name, 0)
    lines = [line for line in log_tail(program.log, 10, since=since) if STATE_LINE not in line]
    # A service that cannot start says so in one plain line, `<role>-<n>: …`.
    said = [line for line in lines if line.startswith(role_of(program.name)[0])]
    shown = [said[-1]] if said else lines
    text = "".join(f"\n  | {line}" for line in shown)
    return f"{text}\n  log: {program.log}"


def log_tail(path: Path, lines: int, *, since: int = 0) -> list[str]:
    """The last lines of a log, at most the last 64 KiB of what follows byte `since`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(since if since <= size else 0, size - 65_536))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


def log_sizes(run_dir: Path) -> dict[str, int]:
    """How long each log is: what is written from now on follows."""
    return {path.name: path.stat().st_size for path in run_dir.glob("*.log")}


def role_of(name: str) -> tuple[str, int]:
    """`session-0` -> session, 0."""
    role, _, instance = name.rpartition("-")
    return role, int(instance)


# --- stop -------------------------------------------------------------------------------------


def stop(run_dir: Path, tell: Tell = silent) -> Ended:
    """Stop everything in order, wait for it, remove sockets and locks.

    Also ends what a killed supervisord left behind, found by the locks. Raises Problem when
    something outlives even SIGKILL, or holds a lock and is none of ours.
    """
    if not run_dir.is_dir():
        return Ended(processes=0)
    with _alone(run_dir):
        return _stop(run_dir, tell)


@contextlib.contextmanager
def going_down(run_dir: Path) -> Iterator[None]:
    """While it is open, `status` says that the stack is being ended, and by whom. Only a sign:
    a second command may do the same, and a full disk keeps nobody from it."""
    lock = RoleLock(run_dir / processes.DOWN_LOCK)
    with contextlib.suppress(AlreadyRunning, OSError):
        lock.take()
    try:
        yield
    finally:
        lock.release()


def shards(run_dir: Path) -> list[int]:
    """The session processes that there are, by supervisord's word, else by their locks."""
    try:
        names = [*Supervisor(run_dir).now()]
    except (Silent, OSError, xmlrpc.client.Error):
        names = [*processes.holders(run_dir)]
    return [number for role, number in map(role_of, names) if role == "session"]


def _stop(run_dir: Path, tell: Tell) -> Ended:
    supervisor = Supervisor(run_dir)
    recorded = processes.recorded_supervisor(run_dir)
    roots = [recorded] if recorded is not None else []
    known = processes.family(roots)
    processes.resume(known)  # who is frozen hears no TERM
    try:
        pid = supervisor.pid()
        if pid is not None:
            if not roots and (found := processes.find(pid)) is not None:
                roots = [found]
                known = processes.family(roots)
            _stop_in_order(supervisor, tell)
        elif roots:
            tell(f"{out_of_reach(run_dir, roots[0].pid)}; it is told to stop by a signal")
            processes.end(roots, term_s=SHUTDOWN_S)
        # Also for those that are just ending: they are not ended by force.
        processes.outlive(known if roots else (), processes.TERM_S)
    except Leaving:
        tell("supervisord is stopping the processes already; waiting for it")
        processes.end(roots, term_s=SHUTDOWN_S)
        processes.outlive(known, processes.TERM_S)
    except (Silent, OSError, xmlrpc.client.Error) as error:
        tell(f"supervisord gives no answer ({error}); ending its processes by themselves")
    strangers = []
    orphans = []
    for name, holder in processes.holders(run_dir).items():
        process = processes.find(holder)
        if process is None:
            strangers.append(f"{name} (process {holder or '?'})")
        elif process not in known:
            tell(f"ending {name} (process {holder}), which nobody supervises")
            orphans.append(process)
    known.extend(processes.family(orphans))
    stragglers = tuple(map(processes.describe, processes.alive(known)))
    # supervisord first: it would start again what is ended under its hands.
    stubborn = processes.end(roots) + processes.end(known)
    if strangers:
        raise Problem(
            f"locks in {run_dir} are held by what is no process of Voicebus: "
            f"{', '.join(strangers)}; end it yourself, nothing was removed"
        )
    if stubborn:
        pids = ", ".join(str(one.pid) for one in stubborn)
        raise Problem(f"these processes did not end, not even by SIGKILL: {pids}")
    processes.sweep(run_dir)
    return Ended(processes=len(known), stragglers=stragglers)


def _stop_in_order(supervisor: Supervisor, tell: Tell) -> None:
    programs = supervisor.programs()
    for name in reversed(programs):
        if not programs[name].pid and not programs[name].has_fallen:
            continue
        begun = time.monotonic()
        supervisor.stop(name, within_s=STOP_S)
        took = time.monotonic() - begun
        if took > QUIET_S:
            tell(f"{name} stopped after {took:.1f} s")
    supervisor.shut_down()


# --- status -----------------------------------------------------------------------------------


def status(run_dir: Path) -> StackStatus:
    """How each process is, from supervisord and from what the processes themselves say."""
    supervisor = Supervisor(run_dir)
    going = _going(run_dir)
    try:
        pid = supervisor.pid()
        if pid is None:
            return _unsupervised(run_dir, going, None)
        wanted = supervisor.wanted()
        programs = [one for one in supervisor.programs().values() if one.name in wanted or one.pid]
    except Leaving:
        return _unsupervised(run_dir, going or "going down: supervisord was told to end", None)
    except (Silent, OSError, xmlrpc.client.Error) as error:
        return _unsupervised(run_dir, going, str(error))
    running = [one.name for one in programs if one.pid]
    states = asyncio.run(_beacons(Endpoints(run_dir), running))
    return StackStatus(
        run_dir=run_dir,
        supervisor=pid,
        processes=tuple(_combine(one, states.get(one.name)) for one in programs),
        note=going,
    )


def _going(run_dir: Path) -> str | None:
    """Who is ending the stack, and how far that is."""
    with contextlib.suppress(OSError):
        pid = locks.holder(run_dir / processes.DOWN_LOCK)
        if pid is not None and locks.holder(run_dir / processes.UP_LOCK) is None:
            return (
                f"going down (process {pid}): no new calls are taken, those that are there are "
                "waited for; to cut them: voicebus down --wait 0"
            )
        if pid is not None:
            return f"going down (process {pid}): the processes are stopped one after the other"
    return None


def out_of_reach(run_dir: Path, pid: int, why: str | None = None) -> str:
    """A supervisord that runs and does not answer: for a message."""
    if why is None:
        path = run_dir / SOCKET
        why = f"nobody listens on {path}" if path.exists() else f"{path} was deleted"
    return f"supervisord (process {pid}) runs but cannot be reached: {why}"


def _unsupervised(run_dir: Path, going: str | None, why: str | None) -> StackStatus:
    """What can be known without an answer of supervisord's."""
    recorded = processes.recorded_supervisor(run_dir)
    roles = processes.holders(run_dir) if run_dir.is_dir() else {}
    if recorded is None:
        orphans = tuple(
            ProcessStatus(name=name, state="orphaned", pid=pid, why="no supervisord is there")
            for name, pid in roles.items()
        )
        note = "no supervisord supervises these; end them with: voicebus down" if orphans else None
        return StackStatus(run_dir=run_dir, supervisor=None, processes=orphans, note=going or note)
    states = asyncio.run(_beacons(Endpoints(run_dir), list(roles)))
    note = (
        f"{out_of_reach(run_dir, recorded.pid, why)}; calls go on, and who dies is started again, "
        "but frozen processes are not replaced and nothing can be restarted; "
        "to mend it: voicebus down, then voicebus up"
    )
    return StackStatus(
        run_dir=run_dir,
        supervisor=recorded.pid,
        processes=tuple(_holding(name, pid, states.get(name)) for name, pid in roles.items()),
        note=going or note,
        is_reachable=False,
    )


def _holding(name: str, pid: int, state: State | None) -> ProcessStatus:
    """One of which only is known that it holds its role."""
    speaks = state is not None and state.pid == pid
    return ProcessStatus(
        name=name,
        state=state.state if state is not None and speaks else "silent",
        pid=pid,
        why=state.why if state is not None and speaks else SAYS_NOTHING,
        running_s=processes.running_s(pid),
    )


def _combine(program: Program, state: State | None) -> ProcessStatus:
    if not program.pid:
        is_coming = program.state in {"BACKOFF", "STARTING", "EXITED"}
        return ProcessStatus(
            name=program.name,
            state="restarting" if is_coming else "stopped",
            pid=None,
            why=program.problem or None,
        )
    if state is None or state.pid != program.pid:
        return ProcessStatus(
            name=program.name,
            state="silent" if program.running_s > BEACONS_S else "starting",
            pid=program.pid,
            why=SAYS_NOTHING,
            running_s=program.running_s,
        )
    return ProcessStatus(
        name=program.name,
        state=state.state,
        pid=program.pid,
        why=state.why,
        running_s=program.running_s,
    )


async def _beacons(endpoints: Endpoints, names: Sequence[str]) -> dict[str, State]:
    states: dict[str, State] = {}
    complete = asyncio.Event()

    def heard(frames: list[bytes]) -> None:
        with contextlib.suppress(BadMessage):
            state, _ = _states.decode(frames[1:])
            states[f"{state.role}-{state.instance}"] = state
            if all(name in states for name in names):
                complete.set()

    if names:
        with Sockets() as sockets:
            addresses = [endpoints.state(*role_of(name)) for name in names]
            sockets.subscriber(addresses, [b"system/"], heard)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEACONS_S):
                    await complete.wait()
    return states
