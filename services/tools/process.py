"""The host's side of its child processes: the fork server, and each runner's pipes."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from voicebus.services.tools import confine, pipe, runner

OUTPUT_READ_BYTES = 65536
DUMP_LIMIT_BYTES = 32 * 1024
REFUSAL_WAIT_S = 60.0
GONE_LOOK_S = 0.01


class CannotLoad(RuntimeError):
    """The tools could not be imported. The text is for a person."""


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"was killed by {self.signal_name}"
        return f"exited with code {self.code}"

    @property
    def signal_name(self) -> str | None:
        """Such as SIGSEGV."""
        if self.signal is None:
            return None
        with contextlib.suppress(ValueError):
            return signal.Signals(self.signal).name
        return f"signal {self.signal}"


class Tail:
    """The last bytes of a stream, whatever comes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Keep the end of it."""
        self._chunks.append(data)
        self._size += len(data)
        while self._size - len(self._chunks[0]) >= self.limit:
            self._size -= len(self._chunks.popleft())

    def clear(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self._size = 0

    def text(self) -> str | None:
        """The last lines; the first one only if it is whole."""
        data = b"".join(self._chunks)
        cut = len(data) > self.limit
        data = data[-self.limit :]
        if cut and b"\n" in data:
            data = data[data.index(b"\n") + 1 :]
        return data.decode("utf-8", "replace").strip() or None


@dataclass(eq=False)
class RunnerProcess:
    """A forked runner: its link, what it prints, how it ended."""

    number: int
    is_async: bool
    link: socket.socket
    output_fd: int
    dump_fd: int
    tail: Tail
    on_message: Callable[["RunnerProcess", pipe.Up], None]
    loop: asyncio.AbstractEventLoop
    pid: int | None = None
    ended: Exit | None = None
    dump: Tail = field(default_factory=lambda: Tail(DUMP_LIMIT_BYTES))
    is_closed: bool = False
    is_garbled: bool = False
    """What it said could not be read, and it was killed for that."""

    def __post_init__(self) -> None:
        self._splitter = pipe.Splitter()
        self._unsent = bytearray()
        self.link.setblocking(False)
        for fd in (self.output_fd, self.dump_fd):
            os.set_blocking(fd, False)
        self.loop.add_reader(self.link, self._heard)
        self.loop.add_reader(self.output_fd, self.drain, self.output_fd, self.tail)
        self.loop.add_reader(self.dump_fd, self.drain, self.dump_fd, self.dump)

    def send(self, message: pipe.Down) -> None:
        """Never blocks; a runner in the middle of a tool reads when it looks."""
        self._unsent += pipe.pack(message)
        self._flush()

    def _flush(self) -> None:
        if self.is_closed:
            return
        try:
            while self._unsent:
                sent = self.link.send(self._unsent)
                del self._unsent[:sent]
        except (BlockingIOError, InterruptedError):
            self.loop.add_writer(self.link, self._flush)
            return
        except OSError:
            self._unsent.clear()  # it is dying; its exit will be reported
        self.loop.remove_writer(self.link)

    def _heard(self) -> None:
        try:
            data = self.link.recv(OUTPUT_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.loop.remove_reader(self.link)
            return
        try:
            for body in self._splitter.feed(data):
                self.on_message(self, pipe.UP.decode(body))
        except pipe.UNREADABLE as error:
            # Its tool has written over the link or its memory: nothing it says counts.
            self.is_garbled = True
            self.tail.add(f"the runner's link carries nonsense: {error}\n".encode())
            self.loop.remove_reader(self.link)
            self.signal(signal.SIGKILL)

    def drain(self, fd: int, tail: Tail, most: int = 4) -> None:
        """Take what it printed; a flood costs no more than this per turn of the loop."""
        for _ in range(most):
            try:
                data = os.read(fd, OUTPUT_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self.loop.remove_reader(fd)
                return
            tail.add(data)

    def catch_up(self) -> None:
        """Take in what it said and printed before it ended."""
        with contextlib.suppress(OSError, *pipe.UNREADABLE):
            while data := self.link.recv(OUTPUT_READ_BYTES):
                for body in self._splitter.feed(data):
                    self.on_message(self, pipe.UP.decode(body))
        self.drain(self.output_fd, self.tail, 64)
        self.drain(self.dump_fd, self.dump, 64)

    def signal(self, number: signal.Signals, *, group: bool = True) -> None:
        """To the runner, or to it and all that it started. Its id is ours until it is reaped."""
        if self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def close(self) -> None:
        """Close the host's ends."""
        if self.is_closed:
            return
        self.is_closed = True
        self.loop.remove_reader(self.link)
        self.loop.remove_writer(self.link)
        self.link.close()
        for fd in (self.output_fd, self.dump_fd):
            self.loop.remove_reader(fd)
            os.close(fd)


