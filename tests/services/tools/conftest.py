"""A pool of real runner processes, and a whole dispatcher with hosts, for tests to drive."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from voicebus.bus import testing, topics
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages import events, work
from voicebus.bus.messages.base import encode
from voicebus.bus.sockets import Sockets
from voicebus.services.tools import confine, runner
from voicebus.services.tools.pool import Key, Lane, Pool, PoolSettings

HOSTILE = str(Path(__file__).parent / "samples" / "hostile.py")
SESSION = "s0-" + "0" * 26
PATIENCE_S = 60.0
AMPLE_S = 50.0
"""What a tool has that names no time of its own: it is to end by itself, however little of the
processor it gets at its low priority."""
_outcomes: Codec[work.ANY_FROM_DISPATCHER] = Codec(work.ANY_FROM_DISPATCHER, what="test")


class DrivenPool:
    """A Pool and what it told its listener."""

    def __init__(
        self,
        limits: runner.Limits,
        runners: int,
        specs: tuple[str, ...] = (HOSTILE,),
        **settings: Any,
    ) -> None:
        self.begun: dict[str, asyncio.Event] = {}
        self.said: dict[str, list[str]] = {}
        self.results: dict[str, asyncio.Future[work.Result]] = {}
        self.failures: list[Exception] = []
        self._changed = asyncio.Event()
        self._next = 0
        self.pool = Pool(
            PoolSettings(
                specs=specs,
                search_path=[],
                environment=confine.environment({**os.environ, "OPENAI_API_KEY": "sk-secret"}),
                limits=limits,
                runners=runners,
                **settings,
            ),
            self,
            structlog.get_logger(),
        )

    # --- the listener ---

    def started(self, key: Key) -> None:
        self.begun[key[1]].set()

    def progressed(self, key: Key, text: str) -> None:
        self.said.setdefault(key[1], []).append(text)
        self._changed.set()

    def ended(self, lane: Lane, result: work.Result) -> None:
        self.results[result.call_id].set_result(result)  # a second one would raise

    def changed(self) -> None:
        self._changed.set()

    def failed(self, error: Exception) -> None:
        self.failures.append(error)
        self._changed.set()

    # --- driving ---

    async def given_up(self) -> Exception:
        """Why the pool cannot go on."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.failures:
                self._changed.clear()
                await self._changed.wait()
        return self.failures.pop()

    async def free(self, lane: Lane, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.pool.free(lane) < count:
                self._changed.clear()
                await self._changed.wait()

    async def warm(self, lane: Lane, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.pool.ready(lane) < count:
                self._changed.clear()
                await self._changed.wait()

    def begin(self, tool: str, **args: Any) -> str:
        self._next += 1
        call_id = f"c{self._next}"
        self.begun[call_id] = asyncio.Event()
        self.results[call_id] = asyncio.get_running_loop().create_future()
        self.pool.call(
            work.Call(
                session_id=SESSION, call_id=call_id, tool=tool, args=args, epoch=0, budget_ms=60_000
            )
        )
        return call_id

    async def running(self, tool: str, **args: Any) -> str:
        call_id = self.begin(tool, **args)
        async with asyncio.timeout(PATIENCE_S):
            await self.begun[call_id].wait()
        return call_id

    async def heard(self, call_id: str, text: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.said.get(call_id, ()):
                self._changed.clear()
                await self._changed.wait()

    async def result(self, call_id: str) -> work.Result:
        async with asyncio.timeout(PATIENCE_S):
            return await self.results[call_id]

    async def run(self, tool: str, **args: Any) -> work.Result:
        return await self.result(self.begin(tool, **args))

    def cancel(self, call_id: str) -> None:
        self.pool.cancel((SESSION, call_id), "interrupt")


def value(result: work.Result) -> Any:
    """What the tool returned."""
    assert result.failure is None, result.failure
    return msgspec.json.decode(msgspec.json.encode(result.result))


def failure(result: work.Result) -> work.Failure:
    """Why there is no result."""
    assert result.failure is not None
    return result.failure


@pytest.fixture
async def driven() -> AsyncIterator[DrivenPool]:
    """Three runners with the hostile tools."""
    made = DrivenPool(runner.Limits(memory_mb=2048, timeout_s=AMPLE_S), 3)
    await made.pool.start()
    try:
        yield made
    finally:
        made.pool.close()
    assert not made.failures, made.failures


class Cell:
    """A dispatcher and tool hosts as processes; the test is the session process."""

    def __init__(
        self, run_dir: Path, *, tools: str = HOSTILE, settings: dict[str, str] | None = None
    ) -> None:
        self.endpoints = Endpoints(run_dir)
        self._tools = tools
        self._env = {
            **os.environ,
            "VOICEBUS_RUN": str(run_dir),
            "VOICEBUS_TOOLHOST_RUNNERS": "2",
            **(settings or {}),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.outcomes: dict[str, work.Outcome] = {}
        self.late: list[work.Outcome] = []
        self.begun: set[str] = set()
        self.said: dict[str, list[str]] = {}
        self.catalogue: list[str] = []
        self.repeats = 0
        self.acknowledges = True
        self._news = asyncio.Event()
        self._next = 0
        self._submitted: dict[str, work.SubmitCall] = {}
        self.sockets = Sockets()
        self._events = self.sockets.publisher(self.endpoints.events(0))
        self._dealer = self.sockets.dealer(self.endpoints.calls, self._heard, name="session-0")

    def start(self, role: str, instance: int = 0) -> None:
        command = [sys.executable, "-P", "-m", f"voicebus.services.tools.{role}"]
        arguments = ["--tools", self._tools] if role == "toolhost" else []
        with self._log(role).open("ab") as log:
            self.processes[f"{role}-{instance}"] = subprocess.Popen(
                [*command, "--instance", str(instance), *arguments], env=self._env, stdout=log
            )

    def _log(self, role: str) -> Path:
        return self.endpoints.run_dir / f"{role}.log"

    def log_of(self, role: str, *words: str) -> str:
        """The lines of its log that hold one of these words, for a failure's message."""
        lines = self._log(role).read_text("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if any(word in line for word in words))

    def start_stranger(
        self, command: list[str], env: dict[str, str] | None = None, *, stderr: int | None = None
    ) -> subprocess.Popen[bytes]:
        """A worker that knows nothing but the protocol."""
        process = subprocess.Popen(
            [*command, str(self.endpoints.run_dir)], env=env or self._env, stderr=stderr
        )
        self.processes["stranger"] = process
        return process

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        process = self.processes[name]
        process.send_signal(how)
        return process.wait() if how is not signal.SIGSTOP else 0

    def _heard(self, frames: Any) -> None:
        message, _ = _outcomes.decode(frames)
        match message:
            case work.ToolCatalogue():
                self.catalogue = [tool.name for tool in message.tools]
            case work.CallStarted():
                self.begun.add(message.call_id)
            case work.CallProgress():
                self.said.setdefault(message.call_id, []).append(message.text)
            case work.Outcome():
                if message.late:
                    self.late.append(message)
                elif message.call_id in self.outcomes:
                    assert message.status == self.outcomes[message.call_id].status
                    self.repeats += 1
                else:
                    self.outcomes[message.call_id] = message
                if self.acknowledges:
                    self.acknowledge(message.call_id)
        self._news.set()

    async def until(self, what: Callable[[], bool]) -> None:
        """Until it is so, looking at each message."""
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                self._news.clear()
                await self._news.wait()

    def send(self, message: work.ToDispatcher) -> None:
        self._dealer.send([encode(message)])

    def follow(self, inc: str = "a") -> None:
        self.send(work.Follow(shard=0, inc=inc))

    def acknowledge(self, call_id: str) -> None:
        session = self._submitted[call_id].session_id
        self.send(work.OutcomeAck(session_id=session, call_id=call_id))

    def submit(
        self, tool: str, *, budget_ms: int = 60_000, session: str = SESSION, **args: Any
    ) -> str:
        self._next += 1
        message = work.SubmitCall(
            session_id=session,
            call_id=f"c{self._next}",
            tool=tool,
            args=args,
            epoch=0,
            budget_ms=budget_ms,
        )
        self._submitted[message.call_id] = message
        self.send(message)
        return message.call_id

    def submit_again(self, call_id: str) -> None:
        self.send(msgspec.structs.replace(self._submitted[call_id], resubmit=True))

    async def running(self, tool: str, **args: Any) -> str:
        call_id = self.submit(tool, **args)
        await self.until(lambda: call_id in self.begun)
        return call_id

    async def outcome(self, call_id: str) -> work.Outcome:
        await self.until(lambda: call_id in self.outcomes)
        return self.outcomes[call_id]

    async def run(self, tool: str, *, budget_ms: int = 60_000, **args: Any) -> work.Outcome:
        return await self.outcome(self.submit(tool, budget_ms=budget_ms, **args))

    def broadcast(self, call_id: str) -> None:
        cancel = events.Cancel(session_id=SESSION, epoch=1, call_ids=[call_id], reason="interrupt")
        self._events.publish(topics.cancel(SESSION, "interrupt"), [encode(cancel)])

    def cancel(self, call_id: str) -> None:
        self.send(
            work.CancelCalls(session_id=SESSION, call_ids=[call_id], epoch=1, reason="interrupt")
        )

    def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self.processes.values():
            process.wait()
        self.sockets.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with testing.run_folder() as path:
        yield path


@pytest.fixture
async def cell(folder: Path) -> AsyncIterator[Cell]:
    """A dispatcher and one host that has joined it."""
    made = Cell(folder)
    made.start("dispatcher")
    made.start("toolhost")
    made.follow()
    try:
        await made.until(lambda: "async_sleep" in made.catalogue and "echo" in made.catalogue)
        yield made
    finally:
        made.close()
