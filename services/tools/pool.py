"""The host's runners: hands calls to them, climbs the ladder when one must stop, says how it ended.

It knows nothing of the bus: calls come in as messages, reports go out through a Listener.
"""

import asyncio
import contextlib
import signal
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from voicebus.bus.messages import work
from voicebus.services.tools import confine, ladder, pipe, process, runner
from voicebus.services.tools.ladder import Ladder

Key = tuple[str, str]
Lane = Literal["sync", "async"]

TOMBSTONES = 256
SPAWN_FAILURES = 5
"""So many runners in a row that ended before they were ready: the tools cannot be run at all."""
RESTART_S = 0.5
CHILDREN_LIMIT = 64
"""A runner on which more processes hang, dead ones included, is replaced: nobody waits for them."""


class Listener(Protocol):
    """Who hears how calls go. Nothing here may raise or wait."""

    def started(self, key: Key) -> None:
        """The tool's code begins."""

    def progressed(self, key: Key, text: str) -> None:
        """It said how far it is."""

    def ended(self, lane: Lane, result: work.Result) -> None:
        """Exactly once per call."""

    def changed(self) -> None:
        """The number of free places may have changed."""

    def failed(self, error: Exception) -> None:
        """The pool cannot go on."""


class Log(Protocol):
    """A structlog logger, as far as it is used."""

    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """How many runners, and what they get."""

    specs: Sequence[str]
    search_path: Sequence[str]
    environment: dict[str, str]
    limits: runner.Limits
    secrets: Mapping[str, dict[str, str]] = field(default_factory=dict, repr=False)
    """Tool -> what it alone may know."""
    runners: int = 4
    async_calls: int = 16
    stderr_bytes: int = 4 * 1024
    recycle_calls: int = 1000
    recycle_kb: int = 200 * 1024


@dataclass(eq=False)
class Slot:
    """A runner and what it is doing."""

    process: process.RunnerProcess
    lane: Lane
    is_ready: bool = False
    is_leaving: bool = False
    calls: dict[Key, "Running"] = field(default_factory=dict)
    served: int = 0
    is_mixed: bool = False
    """Whether several calls have run in it since it was last empty: nobody knows who wrote what."""


@dataclass(eq=False)
class Running:
    """A call between its arrival and its result."""

    call: work.Call
    lane: Lane
    came_at: float
    ladder: Ladder
    slot: Slot | None = None
    has_begun: bool = False
    asked_at: float = 0.0

    @property
    def key(self) -> Key:
        return (self.call.session_id, self.call.call_id)


