"""The dispatcher: hands calls from sessions to workers. Decides in `dispatch.core`, waits here."""

import asyncio
import contextlib
import os
from collections import deque
from pathlib import Path
from typing import NoReturn

import msgspec

from voicebus.bus import frames
from voicebus.bus.depth import VALUE_DEPTH_LIMIT
from voicebus.bus.messages import base, work
from voicebus.bus.sockets import Frames, Route, Sent
from voicebus.config.settings import DispatcherSettings
from voicebus.services.runtime import Runtime, run
from voicebus.services.tools.dispatch import breaker, core
from voicebus.services.tools.dispatch.effects import (
    Effect,
    Note,
    RememberWorkers,
    TellSession,
    TellWorker,
)
from voicebus.services.tools.dispatch.events import (
    Drained,
    Event,
    SessionSaid,
    Ticked,
    WorkerSaid,
    WorkerUnreachable,
)
from voicebus.services.tools.dispatch.state import Limits, fresh
from voicebus.services.tools.waking import Waker, Watchman

RESULT_LIMIT_BYTES = 1024 * 1024
"""What a worker may send as a result; tool hosts refuse much less."""
DRAIN_S = 0.2
"""Outcomes that have been told need a moment to leave."""

LOOK_S = 0.5
"""How often it is looked whether the health listener was stopped."""
SECOND_S = 2.5
"""A tool host wakes the listener earlier, unless it was stopped together with it: each of the two
waits for the other then."""

_sessions: frames.Codec[work.ANY_TO_DISPATCHER] = frames.Codec(
    work.ANY_TO_DISPATCHER, what="session to dispatcher"
)
_workers: frames.Codec[work.ANY_TO_POOL] = frames.Codec(
    # A result may be as deep as other values, inside of its message.
    work.ANY_TO_POOL,
    what="worker to dispatcher",
    depth=VALUE_DEPTH_LIMIT + 1,
)


class Dispatcher:
    """The shell: one inbox, one timer, two routers."""

    def __init__(self, runtime: Runtime[DispatcherSettings]) -> None:
        self._runtime = runtime
        self._loop = asyncio.get_running_loop()
        self._memory = WorkerMemory(runtime.endpoints.run_dir / "dispatcher-0.workers")
        settings = runtime.settings
        self._state = fresh(
            runtime.inc,
            self._loop.time(),
            Limits(
                queued=settings.queue,
                running_per_session=settings.per_session_running,
                queued_per_session=settings.per_session_queued,
                settle_s=settings.settle_s,
                refuses_late=settings.refuse_late,
                breaker_failures=settings.breaker_failures,
                breaker_cooling_s=settings.breaker_cooling_s,
            ),
            self._memory.read(),
            runtime.cell.shards,
        )
        self._inbox: deque[Event] = deque()
        self._is_stepping = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        """When the timer rings."""
        self._calls = runtime.sockets.router(runtime.endpoints.calls, self._session_said)
        self._pool = runtime.sockets.router(runtime.endpoints.workers, self._worker_said)
        self._wake_up()

    def drain(self) -> None:
        """Take no new calls."""
        self._put(Drained(self._loop.time()))

    def close(self) -> None:
        """After an orderly end there is nothing to remember."""
        if not self._state.calls and not self._state.ended:
            self._memory.forget()

    def _session_said(self, route: Route, message: Frames) -> None:
        try:
            header, _ = _sessions.decode(message)
        except base.BadMessage as error:
            self._refuse("session", error)
            return
        self._put(SessionSaid(self._loop.time(), _peer(route), header))

    def _worker_said(self, route: Route, message: Frames) -> None:
        said: work.ANY_TO_POOL | None
        try:
            said = _from_worker(message)
        except base.BadMessage as error:
            self._refuse("worker", error)
            # A call whose result cannot be read has ended all the same, and not at its deadline.
            said = _instead_of(message, f"cannot be read ({error})")
        if said is not None:
            self._put(WorkerSaid(self._loop.time(), _peer(route), said))

    def _refuse(self, who: str, error: base.BadMessage) -> None:
        self._runtime.refused("bad_messages", "message.refused", who=who, why=str(error))

    def _put(self, event: Event) -> None:
        """One step at a time, also when sending tells us something new."""
        self._inbox.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._inbox:
                self._state, effects = core.step(self._state, self._inbox.popleft())
                for effect in effects:
                    self._do(effect)
        finally:
            self._is_stepping = False
        self._wake_up()

    def _wake_up(self) -> None:
        due = core.deadline(self._state)
        if self._timer is not None:
            # Waking too early costs less than setting the timer anew for every message.
            if due is not None and self._due <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            # Not asked of the timer: uvloop's for a time that has passed does not know it.
            self._due = due
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._put(Ticked(self._loop.time()))

    def _do(self, effect: Effect) -> None:
        match effect:
            case TellSession(peer, message):
                # What does not arrive is told again: outcomes until acknowledged, the catalogue
                # when the session follows again.
                if self._calls.send(_route(peer), [base.encode(message)]) is not Sent.OK:
                    self._runtime.count("undelivered_to_sessions")
            case TellWorker(peer, to_worker):
                sent = self._pool.send(_route(peer), [base.encode(to_worker)])
                if sent is not Sent.OK:
                    self._inbox.append(WorkerUnreachable(self._loop.time(), peer))
            case RememberWorkers(names):
                self._memory.write(names)
            case Note(what, fields, is_detail):
                # A line per ordinary call was a tenth of what such a call costs here.
                tell = self._runtime.log.debug if is_detail else self._runtime.log.info
                tell(what, **dict(fields))
                if what.startswith("tool."):
                    self._runtime.counters["tools_suspended"] = len(breaker.suspended(self._state))
                if what.startswith(("worker.", "tool.")):
                    self._runtime.publish_system(what, base.encode(dict(fields)))


