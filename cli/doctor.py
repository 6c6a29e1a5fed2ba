"""`voicebus doctor`: what is needed, what is missing, and how to get it."""

import dataclasses
import importlib.metadata
import json
import os
import re
import resource
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console

from voicebus.bus.endpoints import BadRunFolder
from voicebus.cli import folders, processes, stack
from voicebus.cli.options import AsJson, RunDir
from voicebus.cli.plan import KEY, KEY_FILE
from voicebus.config import extras, loader
from voicebus.config.loader import BadSettings
from voicebus.config.settings import SECTIONS, GatewaySettings

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+) *>= *(?P<least>[\d.]+)")
NEWEST_TRIED = (3, 13)
OPEN_FILES_NEEDED = 1024
OPEN_FILES_GOOD = 4096

Verdict = Literal["ok", "warning", "missing"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `missing` means that Voicebus does not work without it."""

    what: str
    verdict: Verdict
    found: str
    fix: str | None = None


def doctor(run_dir: RunDir = None, as_json: AsJson = False) -> None:
    """Check what is needed, and say how to get what is missing. Exit code 1 if something is."""
    findings = list(examine(run_dir, loader.current_environment()))
    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in findings], indent=2))
    else:
        _print(findings)
    if any(one.verdict == "missing" for one in findings):
        raise typer.Exit(1)


def examine(run_dir: Path | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    """All findings, in the order in which one would set things right."""
    yield _python()
    yield _packages()
    yield _configuration()
    yield _settings(environment)
    yield from _folder(run_dir, environment)
    yield _open_files()
    yield _cores()
    yield _speech_packages()
    yield _voice()
    yield from _gateway(environment)
    yield _key(environment)


def _python() -> Finding:
    found = f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}"
    if sys.version_info[:2] > NEWEST_TRIED:
        return Finding("Python", "warning", f"{found}: newer than what is tested", "use 3.13")
    return Finding("Python", "ok", found)


def _packages() -> Finding:
    lacking = _lacking(extra=None)
    if lacking:
        pip = f"{sys.executable} -m pip install"
        fix = f"{pip} --upgrade voicebus (in a checkout: {pip} -e .)"
        return Finding("packages", "missing", "lacking: " + ", ".join(lacking), fix)
    return Finding("packages", "ok", "all there")


def _lacking(extra: str | None) -> list[str]:
    """The packages that Voicebus asks for and that are not there, or too old."""
    lacking = []
    for line in importlib.metadata.requires("voicebus") or ():
        wanted = REQUIREMENT.match(line)
        if wanted is None or ("extra ==" in line) != (extra is not None):
            continue
        if extra is not None and not re.search(rf"""extra == ['"]{extra}['"]""", line):
            continue
        name, least = wanted["name"], wanted["least"]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(name)
            continue
        if _numbers(version) < _numbers(least):
            lacking.append(f"{name} (it is {version}, older than {least})")
    return lacking


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def _configuration() -> Finding:
    path = stack.supervisord_conf()
    if not path.is_file():
        fix = "reinstall Voicebus; in a checkout: ln -s ../supervisord.conf config/supervisord.conf"
        return Finding("supervisord.conf", "missing", f"{path} is not there", fix)
    return Finding("supervisord.conf", "ok", str(path))


def _settings(environment: Mapping[str, str]) -> Finding:
    try:
        for section in SECTIONS.values():
            loader.load(section, environment, {})
    except BadSettings as error:
        return Finding("settings", "missing", str(error), "correct that line or variable")
    return Finding("settings", "ok", environment.get("VOICEBUS_CONFIG") or "the defaults")


def _folder(run_dir: Path | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    another = "choose another folder with --run-dir or VOICEBUS_RUN"
    try:
        folder = folders.choose(run_dir, environment)
    except (BadRunFolder, BadSettings) as error:
        yield Finding("run folder", "missing", str(error), another)
        return
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding("run folder", "missing", f"{folder}: {there} cannot be written to", another)
        return
    refused = _refuses_sockets(there)
    if refused is not None:
        yield Finding(
            "run folder", "missing", f"no sockets possible in {there}: {refused}", another
        )
        return
    yield Finding("run folder", "ok", str(folder) + ("" if there == folder else ", to be made"))
    found = stack.status(folder)
    if found.is_running and found.supervisor is None:
        names = ", ".join(f"{one.name} ({one.pid})" for one in found.processes)
        yield Finding(
            "processes", "warning", f"unsupervised: {names}", f"voicebus down --run-dir {folder}"
        )
    elif found.is_running:
        bad = [f"{one.name} is {one.state}" for one in found.processes if one.state != "ready"]
        if not found.is_reachable:
            mend = f"voicebus down --run-dir {folder}"
            yield Finding("processes", "warning", found.note or "", mend)
        elif bad:
            yield Finding("processes", "warning", ", ".join(bad), f"see the logs in {folder}")
        else:
            yield Finding("processes", "ok", f"running, supervisord is process {found.supervisor}")
    elif processes.remains(folder):
        yield Finding("processes", "ok", "none; `voicebus up` sweeps what a killed run has left")
    else:
        yield Finding("processes", "ok", "none")


def _refuses_sockets(folder: Path) -> str | None:
    """Some network and shared folders take files but no sockets."""
    path = folder / f".doctor-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(str(path))
        except OSError as error:
            return error.strerror or str(error)
        finally:
            path.unlink(missing_ok=True)
    return None


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    found = f"{soft}, at most {most}"
    fix = f"ulimit -n {OPEN_FILES_GOOD}"
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES_NEEDED:
        return Finding("open files", "missing", found, f"raise the hard limit: {fix}")
    if soft < OPEN_FILES_NEEDED:
        return Finding("open files", "warning", f"{found}; enough for a few sessions", fix)
    return Finding("open files", "ok", found)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (count or 1) < 2:
        fix = "give it two, or keep tools short: they share the only one with the sound"
        return Finding("cores", "warning", str(count), fix)
    return Finding("cores", "ok", str(count))


def _speech_packages() -> Finding:
    lacking = _lacking(extra="speech")
    if lacking:
        return Finding(
            "speech",
            "warning",
            f"lacking: {', '.join(lacking)}; the simulator neither hears nor speaks",
            extras.how_to_get("speech"),
        )
    return Finding("speech", "ok", "the simulator hears")


def _voice() -> Finding:
    path = shutil.which("flite")
    if path is None:
        return Finding(
            "flite",
            "warning",
            "not found; the simulator does not speak",
            "Debian: apt-get install flite; macOS: brew install flite",
        )
    return Finding("flite", "ok", path)


def _gateway(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Only where it is wanted."""
    try:
        _, gateway = loader.load(GatewaySettings, environment, {})
    except BadSettings:
        return  # told already
    absent = extras.lacking(extras.WEB) if gateway.bind else []
    if absent:
        found = f"[gateway] bind is set; lacking: {', '.join(absent)}"
        yield Finding("gateway", "missing", found, extras.how_to_get("web"))
    elif gateway.bind:
        yield Finding("gateway", "ok", gateway.page or "")


def _key(environment: Mapping[str, str]) -> Finding:
    named = environment.get(KEY_FILE)
    if named:
        path = Path(named)
        if not os.access(path, os.R_OK):
            return Finding("key", "missing", f"{KEY_FILE}={path} cannot be read", "put it there")
        if path.stat().st_mode & 0o077:
            return Finding("key", "warning", f"others may read {path}", f"chmod 600 {path}")
        return Finding("key", "ok", f"in {path}")
    if environment.get(KEY):
        return Finding("key", "ok", f"in {KEY}; `voicebus up` dials the real provider")
    return Finding("key", "ok", f"none in {KEY}; `voicebus up` uses the offline simulator")


def _print(findings: list[Finding]) -> None:
    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    width = max(len(one.what) for one in findings)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for one in findings:
        console.print(f"{one.verdict:<8}", style=colours[one.verdict], end="")
        console.print(f"{one.what:<{width}}  {one.found}")
        if one.fix is not None:
            console.print(f"{'':<8}{'':<{width}}  → {one.fix}")
