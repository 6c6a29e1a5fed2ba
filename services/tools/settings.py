"""The tool pool's own settings: `tools.toml`, which modules and with which limits."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from voicebus.config import loader
from voicebus.config.settings import Settings
from voicebus.services.tools import confine
from voicebus.services.tools.bounds import LONGEST_S

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMED = ("secrets", "mcp")
"""Sections whose entries have names of the user's."""


Positive = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_S)]


class ToolModules(Settings, frozen=True, kw_only=True):
    """Section `tools`."""

    modules: list[str] = []
    """MODULE, FILE.py or either:NAME. Files are found from the folder of the settings file."""
    path: list[str] = []
    """Folders in which modules are looked for, before the working folder of the tool host."""
    environment: list[str] = []
    """Variables that all tools get besides the usual ones (PATH, HOME, LANG, proxies, …)."""


class SecretFile(Settings, frozen=True, kw_only=True):
    """An entry of section `secrets`: what some tools may know, and no other process."""

    file: str
    """Holds it, and nothing else; mode 0600. From the folder of the settings file."""
    tools: list[str]
    """Who gets it, in `ctx.secret(NAME)` and, while it runs, in `os.environ[NAME]`."""


class ToolLimits(Settings, frozen=True, kw_only=True):
    """Section `limits`: for tools that do not say otherwise, and for runners."""

    timeout_s: Seconds = 20.0
    grace_s: Seconds = 0.3
    files: Natural = 1024
    """Open descriptors of a runner."""
    processes: Natural = 512
    """Processes and threads that all tools together may start; 0 for no limit. Not for root."""
    result_kb: Positive = 256
    """The longest result."""
    stderr_kb: Positive = 4
    """How much of what a tool wrote last is kept for its failure."""
    async_calls: Positive = 16
    """How many calls of `async def` tools run at the same time."""
    recycle_calls: Positive = 1000
    """A runner is replaced after so many calls,"""
    recycle_mb: Positive = 200
    """or when it has grown by so much."""


class McpServer(Settings, frozen=True, kw_only=True):
    """An entry of section `mcp`: a server whose tools stand beside the others."""

    command: str | None = None
    """Starts it; it speaks on standard input and output. Or:"""
    url: str | None = None
    """Where it is reached by streamable HTTP."""
    prefix: str = ""
    """Put before the names of its tools."""
    tools: list[str] = []
    """Only these of its tools; all by default."""
    environment: list[str] = []
    """Variables that it gets besides the usual ones."""
    timeout_s: Seconds = 20.0
    concurrency: Positive = 8
    """Calls that it gets at the same time."""


class ToolSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    tools: ToolModules = ToolModules()
    limits: ToolLimits = ToolLimits()
    secrets: dict[str, SecretFile] = {}
    mcp: dict[str, McpServer] = {}


def default_file() -> Path:
    """The file that comes with the package."""
    return Path(loader.__file__).parent / "tools.toml"


def load(path: Path | None) -> ToolSettings:
    """The settings of a `tools.toml`. Raises loader.BadSettings."""
    where = path or default_file()
    try:
        table = tomllib.loads(where.read_text("utf-8"))
    except OSError as error:
        raise loader.BadSettings(
            f"cannot read the tool settings {where}: {error.strerror}; "
            "name another file with --tools-file or VOICEBUS_TOOLHOST_TOOLS_FILE"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise loader.BadSettings(f"{where} is not TOML: {error}") from None
    _check_names(table, where)
    try:
        settings = msgspec.convert(table, ToolSettings)
    except msgspec.ValidationError as error:
        raise loader.BadSettings(f"{where}: {error}") from None
    environments = {"tools": settings.tools.environment}
    for label, server in settings.mcp.items():
        environments[f"mcp.{label}"] = server.environment
        if (server.command is None) == (server.url is None):
            raise loader.BadSettings(
                f"{where}: [mcp.{label}] needs a command or a url, one of them"
            )
        if (why := _unusable(server)) is not None:
            raise loader.BadSettings(f"{where}: [mcp.{label}] {why}")
    for section, names in environments.items():
        for name in filter(confine.is_secret, names):
            raise loader.BadSettings(
                f"{where}: [{section}] environment names {name}, which tools never get; "
                "give the tool a key of its own under another name"
            )
    folder = where.parent.resolve()
    secrets = {name: _secret(name, one, folder, where) for name, one in settings.secrets.items()}
    modules = [_from(folder, one) for one in settings.tools.modules]
    paths = [str(folder / one) for one in settings.tools.path]
    return msgspec.structs.replace(
        settings,
        tools=msgspec.structs.replace(settings.tools, modules=modules, path=paths),
        secrets=secrets,
    )


def _unusable(server: McpServer) -> str | None:
    """Why this server could not be begun with, whatever is installed; None if it could."""
    if server.command is not None:
        try:
            return None if shlex.split(server.command) else "command is empty; name a program"
        except ValueError as error:
            return f"command {server.command!r} cannot be split into words: {error}"
    if not (server.url or "").startswith(("http://", "https://")):
        return f"url {server.url!r} must begin with http:// or https://"
    return None


def _secret(name: str, secret: SecretFile, folder: Path, where: Path) -> SecretFile:
    if not _VARIABLE.fullmatch(name) or confine.is_secret(name):
        raise loader.BadSettings(
            f"{where}: [secrets] {name}: expected a name such as WEATHER_KEY, "
            "not VOICEBUS_… and not the provider's key"
        )
    return msgspec.structs.replace(secret, file=str(folder / Path(secret.file).expanduser()))


def read_secrets(settings: ToolSettings) -> dict[str, dict[str, str]]:
    """Tool -> its secrets by name. Raises loader.BadSettings for a file that others can read."""
    found: dict[str, dict[str, str]] = {}
    for name, secret in settings.secrets.items():
        path = Path(secret.file)
        try:
            mode = path.stat().st_mode
            value = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise loader.BadSettings(f"[secrets] {name}: cannot read {path}: {why}") from None
        if mode & 0o077:
            raise loader.BadSettings(
                f"[secrets] {name}: others can read {path}; say: chmod 600 {path}"
            )
        if not value:
            raise loader.BadSettings(f"[secrets] {name}: {path} is empty")
        for tool in secret.tools:
            found.setdefault(tool, {})[name] = value
    return found


def _from(folder: Path, spec: str) -> str:
    place, colon, name = spec.rpartition(":")
    if not colon:
        place, name = spec, ""
    if place.endswith(".py") or "/" in place:
        place = str(folder / Path(place).expanduser())
    return f"{place}{colon}{name}"


def _check_names(table: dict[str, Any], where: Path) -> None:
    sections: dict[str, type[Settings]] = {
        "tools": ToolModules,
        "limits": ToolLimits,
        "secrets": SecretFile,
        "mcp": McpServer,
    }
    for section, content in table.items():
        if section in _NAMED and isinstance(content, dict):
            for name, entry in content.items():
                _check_keys(f"{section}.{name}", entry, sections[section], where)
            continue
        if section not in sections or not isinstance(content, dict):
            raise loader.BadSettings(
                f"{where}: unknown section [{section}]{loader.nearest(section, sections)}"
            )
        _check_keys(section, content, sections[section], where)


def _check_keys(section: str, content: Any, kind: type[Settings], where: Path) -> None:
    known = loader.fields_of(kind)
    for key in content if isinstance(content, dict) else ():
        if key not in known:
            raise loader.BadSettings(
                f"{where}: [{section}] has no {key}{loader.nearest(key, known)}"
            )
