"""The tool host: runs users' functions in child processes that it can kill."""

import asyncio
import contextlib
import itertools
import os
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from voicebus.bus.messages import events, work
from voicebus.config.settings import ToolhostSettings
from voicebus.services.runtime import CannotStart, Runtime, run
from voicebus.services.tools import confine, process, runner, settings
from voicebus.services.tools.bridges import Bridges
from voicebus.services.tools.membership import Membership
from voicebus.services.tools.pool import Key, Lane, Pool, PoolSettings
from voicebus.services.tools.waking import Waker, Watchman

BEAT_S = 0.25
LOOK_BEATS = 2
"""So many to a look for stopped processes, which costs what a beat costs, for each of them."""
FAREWELL_S = 0.5
GONE_S = 5.0
"""A killed runner that takes so long to die is stuck in the kernel: no one can wait it out."""

_cancels = msgspec.json.Decoder(events.Cancel)


class Toolhost:
    """The pool of runners, as one worker for `def` tools and one for `async def` tools."""

    def __init__(self, runtime: Runtime[ToolhostSettings]) -> None:
        self._runtime = runtime
        self._memberships: dict[Lane, Membership] = {}
        own = runtime.settings
        file = settings.load(Path(own.tools_file) if own.tools_file else None)
        self.pool = Pool(_pool_settings(runtime, file), self, runtime.log)
        # Only the first host has them: each server once.
        self._servers = list(file.mcp) if runtime.instance == 0 else []
        self._bridges: Bridges | None = None
        self._waker = Waker(runtime)
        self._watchman: Watchman | None = None

    async def start(self) -> None:
        """Import the tools, join the pool. Raises CannotStart."""
        self._bridges = Bridges(self._servers, self._runtime.log)
        try:
            await self.pool.start()
        except process.CannotLoad as error:
            self._runtime.failing(str(error))
            raise CannotStart(str(error)) from None
        for lane in self.pool.lanes():
            self._memberships[lane] = Membership(self._runtime, self.pool, lane)
        self._runtime.log.info("tools.loaded", tools=sorted(self.pool.tools))
        # Runners poll the broadcast themselves. The host hears it as well, so that the grace of
        # those that do not look begins at once, also when the dispatcher is away.
        self._runtime.sockets.subscriber(_publishers(self._runtime), [b"cancel/"], self._cancelled)
        if self._runtime.instance == 0:
            self._watchman = Watchman(self._runtime)

    async def welcomed(self) -> None:
        """Until the dispatcher knows us."""
        for one in self._memberships.values():
            await one.is_welcome.wait()

    async def beat(self) -> None:
        """For ever: heartbeats, and how we are."""
        for beats in itertools.count(1):
            await asyncio.sleep(BEAT_S)
            for one in self._memberships.values():
                one.beat()
            if beats % LOOK_BEATS == 0:
                self._waker.look(self._watched(), asyncio.get_running_loop().time())
            if self._runtime.stopping.is_set():
                continue  # it says that it is draining
            if all(one.is_welcome.is_set() for one in self._memberships.values()):
                self._runtime.ready()
            else:
                self._runtime.waiting("the dispatcher does not answer")

    async def stop(self) -> None:
        """Finish what runs, within bounds, and say goodbye."""
        for one in self._memberships.values():
            one.leave()
        await self.pool.drain(self._runtime.settings.drain_s)
        self.pool.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                while any(one.owes for one in self._memberships.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        for one in self._memberships.values():
            one.bye()
        await asyncio.sleep(0.05)  # it leaves in the background

    # --- processes that somebody has stopped ---

    def _watched(self) -> dict[int, str]:
        """Process ids, and what they are called: our children, and the one who watches us."""
        me = f"toolhost-{self._runtime.instance}"
        found = dict.fromkeys(self.pool.pids(), f"{me}/runner")
        server = self.pool.server_pid()
        if server is not None:
            found[server] = f"{me}/forkserver"
        if self._bridges is not None:
            found |= dict.fromkeys(self._bridges.pids(), f"{me}/bridge")
        if self._watchman is not None:
            found |= self._watchman.pids()
        return found

    # --- what the pool reports ---

    def started(self, key: Key) -> None:
        """A call's code begins."""
        self._of(key).started(key)

    def progressed(self, key: Key, text: str) -> None:
        """A call said how far it is."""
        self._of(key).progressed(key, text)

    def ended(self, lane: Lane, result: work.Result) -> None:
        """A call ended."""
        self._memberships[lane].ended(result)

    def changed(self) -> None:
        """The number of free places may have changed."""
        for one in self._memberships.values():
            one.changed()

    def failed(self, error: Exception) -> None:
        """The pool cannot go on: supervisord starts us anew."""
        self._runtime.failing(str(error))
        self._runtime.fail(error)

    def _of(self, key: Key) -> Membership:
        return self._memberships[self.pool.lane_of(key)]

    def _cancelled(self, frames: list[bytes]) -> None:
        # What is not understood is not for us: the welcome to our own subscription, newer words.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, IndexError):
            cancel = _cancels.decode(frames[1])
            for call_id in cancel.call_ids:
                self.pool.cancel((cancel.session_id, call_id), cancel.reason)


def _publishers(runtime: Runtime[Any]) -> list[str]:
    return [runtime.endpoints.events(shard) for shard in range(runtime.cell.shards)]


def _pool_settings(runtime: Runtime[ToolhostSettings], file: settings.ToolSettings) -> PoolSettings:
    own = runtime.settings
    limits = file.limits
    return PoolSettings(
        specs=[*file.tools.modules, *own.tools.split()],
        search_path=[*file.tools.path, os.getcwd()],
        environment=confine.environment(os.environ, file.tools.environment),
        limits=runner.Limits(
            timeout_s=limits.timeout_s,
            grace_s=limits.grace_s,
            memory_mb=own.memory_mb,
            files=limits.files,
            # The kernel counts all that the user runs, so what is there already comes on top.
            tasks=limits.processes and confine.tasks_of_user() + limits.processes,
            result_bytes=limits.result_kb * 1024,
            cancel_endpoints=_publishers(runtime),
        ),
        secrets=settings.read_secrets(file),
        runners=own.runners,
        async_calls=limits.async_calls,
        stderr_bytes=limits.stderr_kb * 1024,
        recycle_calls=limits.recycle_calls,
        recycle_kb=limits.recycle_mb * 1024,
    )


async def serve(runtime: Runtime[ToolhostSettings]) -> None:
    """Until told to stop."""
    runtime.waiting("the tool modules are being imported")
    host = Toolhost(runtime)
    try:
        await host.start()
        runtime.waiting("the dispatcher does not answer")
        beating = asyncio.create_task(host.beat())
        await runtime.stopping.wait()
        runtime.draining("running calls are finishing")
        await host.stop()
        beating.cancel()
    finally:
        host.pool.close()
        if not await host.pool.gone(GONE_S):
            runtime.log.warning("runners.remain", after_s=GONE_S)


def main() -> NoReturn:
    """The process."""
    run(serve, ToolhostSettings, role="toolhost")


if __name__ == "__main__":
    main()
