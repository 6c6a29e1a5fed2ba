"""Talks to supervisord over its Unix socket: XML-RPC with a time limit on every answer."""

import http.client
import signal
import socket
import time
import xmlrpc.client
from pathlib import Path
from typing import Any, NamedTuple

SOCKET = "supervisor.sock"
ANSWER_S = 5.0
LOOK_S = 0.05

NOT_RUNNING = 70
ALREADY_STARTED = 60


class Silent(RuntimeError):
    """supervisord is there but does not answer in time."""


class Leaving(Silent):
    """supervisord is stopping all processes, and answers nothing more."""


class Program(NamedTuple):
    """A process as supervisord sees it."""

    name: str
    state: str
    """STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN."""
    pid: int
    """0 when there is none."""
    problem: str
    log_file: str
    running_s: int

    @property
    def log(self) -> Path:
        """Its log file."""
        return Path(self.log_file)

    @property
    def has_fallen(self) -> bool:
        """Ended too soon after its start, and waiting to be tried again or given up."""
        return self.state in {"BACKOFF", "FATAL"}


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path, self._timeout_s = path, timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _Connection(self._path, self._timeout_s)
        self._connection = host, connection  # what close() closes
        return connection


class Supervisor:
    """The supervisord of one run folder."""

    def __init__(self, run_dir: Path, *, answer_s: float = ANSWER_S) -> None:
        self._path = run_dir / SOCKET
        self._answer_s = answer_s
        self._groups: dict[str, str] = {}
        """Where supervisord keeps each program: several of a role are one group of its."""

    def pid(self) -> int | None:
        """Its process, None if none listens. Raises Silent."""
        try:
            return int(self._call("supervisor.getPID"))
        except (FileNotFoundError, ConnectionError):
            return None
        except xmlrpc.client.Fault as fault:
            raise Leaving(f"supervisord is shutting down ({fault.faultString})") from None

    def programs(self) -> dict[str, Program]:
        """All programs by name, in the order of their start. Raises Silent, OSError."""
        # supervisord answers in alphabetical order; its configuration knows the priorities.
        priority = {one["name"]: one["process_prio"] for one in self._configured()}
        found = sorted(self.now().values(), key=lambda one: (priority.get(one.name, 999), one.name))
        return {one.name: one for one in found}

    def poke(self) -> None:
        """Nothing but a reason to wake up: supervisord looks after its children when it does."""
        self._call("supervisor.getState")

    def now(self) -> dict[str, Program]:
        """All programs by name, in no order; cheaper. Raises Silent, OSError."""
        told: list[dict[str, Any]] = self._call("supervisor.getAllProcessInfo")
        self._groups = {one["name"]: one["group"] for one in told}
        found = [
            Program(
                name=one["name"],
                state=one["statename"],
                pid=one["pid"],
                problem=one["spawnerr"],
                # A listener's standard output is its protocol.
                log_file=one["stdout_logfile"] or one["stderr_logfile"],
                running_s=max(0, one["now"] - one["start"]) if one["pid"] else 0,
            )
            for one in told
        ]
        return {one.name: one for one in found}

    def wanted(self) -> set[str]:
        """The programs that are started with supervisord. Raises Silent, OSError."""
        return {one["name"] for one in self._configured() if one["autostart"]}

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start one program. Does nothing when it runs. Raises Silent, OSError, Fault."""
        try:
            self._call("supervisor.startProcess", self._full(name), wait)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != ALREADY_STARTED:
                raise

    def stop(self, name: str, *, within_s: float = 60.0) -> None:
        """Stop one program and wait for its end, also when it is stopping already. Does nothing
        when it does not run. Raises Silent, OSError, Fault."""
        until_s = time.monotonic() + within_s
        try:
            self._call("supervisor.stopProcess", self._full(name), True, within_s=within_s)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != NOT_RUNNING:
                raise
            # Until then a start would do nothing, and say that it has.
            while self.now()[name].state == "STOPPING":
                if time.monotonic() > until_s:
                    raise Silent(f"{name} has not stopped within {within_s:g} s") from None
                time.sleep(LOOK_S)

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one program that runs. Raises Silent, OSError, Fault."""
        word = number.name.removeprefix("SIG")
        self._call("supervisor.signalProcess", self._full(name), word)

    def shut_down(self) -> None:
        """Tell supervisord to stop everything and to end. Does not wait."""
        self._call("supervisor.shutdown")

    def _full(self, name: str) -> str:
        """`session:session-0`: supervisord wants the group, too."""
        if name not in self._groups:
            self.now()
        return f"{self._groups.get(name, name)}:{name}"

    def _configured(self) -> list[dict[str, Any]]:
        configured: list[dict[str, Any]] = self._call("supervisor.getAllConfigInfo")
        return configured

    def _call(self, method: str, *arguments: Any, within_s: float | None = None) -> Any:
        transport = _Transport(self._path, self._answer_s if within_s is None else within_s)
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
                return getattr(proxy, method)(*arguments)
        except TimeoutError:
            raise Silent(f"supervisord does not answer on {self._path}") from None
