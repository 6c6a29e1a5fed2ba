"""Reads settings: the file, then the environment, then flags. Unknown names are errors."""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from voicebus.config.settings import SECTIONS, CellSettings, Settings

S = TypeVar("S", bound=Settings)

PREFIX = "VOICEBUS_"
RESERVED = frozenset(
    {
        "VOICEBUS_CONFIG",
        "VOICEBUS_PYTHON",
        "VOICEBUS_SIMULATOR",
        "VOICEBUS_RELAY",
        "VOICEBUS_GATEWAY",
        "VOICEBUS_RECORDER",
    }
)
"""Variables that are not fields of a section: the settings file, and those that only
supervisord.conf reads."""


class BadSettings(ValueError):
    """A setting that does not exist or does not fit. The text says where and what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean …?)`, or what there is, for the end of an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(names)})"


def section_of(settings: type[Settings]) -> str:
    """The section that a settings class stands for."""
    return next(name for name, known in SECTIONS.items() if known is settings)


def fields_of(settings: type[Settings]) -> tuple[str, ...]:
    """The names of its fields."""
    return tuple(field.name for field in msgspec.structs.fields(settings))


def variable(section: str, field: str) -> str:
    """The environment variable of a field: `VOICEBUS_RUN`, `VOICEBUS_SESSION_MAX_SESSIONS`."""
    middle = "" if section == "cell" else f"{section}_"
    return f"{PREFIX}{middle}{field}".upper()


def default_file() -> Path:
    """The file that comes with the package."""
    return Path(__file__).parent / "voicebus.toml"


def load(
    settings: type[S], environment: Mapping[str, str], flags: Mapping[str, str | None]
) -> tuple[CellSettings, S]:
    """The cell's settings and one role's. Raises BadSettings."""
    chosen = environment.get("VOICEBUS_CONFIG")
    path = Path(chosen) if chosen else default_file()
    table = _read(path, bool(chosen))
    _check_environment(environment)
    cell = _section(CellSettings, table, environment, flags, path)
    return cell, _section(settings, table, environment, flags, path)


def _read(path: Path, chosen: bool) -> dict[str, Any]:
    where = f"{path} (from VOICEBUS_CONFIG)" if chosen else str(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadSettings(f"cannot read the settings file {where}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{where} is not TOML: {error}") from None
    for section, content in table.items():
        if section not in SECTIONS:
            raise BadSettings(f"{where}: unknown section [{section}]{nearest(section, SECTIONS)}")
        if not isinstance(content, dict):
            raise BadSettings(f"{where}: {section} must be a section, [{section}]")
        known = fields_of(SECTIONS[section])
        for key in content:
            if key not in known:
                raise BadSettings(f"{where}: [{section}] has no {key}{nearest(key, known)}")
    return table


def _check_environment(environment: Mapping[str, str]) -> None:
    known = {
        variable(section, field)
        for section, settings in SECTIONS.items()
        for field in fields_of(settings)
    } | RESERVED
    for name in environment:
        if name.startswith(PREFIX) and name not in known:
            raise BadSettings(f"unknown environment variable {name}{nearest(name, known)}")


def _section(
    settings: type[S],
    table: Mapping[str, Any],
    environment: Mapping[str, str],
    flags: Mapping[str, str | None],
    path: Path,
) -> S:
    section = section_of(settings)
    values: dict[str, Any] = dict(table.get(section, {}))
    origin = dict.fromkeys(values, f"{path} [{section}]")
    for field in fields_of(settings):
        name = variable(section, field)
        if environment.get(name):  # set but empty counts as unset, as shells have it
            values[field], origin[field] = environment[name], name
        flag = flags.get(field)
        if flag is not None:
            values[field], origin[field] = flag, f"--{field.replace('_', '-')}"
    for field, value in values.items():
        try:
            msgspec.convert({field: value}, settings, strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).split(" - at ")[0]
            raise BadSettings(f"{origin[field]}={value!r}: {reason}") from None
    return msgspec.convert(values, settings, strict=False)


def current_environment() -> Mapping[str, str]:
    """This process's environment: the one place where settings look at it."""
    return os.environ
