"""What `voicebus up` starts, and with which environment: decided before anything is touched."""

import contextlib
import os
import random
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from voicebus.bus.endpoints import Endpoints
from voicebus.cli import folders
from voicebus.cli.problems import Problem
from voicebus.config import loader
from voicebus.config.settings import (
    SECTIONS,
    CellSettings,
    GatewaySettings,
    RecorderSettings,
    RelaySettings,
    SimulatorSettings,
    ToolhostSettings,
    TransportSettings,
)
from voicebus.services.transport.media.address import BadAddress, address

KEY = "OPENAI_API_KEY"
PROVIDER_URL = "VOICEBUS_TRANSPORT_PROVIDER_URL"
KEY_FILE = "VOICEBUS_TRANSPORT_PROVIDER_KEY_FILE"
SIMULATOR_PORT = "VOICEBUS_SIMULATOR_PORT"
PORTS = range(20_000, 28_000)
"""Below the range from which systems give ports to outgoing connections."""
EXAMPLE_TOOLS = Path(__file__).parent / "example_tools" / "demo.py"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asked for. Unset means: by the settings, or by the rule below.

    The simulator is the provider when it is wished for, or when there is neither a provider's
    address nor a key.
    """

    run_dir: str | Path | None = None
    provider_url: str | None = None
    provider_key_file: str | Path | None = None
    model: str | None = None
    tools: Sequence[str] = ()
    simulator: bool | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further VOICEBUS_ variables, stronger than the environment's."""
    environment: Mapping[str, str] | None = None
    """Instead of this process's own."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be started."""

    endpoints: Endpoints
    environment: Mapping[str, str]
    """Of supervisord and so of every process. Holds no key."""
    key: str | None = field(repr=False)
    """Goes into the run folder's provider.key."""
    provider: str
    """The provider's address, for people."""
    simulator: bool
    listens_at: tuple[str, int] | None = None
    """Host and port of the simulator, if there is one."""
    page: str | None = None
    """Where browsers find the gateway, if there is one."""

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self.endpoints.run_dir

    @property
    def key_file(self) -> Path:
        """Where the key will lie, mode 0600."""
        return self.run_dir / "provider.key"


def make(wish: Wish) -> Plan:
    """Check what can be checked before a process starts. Raises Problem, BadSettings and
    BadRunFolder; touches nothing."""
    given = dict(loader.current_environment() if wish.environment is None else wish.environment)
    given.update(wish.settings)
    environment_key = (given.pop(KEY, None) or "").strip() or None
    for name, value in (
        (PROVIDER_URL, wish.provider_url),
        ("VOICEBUS_SESSION_MODEL", wish.model),
    ):
        if value is not None:
            given[name] = value

    endpoints = folders.endpoints(wish.run_dir, given)
    cell, transport = loader.load(TransportSettings, given, {})
    for section in SECTIONS.values():
        loader.load(section, given, {})
    _one_tool_host(cell)
    given["VOICEBUS_TRANSPORTS"], given["VOICEBUS_SHARDS"] = str(cell.transports), str(cell.shards)
    given["VOICEBUS_DATA"] = str(folders.data(wish.run_dir, given))
    given["VOICEBUS_RUN"] = str(endpoints.run_dir)
    given.setdefault("VOICEBUS_PYTHON", sys.executable)
    given["VOICEBUS_TOOLHOST_TOOLS"] = " ".join(_tools(wish.tools, given))

    if wish.simulator and wish.provider_url is None:
        environment_key = None  # nobody asks for it, so it need not be one
    key = _key(wish.provider_key_file, transport.provider_key_file, environment_key)
    is_chosen = transport.provider_url != TransportSettings().provider_url
    try:
        address(transport.provider_url, {})
    except BadAddress as error:
        raise Problem(f"--provider-url (or {PROVIDER_URL}): {error}") from None
    use_simulator = wish.simulator
    if use_simulator is None:
        use_simulator = not is_chosen and key is None
    listens_at = None
    if use_simulator:
        _, simulator = loader.load(SimulatorSettings, given, {})
        port = _port(simulator, is_chosen=SIMULATOR_PORT in given or simulator.port != 8765)
        given[SIMULATOR_PORT] = str(port)
        listens_at = (simulator.host, port)
        if wish.provider_url is None:
            given[PROVIDER_URL] = f"ws://{simulator.host}:{port}/v1/realtime"
            # A real key has no business with it, and it takes any.
            if wish.provider_key_file is None:
                key = simulator.key or "simulator"
    elif not is_chosen and key is None:
        raise Problem(
            "no provider: there is no key in OPENAI_API_KEY, no --provider-key-file and no "
            "--provider-url; give one of them, or leave --no-simulator out to use the offline "
            "simulator"
        )
    given["VOICEBUS_SIMULATOR"] = "true" if use_simulator else "false"
    _, relay = loader.load(RelaySettings, given, {})
    given["VOICEBUS_RELAY"] = "true" if relay.bind else "false"
    _, gateway = loader.load(GatewaySettings, given, {})
    given["VOICEBUS_GATEWAY"] = "true" if gateway.bind else "false"
    for name in ("key_file", "tls_cert", "tls_key", "session_file"):
        if path := getattr(gateway, name):
            given[loader.variable("gateway", name)] = str(Path(path).absolute())
    given["VOICEBUS_RELAY_KEYS"] = str(Path(relay.keys).absolute())
    _, recorder = loader.load(RecorderSettings, given, {})
    given["VOICEBUS_RECORDER"] = "true" if recorder.folder else "false"
    if recorder.folder:
        folder = Path(recorder.folder).expanduser().absolute()
        given["VOICEBUS_RECORDER_FOLDER"] = str(folder)
    given.pop(KEY_FILE, None)
    if key is not None:
        given[KEY_FILE] = str(endpoints.run_dir / "provider.key")
    return Plan(
        endpoints=endpoints,
        environment=given,
        key=key,
        provider=given.get(PROVIDER_URL, transport.provider_url),
        simulator=use_simulator,
        listens_at=listens_at,
        page=gateway.page,
    )


