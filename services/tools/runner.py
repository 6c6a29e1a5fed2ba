"""The child process that runs tools: one call at a time for `def`, a shared loop for `async def`.

SIGTERM keeps its default action: a Python handler would not run inside a C call, the default
action ends everything within two milliseconds. Cleaning up is the host's business.
"""

import asyncio
import contextlib
import faulthandler
import inspect
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from voicebus.bus.depth import VALUE_DEPTH_LIMIT, is_deep
from voicebus.bus.messages import events, work
from voicebus.bus.sockets import CancelWatch
from voicebus.services.tools import confine, pipe, schema
from voicebus.services.tools.api import Cancelled, ToolContext
from voicebus.services.tools.bounds import PROGRESS_LIMIT
from voicebus.services.tools.toolbox import Tool

PROGRESS_EVERY_S = 0.05
MESSAGE_LIMIT = 2000
TOMBSTONES = 256
COUNT_CHILDREN_EVERY = 32
OVER = "its call has ended"

Key = tuple[str, str]
_cancels = msgspec.json.Decoder(events.Cancel)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What every runner gets."""

    timeout_s: float = 20.0
    grace_s: float = 0.3
    memory_mb: int = 1024
    files: int = 1024
    tasks: int = 0
    """Processes and threads of the user in all, from which on tools can start no more."""
    result_bytes: int = 256 * 1024
    cancel_endpoints: list[str] = []
    """The publishers of every session shard."""

    @classmethod
    def parse(cls, text: str) -> "Limits":
        """From JSON."""
        return msgspec.json.decode(text, type=cls)


def main(
    tools: dict[str, Tool],
    limits: Limits,
    *,
    is_async: bool,
    descriptors: list[int],
    parent: int,
) -> NoReturn:
    """What a freshly forked child of `parent` does. Never returns."""
    code = 1
    try:
        os.setsid()
        confine.adopt_orphans()
        confine.die_with_parent()
        if os.getppid() != parent:
            os._exit(1)  # it died between the fork and the line above
        confine.name_process("vb-runner")
        link = pipe.Link(_stdio(descriptors))
        confine.limit(memory_mb=limits.memory_mb, files=limits.files, tasks=limits.tasks)
        watch = CancelWatch(limits.cancel_endpoints)
        runner = Runner(tools, limits, link, watch)
        # Last: the socket's own threads keep their priority, so that a cancel arrives in time.
        runner.make_way()
        link.send(pipe.Ready())
        if is_async:
            _keep_on(serve_async(runner))
        else:
            serve_sync(runner)
        code = 0
    except OSError:
        pass  # the host is gone
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _stdio(descriptors: list[int]) -> socket.socket:
    link, output, dump = descriptors
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    os.close(output)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    # What tools log is part of what they wrote, and told with their failure. A tool module that
    # has set up its own logging keeps it.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable(dump)
    faulthandler.register(signal.SIGUSR1, file=dump, all_threads=True, chain=False)
    for fd in (link, dump):
        os.set_inheritable(fd, False)
    return socket.socket(fileno=link)


class Runner:
    """What both kinds share: the link, the broadcast, and how a call ends."""

    def __init__(
        self, tools: dict[str, Tool], limits: Limits, link: pipe.Link, watch: CancelWatch
    ) -> None:
        self.tools = tools
        self.limits = limits
        self.link = link
        self.watch = watch
        self.cancelled: OrderedDict[Key, str] = OrderedDict()
        """The last cancels, also those that came before their call."""
        self.orders: list[pipe.Run] = []
        self._memory_kb = _memory_kb()
        self._pid = os.getpid()
        self._folder = _working_folder()
        self._looking = threading.Lock()
        self.on_news: Callable[[], object] = lambda: None
        """Called, in whatever thread, when a tool that looked has taken in what came."""
        self._calls = 0
        self._has_made_way = False

    def make_way(self) -> None:
        """Sound comes first. Tried again before each call, should the system not have taken it."""
        if not self._has_made_way:
            self._has_made_way = confine.yield_the_cpu()

    def go_home(self) -> None:
        """Back to the folder that every call begins in: the last one's may even be deleted."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(self._folder)

    def listen(self) -> None:
        """Take in what has come, without waiting."""
        with self._looking:
            self._take_in()

    def _take_in(self) -> bool:
        """Whether anything came."""
        broadcasts, messages = self.watch.poll(), self.link.poll()
        for frames in broadcasts:
            # What is not understood is not for us: anyone may publish newer words.
            with contextlib.suppress(*pipe.UNREADABLE, IndexError):
                cancel = _cancels.decode(frames[1])
                for call_id in cancel.call_ids:
                    self._note((cancel.session_id, call_id), cancel.reason)
        for message in messages:
            if isinstance(message, pipe.Stop):
                self._note((message.session_id, message.call_id), message.reason)
            else:
                self.orders.append(message)
        return bool(broadcasts or messages) or self.link.is_closed

    def _note(self, key: Key, reason: str) -> None:
        self.cancelled.setdefault(key, reason)
        while len(self.cancelled) > TOMBSTONES:
            self.cancelled.popitem(last=False)

    def prepare(self, order: pipe.Run) -> "Prepared | pipe.Done":
        """The call, checked; or how it ended before it began."""
        self.make_way()
        tool = self.tools.get(order.tool)
        key = (order.session_id, order.call_id)
        if tool is None:
            return _refused(order, "unknown_tool", f"no tool '{order.tool}' here")
        if key in self.cancelled:
            return _refused(order, "cancelled", f"cancelled ({self.cancelled[key]})")
        try:
            arguments = tool.signature.bind(order.args)
        except schema.InvalidArguments as error:
            return _refused(order, "invalid_arguments", str(error))
        teller = _Teller(self.link, order)
        call = Prepared(order, tool, arguments)
        call.context = ToolContext(
            call_id=order.call_id,
            session_id=order.session_id,
            tool=order.tool,
            attempt=order.attempt,
            budget_s=order.budget_s,
            poll=lambda: self._look(key, call),
            wake_fds=lambda: [self.link.socket.fileno(), self.watch.fd] if self._is_here else [],
            tell=lambda text: teller.tell(text) if self._is_here else None,
            secrets=order.secrets,
        )
        if tool.signature.context_parameter is not None:
            arguments[tool.signature.context_parameter] = call.context
        return call

    @property
    def _is_here(self) -> bool:
        """Whether this is the runner, and not a child that a tool has forked: two processes that
        read one link or one ZeroMQ socket take each other's words away."""
        return os.getpid() == self._pid

    def _look(self, key: Key, call: "Prepared") -> str | None:
        # Tools hand their context to threads of theirs. One looks for all, and none any more once
        # its call has ended: the next call's order would be lost in its hands.
        if self._is_here and self._looking.acquire(blocking=False):
            try:
                is_news = not call.is_over and self._take_in()
            finally:
                self._looking.release()
            if is_news:
                self.on_news()  # it may be for other calls of this process
        if call.is_over:
            return OVER
        reason = self.cancelled.get(key)
        if reason is not None:
            call.saw_cancel()
        return reason

    def done(self, call: "Prepared", outcome: "Outcome") -> None:
        """Tell the host how it ended."""
        if not self._is_here:
            os._exit(1)  # the tool forked, and its child came back instead of ending
        with contextlib.suppress(Exception):  # the tool may have closed it
            sys.stdout.flush()
        with self._looking:
            call.is_over = True
        order = call.order
        self._calls += 1
        is_counted = self._calls % COUNT_CHILDREN_EVERY == 0
        self.link.send(
            pipe.Done(
                session_id=order.session_id,
                call_id=order.call_id,
                status=outcome.status,
                result=msgspec.Raw(outcome.result),
                message=_encodable(outcome.message[:MESSAGE_LIMIT]),
                duration_ms=round((time.perf_counter() - call.began_at) * 1000, 3),
                cancel_seen_us=call.cancel_seen_us,
                grown_kb=max(0, _memory_kb() - self._memory_kb),
                children=len(confine.children()) if is_counted else 0,
            )
        )

    def ended_with(self, tool: str, value: Any) -> "Outcome":
        """What a tool returned, as JSON; or why that is no answer."""
        limit = self.limits.result_bytes
        try:
            body = msgspec.json.encode(value, enc_hook=schema.jsonable)
        except MemoryError:
            return Outcome("error", message=f"the result of '{tool}' does not fit into memory")
        except Exception as error:
            advice = "tools return text, numbers, lists, dicts, dataclasses or pydantic models"
            if inspect.iscoroutine(value):
                value.close()
                advice = "a decorator hides that it is `async def`: make its wrapper `async def`"
            return Outcome(
                "error",
                message=f"'{tool}' returned a {type(value).__name__} that is not JSON ({error}); "
                f"{advice}",
            )
        if len(body) > limit:
            return Outcome(
                "error",
                message=f"the result of '{tool}' has {len(body)} bytes, the limit is {limit}; "
                "return less, or a file's name",
            )
        if is_deep(body, VALUE_DEPTH_LIMIT):
            return Outcome(
                "error",
                message=f"the result of '{tool}' is nested more than {VALUE_DEPTH_LIMIT} levels "
                "deep; return something flatter",
            )
        return Outcome("ok", result=body)


