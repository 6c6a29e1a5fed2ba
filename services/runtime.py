"""The one shape of every service's main: settings, logs, lock, signals, state beacon, exit codes.

    async def serve(runtime: Runtime[TransportSettings]) -> None:
        ...
        runtime.ready()
        await runtime.stopping.wait()

    def main() -> NoReturn:
        run(serve, TransportSettings, role="transport")

Exit codes: 0 stopped as asked · 1 failed · 2 bad settings · 3 another process holds the role.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TextIO, TypeVar, cast

import structlog
import uvloop

from voicebus.bus import ids, topics
from voicebus.bus.endpoints import BadRunFolder, Endpoints
from voicebus.bus.locks import AlreadyRunning, RoleLock
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.system import State
from voicebus.bus.sockets import Publisher, Sockets
from voicebus.config import loader
from voicebus.config.settings import CellSettings, Settings
from voicebus.services import descriptors
from voicebus.services.pace import Pace

S = TypeVar("S", bound=Settings)
Phase = Literal["starting", "ready", "draining", "failing", "stopped"]

BEACON_S = 1.0
DESCRIPTORS = 65_536
"""Wanted at least; a session takes a few, and so does each of its clients."""
COMPLAINT_S = 1.0
"""Between two warnings of one kind about what others send."""
LAG_LOOK_S = 0.25
"""How often it is looked at how late the loop is."""
LEAVING = "nothing new is taken; what is there goes on to its end"


class CannotStart(RuntimeError):
    """What a service needs is not there. The text says what, and what to do; no traceback."""


class Runtime(Generic[S]):
    """What a service is given: its settings, its sockets, and the way to say how it is."""

    def __init__(
        self, role: str, instance: int, cell: CellSettings, settings: S, endpoints: Endpoints
    ) -> None:
        self.role = role
        self.instance = instance
        self.cell = cell
        self.settings = settings
        self.endpoints = endpoints
        self.inc = ids.incarnation()
        self.stopping = asyncio.Event()
        self.is_leaving = False
        """Told by SIGUSR2: take nothing new, go on with what is there; a stop will follow."""
        self.counters: dict[str, int] = {}
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger(role).bind(instance=instance)
        self._failure: BaseException | None = None
        self._complaints = Pace(COMPLAINT_S)
        self.sockets = Sockets(failed=self.fail)
        self._has_settled = False
        self._phase: Phase = "starting"
        self._why: str | None = "it has just been started"
        self._since_us = _now_us()
        self._lag_s = 0.0
        self._shortage: str | None = None
        """Of file descriptors: who is ready but for that is told to be failing."""
        self._state: Publisher = self.sockets.publisher(
            endpoints.state(role, instance), self._subscribed
        )

    def ready(self) -> None:
        """Everything this role needs is there; `voicebus up` waits for this. One that is leaving
        stays so: it has what it needs, and takes nothing new."""
        if not self._has_settled:
            self._has_settled = True
            # What is there now stays. Looking through it again would stop sound for tens of ms.
            gc.collect()
            gc.freeze()
        if self.is_leaving:
            self._enter("draining", LEAVING)
        else:
            self._enter("ready", None)

    def waiting(self, why: str) -> None:
        """Not ready, and why: shown by `voicebus up` and `status`."""
        self._enter("starting", why)

    def draining(self, why: str) -> None:
        """Finishing what is there and taking nothing new."""
        self._enter("draining", why)

    def failing(self, why: str) -> None:
        """Still alive, but not able to do its work."""
        self._enter("failing", why)

    def count(self, what: str, by: int = 1) -> None:
        """A counter of the state beacon: what was dropped, refused, repeated."""
        self.counters[what] = self.counters.get(what, 0) + by

    def refused(self, counter: str, event: str, **what: Any) -> None:
        """Something that others sent and that was not taken: counted, and now and then logged.

        Not each time, or a flood of garbage would fill the disk and cost more than reading it.
        """
        self.count(counter)
        if self._complaints.is_due(event, time.monotonic()):
            self.log.warning(event, so_far=self.counters[counter], **what)

    def fail(self, error: BaseException) -> None:
        """A bug: end this process loudly rather than run on half alive."""
        self.log.error("service.failed", exc_info=error)
        self._failure = error
        self.stopping.set()

    def publish_system(self, what: str, body: bytes) -> None:
        """A message of one's own on `system/<role>/<instance>/<what>`."""
        self._state.publish(topics.system(self.role, self.instance, what), [body])

    def _enter(self, phase: Phase, why: str | None) -> None:
        if (phase, why) == (self._phase, self._why):
            return
        self._phase, self._why, self._since_us = phase, why, _now_us()
        self.log.info("service.state", state=phase, why=why)
        self._beacon()

    def _subscribed(self, topic: bytes) -> None:
        self._beacon()

    def _beacon(self) -> None:
        is_short = self._shortage is not None and self._phase == "ready"
        state = State(
            role=self.role,
            instance=self.instance,
            inc=self.inc,
            pid=os.getpid(),
            state="failing" if is_short else self._phase,
            why=self._shortage if is_short else self._why,
            since_us=self._since_us,
            at_us=_now_us(),
            lag_ms=round(self._lag_s * 1000, 1),
            counters=self.counters,
        )
        self._state.publish(topics.system(self.role, self.instance, "state"), [encode(state)])

    async def _tell(self) -> None:
        parent = os.getppid()
        supervised = "SUPERVISOR_ENABLED" in os.environ
        while True:
            self._count_descriptors()
            for path in self.sockets.bind_again():
                self.log.warning("socket.bound_again", path=str(path), why="its file was deleted")
            self._beacon()
            self._lag_s = 0.0
            if supervised and os.getppid() != parent:
                # A second supervisord would start a second set beside us.
                self.log.warning("supervisor.gone")
                self.stopping.set()
            await self._pause()

    def _count_descriptors(self) -> None:
        shortage = descriptors.shortage()
        if (shortage is None) != (self._shortage is None):
            self._since_us = _now_us()
            self.log.warning("descriptors.counted", short=shortage is not None, why=shortage)
        self._shortage = shortage

    async def _pause(self) -> None:
        """Until the next beacon, noting how late the loop is meanwhile."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BEACON_S
        while (now := loop.time()) < until:
            due = min(now + LAG_LOOK_S, until)
            await asyncio.sleep(due - now)
            self._lag_s = max(self._lag_s, loop.time() - due)

    async def _serve(self, serve: Callable[["Runtime[S]"], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGUSR2, self._leave)
        telling = asyncio.create_task(self._tell())
        try:
            await serve(self)
        finally:
            telling.cancel()
            self._enter("stopped", None)
            self.sockets.close()
        if self._failure is not None:
            raise self._failure

    def _leave(self) -> None:
        if not self.is_leaving:
            self.is_leaving = True
            self._enter("draining", LEAVING)

    def _stop(self, number: int) -> None:
        if self.stopping.is_set():
            self.log.warning("service.killed", signal=signal.Signals(number).name)
            os._exit(128 + number)
        self.log.info("service.stopping", signal=signal.Signals(number).name)
        self.stopping.set()


def run(
    serve: Callable[[Runtime[S]], Awaitable[None]], settings: type[S], *, role: str
) -> NoReturn:
    """Run a service until it is told to stop; never returns."""
    arguments = _arguments(settings, role)
    instance = int(arguments.pop("instance") or 0)
    # Where each thread is, into the log: asked for before a process that hangs is killed.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    _raise_descriptor_limit()
    try:
        cell, own = loader.load(settings, loader.current_environment(), arguments)
        endpoints = Endpoints(cell.run)
        prepare_folder(endpoints.run_dir)
        _logs(cell.log_level)
        with RoleLock(endpoints.lock(role, instance)):
            uvloop.run(_main(serve, role, instance, cell, own, endpoints))
    except (loader.BadSettings, BadRunFolder) as error:
        _exit(2, role, str(error))
    except AlreadyRunning as error:
        _exit(3, f"{role}-{instance}", str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        refusal = _refusal(error)
        if refusal is not None:
            _exit(1, f"{role}-{instance}", str(refusal))
        structlog.get_logger(role).error("service.died", exc_info=error)
        sys.exit(1)
    sys.exit(0)


def _raise_descriptor_limit() -> None:
    """As far as the system lets us: libzmq ends the process when it runs out of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _refusal(error: BaseException) -> CannotStart | None:
    """The CannotStart that a task group has wrapped, if it is all that happened."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, CannotStart) else None


async def _main(
    serve: Callable[[Runtime[S]], Awaitable[None]],
    role: str,
    instance: int,
    cell: CellSettings,
    settings: S,
    endpoints: Endpoints,
) -> None:
    runtime = Runtime(role, instance, cell, settings, endpoints)
    await runtime._serve(serve)


def prepare_folder(path: Path) -> None:
    """A folder that only its owner may enter. Raises BadRunFolder if it cannot be had."""
    os.umask(0o077)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except FileExistsError:
        raise BadRunFolder(f"{path} is a file; choose a folder with --run-dir") from None
    except OSError as error:
        raise BadRunFolder(f"cannot make the folder {path}: {error.strerror}") from None
    if status.st_uid != os.geteuid():
        raise BadRunFolder(
            f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()}); "
            "choose another folder with --run-dir"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        # Never shut others out of a folder that is not ours alone: /tmp, a home, a checkout.
        if any(path.iterdir()):
            raise BadRunFolder(
                f"others may enter {path} (mode {stat.S_IMODE(status.st_mode):04o}) and it is not "
                f"empty; choose an empty or a new folder with --run-dir, or: chmod 700 {path}"
            )
        path.chmod(0o700)


def _arguments(settings: type[Settings], role: str) -> dict[str, str | None]:
    parser = argparse.ArgumentParser(prog=f"python -P -m voicebus.services.{role}")
    # A string, as all of them: `int` would also take "-1" and "1_0".
    parser.add_argument(
        "--instance",
        default="0",
        choices=[str(n) for n in range(100)],
        metavar="N",
        help="which one of several (0, 1, …)",
    )
    for section in (CellSettings, settings):
        for field in loader.fields_of(section):
            parser.add_argument(f"--{field.replace('_', '-')}", dest=field)
    return vars(parser.parse_args())


def _logs(level: str) -> None:
    """JSON lines where nobody watches, coloured lines on a terminal."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise loader.BadSettings(f"log_level={level!r}: use debug, info, warning or error")
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if sys.stdout.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Never with local variables: they hold what people said, and keys.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            )
            if not sys.stdout.isatty()
            else structlog.dev.set_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _LogOutput())),
        cache_logger_on_first_use=True,
    )


class _LogOutput:
    """Standard output without a buffer, for log lines: what cannot be written is lost, and no more.

    When supervisord is killed the pipe is broken, and a log line must not stop the stopping; when
    it is frozen the pipe fills up, and no service may wait for it.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(1).st_mode):
                os.set_blocking(1, False)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(1, text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Nothing waits."""


def _exit(code: int, who: str, text: str) -> NoReturn:
    sys.stderr.write(f"{who}: {text}\n")
    sys.exit(code)


def _now_us() -> int:
    return time.time_ns() // 1000