def _pipe(opened: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        opened.callback(os.close, end)
    return ends


class ForkServer:
    """The process that imports the tools and forks runners."""

    def __init__(
        self,
        *,
        on_exit: Callable[[RunnerProcess], None],
        on_message: Callable[[RunnerProcess, pipe.Up], None],
        on_lost: Callable[[], None],
        tail_bytes: int,
    ) -> None:
        """`on_lost`: the server itself ended, and all runners with it."""
        self._on_exit = on_exit
        self._on_message = on_message
        self._on_lost = on_lost
        self._tail_bytes = tail_bytes
        self._runners: dict[int, RunnerProcess] = {}
        self._next = 0
        self._dying: list[int] = []
        self._splitter = pipe.Splitter()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[pipe.Loaded] = self._loop.create_future()
        self._output_fd = -1
        self._tail = Tail(tail_bytes)

    async def start(
        self,
        specs: Sequence[str],
        search_path: Sequence[str],
        limits: runner.Limits,
        environment: dict[str, str],
    ) -> pipe.Loaded:
        """Import the tools. Raises CannotLoad with the reason for a person, or OSError."""
        command = [sys.executable, "-P", "-m", "voicebus.services.tools.forkserver"]
        command += ["--limits", msgspec.json.encode(limits).decode()]
        for folder in search_path:
            command += ["--path", folder]
        try:
            self._launch(command, specs, environment)
            return await asyncio.wait_for(self._loaded, REFUSAL_WAIT_S)
        except TimeoutError:
            self.close()
            raise CannotLoad(
                f"the tool modules were not imported within {REFUSAL_WAIT_S:g} s "
                f"({', '.join(specs)}); they must not wait for anything when imported"
            ) from None
        except (CannotLoad, OSError):
            self.close()
            raise

    def _launch(
        self, command: list[str], specs: Sequence[str], environment: dict[str, str]
    ) -> None:
        with contextlib.ExitStack() as for_it:
            self._control, theirs = socket.socketpair()
            for_it.callback(theirs.close)
            self._output_fd, their_output = os.pipe()
            for_it.callback(os.close, their_output)
            # Popen returns at once; its pipes are read by the loop.
            self._process = subprocess.Popen(
                [*command, "--control", str(theirs.fileno()), "--", *specs],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=their_output,
                stderr=their_output,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._control.setblocking(False)
        os.set_blocking(self._output_fd, False)
        self._loop.add_reader(self._control, self._heard)
        self._loop.add_reader(self._output_fd, self._drain)

    @property
    def pid(self) -> int | None:
        """Its process id, while it can fork."""
        return self._process.pid if self._process is not None and self.is_alive else None

    @property
    def is_alive(self) -> bool:
        """Whether it can fork."""
        return self._control is not None

    def spawn(self, *, is_async: bool) -> RunnerProcess:
        """Ask for a runner; it says Ready when it can take a call. Raises OSError."""
        assert self._control is not None
        with contextlib.ExitStack() as opened:
            ours, theirs = map(opened.enter_context, socket.socketpair())
            output, their_output = _pipe(opened)
            dump, their_dump = _pipe(opened)
            opened.pop_all()
        self._next += 1
        runner_process = RunnerProcess(
            number=self._next,
            is_async=is_async,
            link=ours,
            output_fd=output,
            dump_fd=dump,
            tail=Tail(self._tail_bytes),
            on_message=self._on_message,
            loop=self._loop,
        )
        self._runners[runner_process.number] = runner_process
        order = pipe.Spawn(number=runner_process.number, is_async=is_async)
        try:
            # A few dozen bytes into an empty pipe to a process that does nothing but read it.
            socket.send_fds(
                self._control, [pipe.pack(order)], [theirs.fileno(), their_output, their_dump]
            )
        except OSError:
            self._loop.call_soon(self._lost)
        finally:
            theirs.close()
            os.close(their_output)
            os.close(their_dump)
        return runner_process

    def forget(self, process: RunnerProcess) -> None:
        """End what is left of its group, and let its id go."""
        process.signal(signal.SIGKILL)
        process.close()
        if self._runners.pop(process.number, None) is not None and self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(pipe.pack(pipe.Reap(number=process.number)))

    def _drain(self) -> None:
        try:
            data = os.read(self._output_fd, OUTPUT_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        if data:
            self._tail.add(data)
        else:
            self._loop.remove_reader(self._output_fd)

    def _heard(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(OUTPUT_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        for body in self._splitter.feed(data):
            self._news(pipe.NEWS.decode(body))

    def _news(self, news: pipe.News) -> None:
        match news:
            case pipe.Loaded():
                if not self._loaded.done():
                    self._loaded.set_result(news)
            case pipe.Refused():
                if not self._loaded.done():
                    self._loaded.set_exception(CannotLoad(news.why))
            case pipe.Spawned():
                process = self._runners.get(news.number)
                if process is not None:
                    process.pid = news.pid
            case pipe.Exited():
                process = self._runners.get(news.number)
                if process is not None:
                    process.pid = news.pid
                    self._ended(process, Exit(news.exit_code, news.signal))
            case _:
                pass

    def _ended(self, process: RunnerProcess, how: Exit) -> None:
        process.catch_up()
        process.ended = how
        self._on_exit(process)
        self.forget(process)

    def _lost(self) -> None:
        """The server is gone, and the kernel has killed its children."""
        if self._control is None:
            return
        self._loop.remove_reader(self._control)
        self._control.close()
        self._control = None
        if not self._loaded.done():
            self._drain()
            how = self._process.wait() if self._process is not None else None
            said = self._tail.text()
            words = f"importing the tool modules ended the process (exit status {how})"
            self._loaded.set_exception(CannotLoad(f"{words}: {said}" if said else words))
            return
        for process in list(self._runners.values()):
            # The runner went with its parent. What it had started may still be in its group, and
            # as long as it is, no other process can get the group's number.
            process.signal(signal.SIGKILL)
            process.pid = None
            self._ended(process, Exit(None, signal.SIGKILL))
        self._on_lost()

    def close(self) -> None:
        """End the server and all runners, with their groups. `gone` waits for the runners."""
        if self._process is not None and self._process.poll() is None:
            strays = confine.descendants(self._process.pid)
            self._process.kill()
            for pid in strays:
                confine.hurry(pid)
            confine.kill(strays)
            self._dying += strays
        for process in list(self._runners.values()):
            process.signal(signal.SIGKILL)
            process.close()
        self._runners.clear()
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None
        if self._output_fd >= 0:
            self._loop.remove_reader(self._output_fd)
            os.close(self._output_fd)
            self._output_fd = -1
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def gone(self, within_s: float) -> bool:
        """Whether all that `close` killed has ended in time. They are nobody's children any more:
        no one is told of their end."""
        until = self._loop.time() + within_s
        while self._dying and self._loop.time() < until:
            self._dying = confine.living(self._dying)
            await asyncio.sleep(GONE_LOOK_S if self._dying else 0)
        return not self._dying