@dataclass
class Prepared:
    """A call that may begin."""

    order: pipe.Run
    tool: Tool
    arguments: dict[str, Any]
    began_at: float = 0.0
    cancel_seen_us: int | None = None
    is_told: bool = False
    """Whether the task of an `async def` tool was cancelled."""
    is_over: bool = False
    """What it has left behind (threads, tasks) should stop."""

    def __post_init__(self) -> None:
        self.context = ToolContext()

    def saw_cancel(self) -> None:
        """The tool's own code is being told to stop, now."""
        if self.cancel_seen_us is None:
            self.cancel_seen_us = time.time_ns() // 1000


@dataclass
class Outcome:
    """How a call ended, inside."""

    status: work.Status
    result: bytes = b"null"
    message: str = ""


class _Teller:
    """Progress, not more often than anyone can read."""

    def __init__(self, link: pipe.Link, order: pipe.Run) -> None:
        self._link = link
        self._order = order
        self._next_at = 0.0

    def tell(self, text: str) -> None:
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + PROGRESS_EVERY_S
        self._link.send(
            pipe.Said(
                session_id=self._order.session_id,
                call_id=self._order.call_id,
                text=_encodable(text[:PROGRESS_LIMIT]),
            )
        )


def _refused(order: pipe.Run, status: work.Status, message: str) -> pipe.Done:
    return pipe.Done(
        session_id=order.session_id,
        call_id=order.call_id,
        status=status,
        message=message,
        began=False,
    )