class _Named(msgspec.Struct):
    """Which call a message is about, whatever else it holds."""

    kind: str
    session_id: str = ""
    call_id: str = ""


_named = msgspec.json.Decoder(_Named)


def _from_worker(message: Frames) -> work.ANY_TO_POOL:
    """What it said; of a result that no conversation can take, the error that says so."""
    size = sum(map(len, message))
    if size > RESULT_LIMIT_BYTES:
        why = f"has {size} bytes, the limit is {RESULT_LIMIT_BYTES}; ask for less"
        if (instead := _instead_of(message, why)) is not None:
            return instead
    try:
        return _workers.decode(message)[0]
    except base.TooDeep:
        why = f"is nested too deeply, the limit is {VALUE_DEPTH_LIMIT} levels; ask for less"
        if (instead := _instead_of(message, why)) is not None:
            return instead
        raise


def _instead_of(message: Frames, why: str) -> work.Result | None:
    try:
        named = _named.decode(message[0])
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if named.kind != "result":
        return None
    return work.Result(
        session_id=named.session_id,
        call_id=named.call_id,
        status="error",
        failure=work.Failure(message=f"the tool's result {why}"),
    )


MEMORY_BYTES = 4096
"""What a file system keeps together, and a kill does not tear."""


class WorkerMemory:
    """Which workers may have been given calls: a file, for the dispatcher that comes after us."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[str, ...]:
        """`name/incarnation` each; empty for a first start."""
        try:
            return tuple(msgspec.json.decode(self._path.read_bytes(), type=list[str]))
        except (OSError, msgspec.DecodeError):
            return ()

    def write(self, names: tuple[str, ...]) -> None:
        """Whole or not at all: it must survive our death, not the machine's.

        In place, where it fits: then a disk that is full takes it, too."""
        body = msgspec.json.encode(names).ljust(MEMORY_BYTES)
        if len(body) > MEMORY_BYTES:
            fresh_path = self._path.with_suffix(".new")
            fresh_path.write_bytes(body)
            os.replace(fresh_path, self._path)
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, body, 0)
            os.ftruncate(fd, MEMORY_BYTES)
        finally:
            os.close(fd)

    def forget(self) -> None:
        """Nothing that any worker was given is still open."""
        with contextlib.suppress(OSError):
            self.write(())


def _peer(route: Route) -> str:
    """A router's way back, as a name for the core."""
    return route[0].hex() + ("+" if len(route) > 1 else "")


def _route(peer: str) -> Route:
    identity = bytes.fromhex(peer.removesuffix("+"))
    return (identity, b"") if peer.endswith("+") else (identity,)


async def serve(runtime: Runtime[DispatcherSettings]) -> None:
    """Until told to stop."""
    dispatcher = Dispatcher(runtime)
    watching = asyncio.create_task(_watch_the_watchman(runtime))
    runtime.ready()
    await runtime.stopping.wait()
    watching.cancel()
    runtime.draining("the last outcomes are being told")
    dispatcher.drain()
    await asyncio.sleep(DRAIN_S)
    dispatcher.close()


async def _watch_the_watchman(runtime: Runtime[DispatcherSettings]) -> None:
    """For ever: the second one who wakes the health listener."""
    watchman = Watchman(runtime)
    waker = Waker(runtime, found_s=SECOND_S)
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(LOOK_S)
        waker.look(watchman.pids(), loop.time())


def main() -> NoReturn:
    """The process."""
    run(serve, DispatcherSettings, role="dispatcher")


if __name__ == "__main__":
    main()
