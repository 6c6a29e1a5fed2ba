"""The MCP bridge: one MCP server as a worker of the pool, its tools beside all others.

The tool host starts one such process per `[mcp.NAME]` of tools.toml, and starts it again when it
ends. It ends itself when its server is gone: its calls end as crashed, and it begins anew.
"""

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import psutil
from mcp import Client, MCPError, StdioServerParameters, types

from voicebus.bus.messages import events, work
from voicebus.config.settings import ToolhostSettings
from voicebus.services.pace import Pace
from voicebus.services.runtime import CannotStart, Runtime, run
from voicebus.services.tools import confine, offer, settings, tether
from voicebus.services.tools.membership import Membership
from voicebus.services.tools.pool import Key, Lane, Log

BEAT_S = 0.25
CONNECT_S = 60.0
"""A server that is installed when it is first started takes its time."""
DRAIN_S = 5.0
WORDS_LIMIT = 2000
SDK_LOGGERS = ("mcp", "client")
SAID_EVERY_S = 1.0
SAID_LIMIT = 300

_cancels = msgspec.json.Decoder(events.Cancel)


@dataclass(eq=False)
class Running:
    """A call that the server is working on."""

    call: work.Call
    came_at: float
    task: asyncio.Task[None] | None = None
    cancelled: str | None = None