def failed_with(error: BaseException, stopped: str | None) -> Outcome:
    """What a tool raised. Its traceback goes to the captured standard error.

    `stopped`: why it was asked to stop; None if it was not.
    """
    is_stop = isinstance(error, Cancelled | asyncio.CancelledError)
    if is_stop and stopped is not None:
        return Outcome("cancelled", message=f"cancelled ({stopped})")
    trace = error.__traceback__
    with contextlib.suppress(Exception):  # the tool may have closed its standard error
        # Without the frame that is ours.
        traceback.print_exception(type(error), error, trace.tb_next if trace is not None else None)
    name = type(error).__name__
    if is_stop:
        return Outcome("error", message=f"the tool raised {name}, though nobody stopped it")
    try:
        if isinstance(error, SystemExit):
            return Outcome("error", message=f"the tool called sys.exit({error.code!r})")
        text = str(error)
    except Exception as worse:
        text = f"(its text cannot be had: {type(worse).__name__})"
    return Outcome("error", message=f"{name}: {text}" if text else name)


def _encodable(text: str) -> str:
    """The same, with an escape for each half of a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _working_folder() -> str | None:
    with contextlib.suppress(OSError):
        return os.getcwd()
    return None


def _memory_kb() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)
    except OSError:
        return 0


# --- def ------------------------------------------------------------------------------------


def serve_sync(runner: Runner) -> None:
    """One call after the other, in this thread, until the host closes the link."""
    poll = select.poll()
    poll.register(runner.link.socket, select.POLLIN)
    poll.register(runner.watch.fd, select.POLLIN)
    while True:
        runner.listen()
        while runner.orders:
            _run(runner, runner.orders.pop(0))
        if runner.link.is_closed:
            return
        poll.poll(1000)


def _run(runner: Runner, order: pipe.Run) -> None:
    call = runner.prepare(order)
    if isinstance(call, pipe.Done):
        runner.link.send(call)
        return
    runner.link.send(pipe.Begun(session_id=order.session_id, call_id=order.call_id))
    call.began_at = time.perf_counter()
    # For libraries that look there. Of a call's own process the kernel shows only what it began
    # with; the next tool that runs in it finds nothing.
    usual = {name: os.environ.get(name) for name in order.secrets}
    os.environ.update(order.secrets)
    try:
        outcome = runner.ended_with(order.tool, call.tool.target(**call.arguments))
    except BaseException as error:  # also sys.exit() and Cancelled: this process goes on
        key = (order.session_id, order.call_id)
        outcome = failed_with(error, call.context.reason or runner.cancelled.get(key))
    # Neither a timer of this call nor what it made of a signal may end the next one.
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    runner.go_home()
    for name, value in usual.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    runner.done(call, outcome)


# --- async def ------------------------------------------------------------------------------


async def serve_async(runner: Runner) -> None:
    """All calls on one loop, until the host closes the link."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    tasks: dict[Key, tuple[Prepared, asyncio.Task[None]]] = {}

    def heard() -> None:
        runner.listen()
        while runner.orders:
            _begin(runner, runner.orders.pop(0), tasks)
        for key, (call, task) in list(tasks.items()):
            reason = runner.cancelled.get(key)
            # The tool or a thread of it may have seen it before: its task has to end all the same.
            if reason is not None and not call.is_told:
                call.is_told = True
                call.saw_cancel()
                call.context.cancel(reason)
                task.cancel(reason)
        if runner.link.is_closed:
            closed.set()

    loudly = _loudly(heard)
    runner.on_news = lambda: loop.call_soon_threadsafe(loudly)
    loop.add_reader(runner.link.socket, loudly)
    loop.add_reader(runner.watch.fd, loudly)
    loop.call_soon(loudly)
    await closed.wait()


