"""What all benchmarks stand on: the provider, a cell, client programs, the cost of processes."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from voicebus.benchmarks.shared import stamps
from voicebus.cli.plan import Wish
from voicebus.cli.testing import Stack, running

HERE = Path(__file__).resolve().parent
TOOLS = HERE / "load_tools.py"
SHARED = HERE / "shared"
PYTHON = (sys.executable, "-P")
ANSWER_S = 60.0
CONFIGURED_S = 20.0
TICK = os.sysconf("SC_CLK_TCK")


class Broken(RuntimeError):
    """A benchmark could not be run. The text says which part, and what it said."""


@dataclass(frozen=True)
class Scale:
    """How long to measure."""

    seconds: float = 4.0
    """Of each measurement."""
    repeats: int = 2
    rounds: int = 20
    """Of interrupts and the like."""
    sessions: tuple[int, ...] = (1, 20, 100)
    most: int = 1000
    """Where the search for the most sessions that this machine holds ends."""
    stalls: int = 2
    """Calls of a tool that are taken together: with one, p99 would be the second-oldest frame."""
    calls: int = 10_000
    """Of the run under random kills."""
    minutes: int = 60
    """Of the long conversation."""
    kills: tuple[str, ...] = tuple(
        f"{role}-0" for role in ("session", "transport", "dispatcher", "toolhost", "health")
    )
    """The processes that are killed, one at a time."""


QUICK = Scale(
    seconds=1.0,
    repeats=1,
    rounds=2,
    sessions=(1,),
    most=2,
    stalls=1,
    calls=30,
    minutes=2,
    kills=("session-0",),
)


class Child:
    """A process that is told and tells, line by line."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str] | None = None,
        *,
        apart: bool = False,
    ) -> None:
        """`apart` in a session of its own: Linux shares a full machine out by sessions first."""
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as we live
        self._command = command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=environment,
            start_new_session=apart,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._pumping = threading.Thread(target=self._pump, daemon=True)
        self._pumping.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def tell(self, line: str) -> None:
        """One line to its standard input. Raises Broken."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def line(self, within_s: float = ANSWER_S) -> str:
        """Its next line. Raises Broken."""
        try:
            line = self._lines.get(timeout=within_s)
        except queue.Empty:
            line = ""
        if not line:
            raise self._gone()
        return line

    def _gone(self) -> Broken:
        self._complaints.seek(0)
        said = self._complaints.read()[-2000:].strip() or "nothing"
        what = " ".join(self._command[-8:])
        return Broken(f"{what}: no answer; exit code {self.process.poll()}, it said:\n{said}")

    def end(self) -> None:
        """End its input; kill it when that is not enough."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._pumping.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._complaints.close()

    def _pump(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip() or " ")
        self._lines.put("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


class Provider(Child):
    """The loopback provider in its own process.

    It keeps its share of a machine that its clients overload: in life it is elsewhere.
    """

    def __init__(self) -> None:
        super().__init__([*PYTHON, "-m", "voicebus.benchmarks.provider"], apart=True)
        put_first(self.pid)
        self.port = int(json.loads(self.line())["port"])
        self.url = f"ws://127.0.0.1:{self.port}/v1/realtime"

    def do(self, what: str, **how: Any) -> dict[str, Any]:
        """Give an order. Raises Broken."""
        self.tell(json.dumps({"do": what, **how}))
        answer: dict[str, Any] = json.loads(self.line())
        if "error" in answer:
            raise Broken(f"provider: {answer['error']}")
        return answer

    def until(self, calls: int, who: str, *, every_s: float = 0.05) -> None:
        """Until it has so many calls that are configured. Raises Broken."""
        until = time.monotonic() + CONFIGURED_S
        while (count := self.do("count")["count"]) != calls:
            if time.monotonic() > until:
                raise Broken(f"{who}: {count} calls instead of {calls} after {CONFIGURED_S:g} s")
            time.sleep(every_s)

    def heard(self) -> "list[tuple[int, int, int]]":
        """What came of the callers' sound: made, got, number."""
        with tempfile.NamedTemporaryFile() as file:
            self.do("save", path=file.name)
            return stamps.load(file.name)

    def outputs(self, count: int, within_s: float = 60.0) -> list[tuple[str, int, str]]:
        """Wait for so many tool results: call id, nanoseconds it took, what it was."""
        found: list[tuple[str, int, str]] = []
        until = time.monotonic() + within_s
        while len(found) < count and time.monotonic() < until:
            found += [(a, b, c) for a, b, c in self.do("outputs")["outputs"]]
            time.sleep(0.02)
        return found


@dataclass
class Came:
    """What a client program left."""

    sound: list[tuple[int, int, int]]
    words: list[tuple[int, int, int]]
    about: dict[str, Any] = field(default_factory=dict)


class App(Child):
    """A client program."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        url: str = "",
        run_dir: str | Path = "",
        sessions: int = 1,
        talk: bool = False,
        style: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vb")
        self._out = str(Path(self._folder.name) / "came")
        options = ["--url", url, "--run-dir", str(run_dir), "--sessions", str(sessions)]
        options += ["--out", self._out, "--style", style, *(["--talk"] if talk else [])]
        super().__init__([*command, *options], environment)
        try:
            while self.line() != "ready":
                pass
        except BaseException:
            self.process.kill()  # it may be waiting for a provider that has gone
            self.end()
            raise

    def talk(self, phase_ms: int = 0) -> None:
        """Its callers begin to speak, if it was started with `talk`: the first of them in that
        millisecond of the 20 of a frame, the next in the next."""
        self.tell(f"talk {phase_ms}")

    def hush(self) -> None:
        """They fall silent."""
        self.tell("hush")

    def came(self) -> Came:
        """What it has measured since the last time. Raises Broken."""
        self.tell("save")
        return self._saved()

    def stop(self) -> Came:
        """End it; what it has measured since the last time. Raises Broken."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        came = self._saved()
        self.end()
        return came

    def end(self) -> None:
        """End it, and take what it left away."""
        super().end()
        self._folder.cleanup()

    def _saved(self) -> Came:
        said = self.line()
        while not said.startswith("{"):
            said = self.line()
        sound, words = stamps.load(f"{self._out}.sound"), stamps.load(f"{self._out}.words")
        return Came(sound, words, json.loads(said))


def bare(provider: Provider, **how: Any) -> App:
    """The bare client."""
    return App([*PYTHON, "-m", "voicebus.benchmarks.clients.bare"], url=provider.url, **how)


def ours(cell: Stack, **how: Any) -> App:
    """An application on Voicebus."""
    command = [*PYTHON, "-m", "voicebus.benchmarks.clients.ours"]
    return App(command, run_dir=cell.run_dir, **how)


@contextlib.contextmanager
def cell(provider: Provider, tools: Path | None = None, **settings: str) -> Iterator[Stack]:
    """A whole Voicebus that dials this provider and has the benchmarks' tools, or these."""
    wish = Wish(
        provider_url=provider.url,
        simulator=False,
        tools=(str(tools or TOOLS),),
        settings={f"VOICEBUS_{name.upper()}": value for name, value in settings.items()},
    )
    with running(wish) as stack:
        pid = stack.supervisor.pid()
        if pid is not None:
            put_first(pid)  # a session of its own, since supervisord is a daemon
        yield stack


FIRST = "VOICEBUS_BENCH_FIRST"
"""Set by `--first`: this run goes before the machine's other programs."""


def put_first(pid: int) -> None:
    """On a shared machine, if asked for: weigh the processes of that one's session before others'.
    Needs root and Linux."""
    if os.environ.get(FIRST):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text("-10")


class Cost:
    """Seconds of CPU that processes have used since. Who has gone is left out."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._began = time.monotonic()
        self._before = self._now()

    def cores(self) -> dict[str, float]:
        """Share of one core, by process."""
        took_s = time.monotonic() - self._began
        return {
            name: (used_s - self._before[name]) / took_s
            for name, used_s in self._now().items()
            if name in self._before
        }

    def _now(self) -> dict[str, float]:
        found = {}
        for name, pid in self._pids.items():
            with contextlib.suppress(OSError):
                found[name] = cpu_s(pid)
        return found


class Busy:
    """How much of the machine was at work since, whoever used it."""

    def __init__(self) -> None:
        self._before = _ticks()

    def share(self) -> float:
        """From 0 to 1, over all cores."""
        idle, every = (now - then for now, then in zip(_ticks(), self._before, strict=True))
        return 1.0 - idle / every if every else 0.0


def _ticks() -> tuple[int, int]:
    """Idle, and all, of all cores since the machine was started."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def pss_mb(pid: int) -> float:
    """Its proportional share of memory, in megabytes; 0 when it has gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