def _one_tool_host(cell: CellSettings) -> None:
    if cell.toolhosts != 1:
        raise Problem(
            f"the settings ask for {cell.toolhosts} tool hosts; supervisord.conf starts one: leave "
            "cell.toolhosts (VOICEBUS_TOOLHOSTS) at 1 and give it more runners (toolhost.runners)"
        )


def _tools(wished: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    _, toolhost = loader.load(ToolhostSettings, environment, {})
    specs = [*wished] or toolhost.tools.split()
    if not specs and toolhost.tools_file is None:
        example = EXAMPLE_TOOLS.resolve()
        return [str(example)] if example.is_file() else []
    return [_absolute(spec) for spec in specs]


def _absolute(spec: str) -> str:
    """A file's path no longer depends on the current folder; a module's name stays."""
    if not spec.strip() or any(letter.isspace() for letter in spec):
        raise Problem(
            f"--tools {spec!r}: no spaces are possible in a tool's module or path; "
            "move the file, or name its folder in PYTHONPATH and give the module's name"
        )
    place, colon, name = spec.rpartition(":")
    if not colon or not name.replace(".", "").isidentifier():
        place, colon, name = spec, "", ""
    if not (place.endswith(".py") or "/" in place):
        return spec
    path = Path(place).expanduser().absolute()
    if not path.is_file():
        raise Problem(f"--tools {spec}: there is no file {path}")
    return f"{path}{colon}{name}"


def _key(wished: str | Path | None, setting: str | None, environment_key: str | None) -> str | None:
    chosen = wished if wished is not None else setting
    if chosen is None:
        return None if environment_key is None else _checked(environment_key, KEY)
    path = Path(chosen).expanduser()
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Problem(f"cannot read the provider's key from {path}: {reason}") from None
    return _checked(text, str(path))


def _checked(key: str, where: str) -> str:
    """It travels in a header. Raises Problem, which shows nothing of it."""
    if len(key.split()) != 1:
        raise Problem(f"{where} should hold the provider's key and nothing else")
    for place, letter in enumerate(key, 1):
        if not (letter.isascii() and letter.isprintable()):
            raise Problem(
                f"{where} holds no provider's key: character {place} of {len(key)} is none that a "
                "key can have (only plain letters, digits and signs); copy the key again"
            )
    return key


def _port(simulator: SimulatorSettings, *, is_chosen: bool) -> int:
    if is_chosen:
        if simulator.port and not _is_free(simulator.host, simulator.port):
            raise Problem(
                f"port {simulator.port} on {simulator.host}, chosen for the simulator, is in use; "
                f"free it, choose another with {SIMULATOR_PORT}, or leave that unset"
            )
        return simulator.port
    for port in random.sample(PORTS, 50):
        with contextlib.suppress(OSError), _bound(simulator.host, port):
            return port
    raise Problem(f"no free port for the simulator on {simulator.host}; name one: {SIMULATOR_PORT}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def reserving(plan: Plan) -> Iterator[None]:
    """Until the simulator listens, which takes it seconds, nobody else is given its port."""
    with contextlib.ExitStack() as held:
        # Elsewhere than on Linux a port that is bound cannot be bound again in order to listen.
        if sys.platform == "linux" and plan.listens_at is not None:
            with contextlib.suppress(OSError):  # taken meanwhile: the simulator says it better
                one = held.enter_context(_bound(*plan.listens_at))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has this port alone. Raises OSError."""
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        one.bind((host, port))
    except OSError:
        one.close()
        raise
    return one


def write_key(plan: Plan) -> None:
    """Put the key where only its owner can read it, or see to it that there is none."""
    plan.key_file.unlink(missing_ok=True)
    if plan.key is None:
        return
    fd = os.open(plan.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="ascii", errors="strict") as file:
        file.write(plan.key + "\n")