def _keep_on(serving: Coroutine[Any, Any, None]) -> None:
    """As asyncio.run; but a sys.exit() in a task or callback that a call has left behind, which
    breaks out of the loop, ends none of the other calls."""
    with asyncio.Runner() as own:
        loop = own.get_loop()
        task = loop.create_task(serving)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt):
                traceback.print_exc()


def _loudly(callback: Callable[[], None]) -> Callable[[], None]:
    """A fault in the runner itself ends the process; the host then knows what its calls are."""

    def guarded() -> None:
        try:
            callback()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    return guarded


def _begin(
    runner: Runner, order: pipe.Run, tasks: dict[Key, tuple[Prepared, asyncio.Task[None]]]
) -> None:
    call = runner.prepare(order)
    if isinstance(call, pipe.Done):
        runner.link.send(call)
        return
    key = (order.session_id, order.call_id)

    def over(ended: asyncio.Task[None]) -> None:
        tasks.pop(key, None)
        if ended.cancelled():
            # Before its first step: the coroutine, which tells how a call ends, has not run.
            words = f"cancelled before it began ({runner.cancelled.get(key)})"
            runner.link.send(_refused(order, "cancelled", words))

    task = asyncio.get_running_loop().create_task(_run_async(runner, call))
    tasks[key] = (call, task)
    task.add_done_callback(over)


async def _run_async(runner: Runner, call: Prepared) -> None:
    order = call.order
    runner.link.send(pipe.Begun(session_id=order.session_id, call_id=order.call_id))
    call.began_at = time.perf_counter()
    try:
        outcome = runner.ended_with(order.tool, await call.tool.target(**call.arguments))
    except BaseException as error:
        outcome = failed_with(error, call.context.reason)
    runner.done(call, outcome)