class Bridge:
    """Calls in, results out; for the pool it is what a host's runners are."""

    def __init__(
        self, client: Client, specs: Mapping[str, work.ToolSpec], server: settings.McpServer,
        *, result_bytes: int,
    ) -> None:  # fmt: skip
        """`specs`: the server's own name of a tool -> the tool as the pool knows it."""
        self.lost = asyncio.Event()
        """The server is gone."""
        self.member: Membership | None = None
        self._client = client
        self._server = server
        self._result_bytes = result_bytes
        self._specs = {spec.name: spec for spec in specs.values()}
        self._remote = {spec.name: name for name, spec in specs.items()}
        self._running: dict[Key, Running] = {}
        self._early: dict[Key, str] = {}
        self._loop = asyncio.get_running_loop()

    # --- what a membership asks ---------------------------------------------------------------

    def capacity(self, lane: Lane) -> int:
        """How many calls the server gets at the same time."""
        return self._server.concurrency

    def free(self, lane: Lane) -> int:
        """How many more it could take."""
        return 0 if self.lost.is_set() else max(0, self._server.concurrency - len(self._running))

    def tools_of(self, lane: Lane) -> list[work.ToolSpec]:
        """What the server offers."""
        return list(self._specs.values())

    def running(self, lane: Lane) -> list[tuple[Key, float]]:
        """The calls that have not ended, and their ages in seconds."""
        now = self._loop.time()
        return [(key, now - one.came_at) for key, one in self._running.items()]

    def holds(self, key: Key) -> bool:
        """Whether this call is here."""
        return key in self._running

    def call(self, call: work.Call) -> None:
        """Hand it to the server."""
        key = (call.session_id, call.call_id)
        if call.tool not in self._specs:
            self._end(call, "unknown_tool", f"no tool '{call.tool}' here", started=False)
        elif key in self._early:
            words = f"cancelled before it began ({self._early.pop(key)})"
            self._end(call, "cancelled", words, started=False)
        else:
            one = Running(call, self._loop.time())
            self._running[key] = one
            one.task = self._loop.create_task(self._run(key, one))
            one.task.add_done_callback(lambda task: self._stopped(key, one, task))

    def cancel(self, key: Key, reason: str) -> None:
        """Tell the server to stop, and wait for it no longer."""
        one = self._running.get(key)
        if one is None:
            self._early[key] = reason
            while len(self._early) > 256:
                del self._early[next(iter(self._early))]
        elif one.cancelled is None and one.task is not None:
            one.cancelled = reason
            one.task.cancel()

    # --- a call -------------------------------------------------------------------------------

    def _stopped(self, key: Key, one: Running, task: asyncio.Task[None]) -> None:
        """A cancel that comes along with its call, before the first step: nothing has run, and
        nothing else tells its end."""
        if task.cancelled() and self._running.pop(key, None) is not None:
            words = f"cancelled before it began ({one.cancelled})"
            self._end(one.call, "cancelled", words, started=False)

    async def _run(self, key: Key, one: Running) -> None:
        call = one.call
        spec = self._specs[call.tool]
        budget_s = min(call.budget_ms / 1000, spec.timeout_s)
        assert self.member is not None
        self.member.started(key)

        async def told(progress: float, total: float | None, message: str | None) -> None:
            share = f"{progress:g}" if total is None else f"{progress:g} of {total:g}"
            if self.member is not None and key in self._running:
                self.member.progressed(key, (message or share)[:500])

        status: work.Status
        try:
            async with asyncio.timeout(budget_s):
                answer = await self._client.call_tool(
                    self._remote[call.tool], call.args, progress_callback=told
                )
        except asyncio.CancelledError:
            status, words = "cancelled", f"cancelled ({one.cancelled})"
        except TimeoutError:
            status, words = "timeout", f"it did not end within {budget_s:g} s"
        except MCPError as error:
            status, words = "error", str(error)
            if error.code == types.CONNECTION_CLOSED:
                status, words = "crashed", f"the MCP server ended ({error})"
                self.lost.set()
            elif error.code == types.INVALID_PARAMS:
                status = "invalid_arguments"
        except Exception as error:  # whatever the connection may raise when its server is gone
            status, words = "crashed", f"the MCP server is gone ({type(error).__name__}: {error})"
            self.lost.set()
        else:
            self._answered(key, one, answer)
            return
        self._running.pop(key, None)
        self._end(call, status, words, started=True, took_s=self._loop.time() - one.came_at)

    def _answered(self, key: Key, one: Running, answer: types.CallToolResult) -> None:
        self._running.pop(key, None)
        took_s = self._loop.time() - one.came_at
        if answer.is_error:
            self._end(one.call, "error", _text(answer) or "it failed", started=True, took_s=took_s)
            return
        value = answer.structured_content if answer.structured_content else _text(answer)
        body = msgspec.json.encode(value)
        if len(body) > self._result_bytes:
            words = f"its result has {len(body)} bytes, the limit is {self._result_bytes}"
            self._end(one.call, "error", words, started=True, took_s=took_s)
            return
        assert self.member is not None
        self.member.ended(
            work.Result(
                session_id=one.call.session_id,
                call_id=one.call.call_id,
                status="ok",
                result=msgspec.Raw(body),
                duration_ms=round(took_s * 1000, 3),
            )
        )
        self.member.changed()

    def _end(
        self, call: work.Call, status: work.Status, words: str, *, started: bool, took_s: float = 0
    ) -> None:
        assert self.member is not None
        self.member.ended(
            work.Result(
                session_id=call.session_id,
                call_id=call.call_id,
                status=status,
                failure=work.Failure(message=words[:WORDS_LIMIT]),
                duration_ms=round(took_s * 1000, 3),
                started=started,
            )
        )
        self.member.changed()

    async def drain(self, within_s: float) -> None:
        """Wait until nothing runs and all results are safe, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._running or (self.member is not None and self.member.owes):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


def _text(answer: types.CallToolResult) -> str:
    parts = [
        one.text if isinstance(one, types.TextContent) else f"[{one.type}]"
        for one in answer.content
    ]
    return "\n".join(parts)


def spec_of(tool: types.Tool, server: settings.McpServer) -> work.ToolSpec:
    """The tool in the words of the bus. What the server says of its effects counts."""
    hints = tool.annotations
    effects: work.Effects = "once"
    if hints is not None and hints.read_only_hint:
        effects = "none"
    elif hints is not None and hints.idempotent_hint:
        effects = "idempotent"
    return work.ToolSpec(
        name=f"{server.prefix}{tool.name}",
        description=(tool.description or tool.title or tool.name)[:1024],
        parameters={"type": "object", "properties": {}, **tool.input_schema},
        effects=effects,
        timeout_s=server.timeout_s,
    )


async def _offered(
    client: Client, server: settings.McpServer, log: Log
) -> dict[str, work.ToolSpec]:
    found: dict[str, work.ToolSpec] = {}
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            if server.tools and tool.name not in server.tools:
                continue
            spec = spec_of(tool, server)
            why = offer.fault(spec)
            if why is None:
                found[tool.name] = spec
            else:
                log.warning("tool.left_out", why=why)
        cursor = page.next_cursor
        if cursor is None:
            return found


def where(name: str, server: settings.McpServer) -> StdioServerParameters | str:
    """Its address, or what starts it. Raises CannotStart if there is no such program."""
    if server.url is not None:
        return server.url
    program, *arguments = shlex.split(server.command or "")
    environment = confine.environment(os.environ, server.environment)
    if shutil.which(program, path=environment.get("PATH")) is None:
        raise CannotStart(
            f"[mcp.{name}] command: there is no program {program!r}; install it, or name its path"
        )
    started, *rest = tether.command(program, arguments)
    return StdioServerParameters(command=started, args=rest, env=environment)


class Said(logging.Handler):
    """What the SDK says of its server: each thing once a second, in a line. A server that floods
    its standard output would push everything else out of the log."""

    def __init__(self, log: Log, server: str) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._server = server
        self._pace = Pace(SAID_EVERY_S)

    def emit(self, record: logging.LogRecord) -> None:
        """Into the log, or nowhere."""
        if self._pace.is_due((record.name, record.msg), time.monotonic()):
            error = record.exc_info[1] if record.exc_info else None
            self._log.warning(
                "mcp.said",
                server=self._server,
                what=record.getMessage()[:SAID_LIMIT],
                error=None if error is None else str(error)[:SAID_LIMIT],
            )


async def serve(runtime: Runtime[ToolhostSettings]) -> None:
    """Until told to stop, or until the server is gone."""
    own = runtime.settings
    file = settings.load(Path(own.tools_file) if own.tools_file else None)
    name, server = list(file.mcp.items())[runtime.instance]
    runtime.waiting(f"the MCP server '{name}' does not answer")
    for logger in map(logging.getLogger, SDK_LOGGERS):
        logger.propagate = False
        logger.addHandler(Said(runtime.log, name))
    loop = asyncio.get_running_loop()
    stopping = loop.create_task(runtime.stopping.wait())
    try:
        async with contextlib.AsyncExitStack() as open_ones:
            async with asyncio.timeout(CONNECT_S) as limit:
                # Killed while it waits it would leave its server behind.
                stopping.add_done_callback(lambda _: _at_once(limit, loop.time()))
                client = await open_ones.enter_async_context(Client(where(name, server)))
                specs = await _offered(client, server, runtime.log)
            bridge = Bridge(client, specs, server, result_bytes=file.limits.result_kb * 1024)
            await _follow(runtime, bridge)
    except (OSError, TimeoutError, MCPError, ExceptionGroup) as error:
        if runtime.stopping.is_set():
            return
        raise CannotStart(f"the MCP server '{name}' gives no answer: {error!r}") from None


def _at_once(limit: asyncio.Timeout, now: float) -> None:
    with contextlib.suppress(RuntimeError):  # it has been left already
        limit.reschedule(now)


async def _follow(runtime: Runtime[ToolhostSettings], bridge: Bridge) -> None:
    def cancelled(frames: list[bytes]) -> None:
        with contextlib.suppress(msgspec.DecodeError, IndexError):
            cancel = _cancels.decode(frames[1])
            for call_id in cancel.call_ids:
                bridge.cancel((cancel.session_id, call_id), cancel.reason)

    publishers = [runtime.endpoints.events(shard) for shard in range(runtime.cell.shards)]
    runtime.sockets.subscriber(publishers, [b"cancel/"], cancelled)
    member = bridge.member = Membership(runtime, bridge, "sync")
    # Sound comes first, as with runners; and as with them, not before everything is imported.
    servers = {child.pid for child in psutil.Process().children()}
    busy = set(servers)
    while not runtime.stopping.is_set() and not bridge.lost.is_set():
        busy -= {pid for pid in busy if confine.make_yield(pid)}
        await asyncio.sleep(BEAT_S)
        member.beat()
        if member.is_welcome.is_set():
            runtime.ready()
        else:
            runtime.waiting("the dispatcher does not answer")
    runtime.draining("running calls are finishing")
    member.leave()
    await bridge.drain(DRAIN_S)
    member.bye()
    for pid in servers:
        confine.hurry(pid)
    await asyncio.sleep(0.05)  # it leaves in the background
    if bridge.lost.is_set():
        raise CannotStart("the MCP server is gone")


def main() -> NoReturn:
    """The process."""
    confine.die_with_parent()
    run(serve, ToolhostSettings, role="mcp")


if __name__ == "__main__":
    main()