class Pool:
    """Runners under one fork server. `start`, then `call` and `cancel`, then `close`."""

    def __init__(self, settings: PoolSettings, listener: Listener, log: Log) -> None:
        self.settings = settings
        self.tools: dict[str, work.ToolSpec] = {}
        self._async_tools: frozenset[str] = frozenset()
        self._listener = listener
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._server: process.ForkServer | None = None
        self._slots: list[Slot] = []
        self._running: dict[Key, Running] = {}
        self._waiting: list[Running] = []
        self._tombstones: OrderedDict[Key, str] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._stillborn = 0
        self._is_closed = False
        self._idle = asyncio.Event()
        self._restarting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Import the tools and fork the first runners. Raises process.CannotLoad."""
        self._server = process.ForkServer(
            on_exit=self._exited,
            on_message=self._heard,
            on_lost=self._server_lost,
            tail_bytes=self.settings.stderr_bytes,
        )
        loaded = await self._server.start(
            self.settings.specs,
            self.settings.search_path,
            self.settings.limits,
            self.settings.environment,
        )
        self.tools = {tool.name: tool for tool in loaded.tools}
        self._async_tools = frozenset(loaded.async_tools)
        strangers = sorted(self.settings.secrets.keys() - self.tools.keys())
        if strangers:
            raise process.CannotLoad(
                f"[secrets] in tools.toml names tools that are not there: {', '.join(strangers)}; "
                f"the tools are: {', '.join(sorted(self.tools)) or 'none'}"
            )
        self._fill()

    # --- what it can take ---------------------------------------------------------------------

    def lanes(self) -> tuple[Lane, ...]:
        """Which kinds of tools there are."""
        found: list[Lane] = []
        if self._async_tools:
            found.append("async")
        if len(self._async_tools) < len(self.tools) or not found:
            found.insert(0, "sync")
        return tuple(found)

    def tools_of(self, lane: Lane) -> list[work.ToolSpec]:
        """The tools that this kind of runner runs."""
        wanted = lane == "async"
        return [tool for name, tool in self.tools.items() if (name in self._async_tools) == wanted]

    def capacity(self, lane: Lane) -> int:
        """How many calls can run at the same time."""
        return self.settings.runners if lane == "sync" else self.settings.async_calls

    def free(self, lane: Lane) -> int:
        """How many calls could begin right now. A runner never has a second call waiting."""
        active = sum(one.lane == lane for one in self._running.values())
        ready = [one for one in self._slots if one.lane == lane and one.is_ready]
        places = (
            sum(not one.calls and not one.is_leaving for one in ready)
            if lane == "sync"
            else sum(
                self.settings.async_calls - len(one.calls) for one in ready if not one.is_leaving
            )
        )
        waiting = sum(one.lane == lane for one in self._waiting)
        return max(0, min(self.capacity(lane) - active, places - waiting))

    def ready(self, lane: Lane) -> int:
        """How many runners are there, warm."""
        return sum(one.lane == lane and one.is_ready and not one.is_leaving for one in self._slots)

    def running(self, lane: Lane) -> list[tuple[Key, float]]:
        """The calls that have not ended, and their ages in seconds."""
        now = self._loop.time()
        return [(key, now - one.came_at) for key, one in self._running.items() if one.lane == lane]

    def holds(self, key: Key) -> bool:
        """Whether this call is here."""
        return key in self._running

    def lane_of(self, key: Key) -> Lane:
        """Which kind of runner has this call."""
        return self._running[key].lane

    def pids(self) -> list[int]:
        """The runners' process ids."""
        return [one.process.pid for one in self._slots if one.process.pid is not None]

    def server_pid(self) -> int | None:
        """The fork server's process id."""
        return None if self._server is None else self._server.pid

    # --- calls --------------------------------------------------------------------------------

    def call(self, call: work.Call) -> None:
        """Run it now. Its end is always told to the listener, once."""
        key = (call.session_id, call.call_id)
        if key in self._running:
            return
        now = self._loop.time()
        tool = self.tools.get(call.tool)
        lane: Lane = "async" if call.tool in self._async_tools else "sync"
        budget_s = call.budget_ms / 1000
        if tool is not None:
            budget_s = min(budget_s, tool.timeout_s)
        one = Running(
            call=call,
            lane=lane,
            came_at=now,
            ladder=Ladder(deadline_at=now + budget_s, grace_s=tool.grace_s if tool else 0.0),
        )
        self._running[key] = one
        early = self._tombstones.pop(key, None)
        if tool is None:
            self._end(one, "unknown_tool", f"this host has no tool '{call.tool}'", began=False)
        elif early is not None:
            self._end(one, "cancelled", f"cancelled before it began ({early})", began=False)
        else:
            self._waiting.append(one)
            self._assign()
            self._schedule()

    def cancel(self, key: Key, reason: str) -> None:
        """Stop it, gently at first. Before its call came, it is remembered."""
        one = self._running.get(key)
        if one is None:
            self._tombstones[key] = reason
            while len(self._tombstones) > TOMBSTONES:
                self._tombstones.popitem(last=False)
        elif one.slot is None:
            self._waiting.remove(one)
            self._end(one, "cancelled", f"cancelled before it began ({reason})", began=False)
        else:
            one.ladder, actions = ladder.cancel(one.ladder, self._loop.time(), reason)
            self._do(one, actions)
            self._schedule()

    def _assign(self) -> None:
        for one in list(self._waiting):
            slot = self._slot_for(one.lane)
            if slot is None:
                continue
            self._waiting.remove(one)
            one.slot = slot
            slot.is_mixed = bool(slot.calls)
            if not slot.is_mixed:
                slot.process.tail.clear()
            slot.calls[one.key] = one
            slot.served += 1
            left_s = max(0.001, one.ladder.deadline_at - self._loop.time())
            slot.process.send(
                pipe.Run(
                    session_id=one.call.session_id,
                    call_id=one.call.call_id,
                    tool=one.call.tool,
                    args=one.call.args,
                    budget_s=left_s,
                    attempt=one.call.attempt,
                    secrets=self.settings.secrets.get(one.call.tool, {}),
                )
            )

    def _slot_for(self, lane: Lane) -> Slot | None:
        limit = 1 if lane == "sync" else self.settings.async_calls
        able = [
            one
            for one in self._slots
            if one.lane == lane and one.is_ready and not one.is_leaving and len(one.calls) < limit
        ]
        return min(able, key=lambda one: len(one.calls), default=None)

    # --- what runners say ---------------------------------------------------------------------

    def _heard(self, who: process.RunnerProcess, message: pipe.Up) -> None:
        slot = next((one for one in self._slots if one.process is who), None)
        if slot is None:
            return
        match message:
            case pipe.Ready():
                slot.is_ready = True
                self._stillborn = 0
                self._assign()
                self._listener.changed()
            case pipe.Begun():
                one = slot.calls.get((message.session_id, message.call_id))
                if one is not None:
                    one.has_begun = True
                    self._listener.started(one.key)
            case pipe.Said():
                key = (message.session_id, message.call_id)
                if key in slot.calls:
                    self._listener.progressed(key, message.text)
            case pipe.Done():
                one = slot.calls.get((message.session_id, message.call_id))
                if one is not None:
                    self._done(slot, one, message)
            case _:
                pass

    def _done(self, slot: Slot, one: Running, done: pipe.Done) -> None:
        # Before its end is told: what is free is told along with it.
        slot.calls.pop(one.key, None)
        # What a stopped tool had started may still be running in its process group.
        stopped = done.began and one.ladder.stage != "running" and slot.lane == "sync"
        if (
            stopped
            or slot.served >= self.settings.recycle_calls
            or done.grown_kb >= self.settings.recycle_kb
            or done.children >= CHILDREN_LIMIT
        ):
            slot.is_leaving = True
        status = done.status
        words = done.message
        if status == "cancelled" and one.ladder.cause == ladder.TIMEOUT:
            status, words = "timeout", f"it did not end within {self._budget(one)}"
        if status == "ok":
            result = work.Result(
                session_id=done.session_id,
                call_id=done.call_id,
                status="ok",
                result=done.result,
                duration_ms=done.duration_ms,
                cancel_seen_us=done.cancel_seen_us,
            )
            self._finish(one, result)
        else:
            slot.process.drain(slot.process.output_fd, slot.process.tail, 64)
            self._end(
                one,
                status,
                words,
                began=done.began,
                tail=None if slot.is_mixed else slot.process.tail.text(),
                duration_ms=done.duration_ms,
                cancel_seen_us=done.cancel_seen_us,
            )
        if slot.is_leaving and not slot.calls:
            slot.process.signal(signal.SIGKILL)
        self._fill()
        self._assign()
        self._listener.changed()

    def _exited(self, who: process.RunnerProcess) -> None:
        slot = next((one for one in self._slots if one.process is who), None)
        if slot is None or who.ended is None:
            return
        self._slots.remove(slot)
        if not slot.is_ready:
            self._stillborn += 1
            self._log.warning("runner.stillborn", how=str(who.ended), said=who.tail.text())
        forced = [one for one in slot.calls.values() if one.ladder.is_forced]
        for one in list(slot.calls.values()):
            self._died(slot, one, who.ended, forced)
        slot.calls.clear()
        if self._stillborn >= SPAWN_FAILURES:
            self._listener.failed(
                RuntimeError(
                    f"{SPAWN_FAILURES} tool runners in a row ended before they were ready "
                    f"(the last one {who.ended}); see runner.stillborn in the log"
                )
            )
            return
        self._fill()
        self._assign()
        self._listener.changed()

    def _died(self, slot: Slot, one: Running, how: process.Exit, forced: list[Running]) -> None:
        tail = slot.process.tail.text()
        stack = _frames(slot.process.dump.text() or "") or None
        if one.ladder.is_forced:
            now = self._loop.time()
            self._log.info(
                "runner.stopped",
                tool=one.call.tool,
                call_id=one.call.call_id,
                signal=how.signal_name,
                ms_after_signal=round((now - one.ladder.since) * 1000, 1),
                ms_after_asking=round((now - one.asked_at) * 1000, 1),
                warm_runners=self.ready(slot.lane),
            )
            if stack is not None:
                self._log.info(
                    "tool.stack_dumped",
                    tool=one.call.tool,
                    call_id=one.call.call_id,
                    stack=stack,
                )
            if one.ladder.cause == ladder.TIMEOUT:
                status: work.Status = "timeout"
                words = f"it did not end within {self._budget(one)} and was stopped by force"
            else:
                status = "cancelled"
                words = f"cancelled ({one.ladder.cause}); it did not stop by itself and was killed"
            self._end(one, status, words, began=one.has_begun, tail=tail, how=how)
        elif forced:
            others = ", ".join(sorted({f"'{other.call.tool}'" for other in forced}))
            words = f"its process was stopped because {others} in it would not stop"
            self._end(one, "lost", words, began=one.has_begun)
        elif slot.process.is_garbled:
            words = "the tool wrote over its runner's link to the host, and was killed"
            self._end(one, "crashed", words, began=True, tail=tail, how=how)
        elif not one.has_begun:
            self._end(one, "lost", f"its process {how} before it began", began=False)
        else:
            hint = " (out of memory?)" if how.signal == signal.SIGKILL else ""
            words = f"the tool's process {how}{hint}"
            said = "\n".join(part for part in (tail, stack) if part) or None
            self._end(one, "crashed", words, began=True, tail=said, how=how)

    def _budget(self, one: Running) -> str:
        return f"{round(one.ladder.deadline_at - one.came_at, 3):g} s"

    # --- ends ---------------------------------------------------------------------------------

    def _end(
        self,
        one: Running,
        status: work.Status,
        words: str,
        *,
        began: bool,
        tail: str | None = None,
        how: process.Exit | None = None,
        duration_ms: float | None = None,
        cancel_seen_us: int | None = None,
    ) -> None:
        age_ms = round((self._loop.time() - one.came_at) * 1000, 3)
        self._finish(
            one,
            work.Result(
                session_id=one.call.session_id,
                call_id=one.call.call_id,
                status=status,
                failure=work.Failure(
                    message=words,
                    exit_code=how.code if how else None,
                    signal=how.signal_name if how else None,
                    stderr_tail=tail,
                ),
                duration_ms=duration_ms if duration_ms is not None else age_ms,
                cancel_seen_us=cancel_seen_us,
                started=began,
            ),
        )

    def _finish(self, one: Running, result: work.Result) -> None:
        if self._running.pop(one.key, None) is not None:
            self._listener.ended(one.lane, result)
            self._listener.changed()
            if not self._running:
                self._idle.set()

    # --- the ladder ---------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((ladder.due(one.ladder) for one in self._running.values()), default=float("inf"))
        if due < float("inf"):
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for one in list(self._running.values()):
            if one.slot is None and now >= one.ladder.deadline_at:
                self._waiting.remove(one)
                words = f"no runner was free for it within {self._budget(one)}; it did not run"
                self._end(one, "timeout", words, began=False)
                continue
            one.ladder, actions = ladder.tick(one.ladder, now)
            self._do(one, actions)
        self._schedule()

    def _do(self, one: Running, actions: tuple[ladder.Action, ...]) -> None:
        if one.slot is None:
            return
        child = one.slot.process
        for action in actions:
            match action:
                case "ask":
                    one.asked_at = self._loop.time()
                    child.send(
                        pipe.Stop(
                            session_id=one.call.session_id,
                            call_id=one.call.call_id,
                            reason=one.ladder.cause or "cancelled",
                        )
                    )
                case "dump":
                    child.signal(signal.SIGUSR1, group=False)
                case "terminate":
                    self._note_kill(one, "SIGTERM")
                    one.slot.is_leaving = True
                    # Those that left the group would survive it.
                    strays = confine.descendants(child.pid) if child.pid is not None else []
                    if child.pid is not None:
                        confine.hurry(child.pid)
                    child.signal(signal.SIGTERM)
                    confine.kill(strays)
                case "kill":
                    self._note_kill(one, "SIGKILL")
                    child.signal(signal.SIGKILL)

    def _note_kill(self, one: Running, name: str) -> None:
        self._log.warning(
            "runner.signalled",
            signal=name,
            pid=one.slot.process.pid if one.slot else None,
            tool=one.call.tool,
            call_id=one.call.call_id,
            session_id=one.call.session_id,
            why=one.ladder.cause,
        )

    # --- runners ------------------------------------------------------------------------------

    def _fill(self) -> None:
        """As many runners as can work, and one warm spare, so that a kill costs nobody a wait."""
        if self._is_closed or self._server is None or not self._server.is_alive:
            return
        for lane in self.lanes():
            wanted = self.settings.runners + 1 if lane == "sync" else 2
            here = sum(one.lane == lane and not one.is_leaving for one in self._slots)
            for _ in range(wanted - here):
                try:
                    child = self._server.spawn(is_async=lane == "async")
                except OSError as error:
                    # No descriptor is left for its link. A host without runners is of no use.
                    self._listener.failed(error)
                    return
                self._slots.append(Slot(process=child, lane=lane))

    def _server_lost(self) -> None:
        if self._is_closed or self._restarting is not None:
            return
        self._log.warning("forkserver.lost")
        self._restarting = self._loop.create_task(self._restart())

    async def _restart(self) -> None:
        await asyncio.sleep(RESTART_S)
        if self._server is not None:
            self._server.close()
        try:
            await self.start()
        except (process.CannotLoad, OSError) as error:
            self._listener.failed(error)
        finally:
            self._restarting = None
        self._listener.changed()

    async def drain(self, within_s: float) -> None:
        """Wait until nothing runs, or so long."""
        if self._running:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), within_s)

    def close(self) -> None:
        """End all runners and the fork server. Calls that still run are told as lost."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._restarting is not None:
            self._restarting.cancel()
        for one in list(self._running.values()):
            self._end(one, "lost", "its host was stopped", began=one.has_begun)
        self._slots.clear()
        self._waiting.clear()
        if self._server is not None:
            self._server.close()

    async def gone(self, within_s: float) -> bool:
        """After `close`: whether the last runner has ended in time."""
        return self._server is None or await self._server.gone(within_s)


def _frames(stack: str) -> str:
    """What faulthandler wrote, without the frames that are ours."""
    kept: list[str] = []
    is_ours = False
    for line in stack.splitlines():
        if line.startswith("Extension modules:"):
            continue
        is_ours = (is_ours or "/services/tools/runner.py" in line) and line.startswith("  ")
        if not is_ours:
            kept.append(line)
    return "\n".join(kept).strip()
