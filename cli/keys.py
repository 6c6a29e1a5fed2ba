"""`voicebus keys`: the keys of the relay and of programs elsewhere, and what those may do."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from voicebus.bus import curve
from voicebus.bus.messages.commands import COMMANDS
from voicebus.cli.problems import Problem
from voicebus.config import clients, loader
from voicebus.config.settings import RelaySettings

ACTIONS = ("server", "add", "list", "remove")


def keys(
    action: Annotated[
        str,
        typer.Argument(
            metavar="ACTION",
            help="server: make the relay's keys. add NAME: a client's. list. remove NAME.",
        ),
    ],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="The keys folder. Default: [relay] keys."),
    ] = None,
    lanes: Annotated[
        str, typer.Option(help="add: what it may subscribe to, of event,audio,cancel,raw,system.")
    ] = "event,audio,cancel",
    sessions: Annotated[
        str, typer.Option(help="add: own (those it opens), * (all), or beginnings of ids.")
    ] = clients.OWN,
    commands: Annotated[str, typer.Option(help="add: the commands it may send; * for all.")] = "*",
    talk: Annotated[bool, typer.Option(help="add: whether it may send sound.")] = True,
) -> None:
    """Make keys for programs that come through the relay, by TCP with CURVE.

    The relay notices new, changed and removed clients within a second, without a restart.
    """
    if action not in ACTIONS:
        raise Problem(f"unknown action {action!r}{loader.nearest(action, ACTIONS)}", exit_code=2)
    _, settings = loader.load(RelaySettings, loader.current_environment(), {})
    where = (folder or Path(settings.keys)).absolute()
    if action == "server":
        _server(where)
    elif action == "list":
        _list(where)
    elif name is None or not clients.NAME.fullmatch(name):
        raise Problem(
            f"voicebus keys {action} needs a NAME: small letters, digits and - _ . "
            "(at most 41, beginning with a letter or digit)",
            exit_code=2,
        )
    elif action == "remove":
        _remove(where, name)
    else:
        rules = {"lanes": lanes, "sessions": sessions, "commands": commands}
        _add(where, name, {rule: _words(text) for rule, text in rules.items()}, talk)


def _server(where: Path) -> None:
    if (where / "server.key").exists():
        raise Problem(
            f"{where / 'server.key'} is there already; clients know its public key. To begin anew, "
            "remove it (all clients need the new server.pub then)"
        )
    public, secret = curve.new_keys()
    _write(where / "server.key", f"{secret}\n", 0o600)
    _write(where / "server.pub", f"{public}\n", 0o644)
    print(f"The relay's secret key is in {where / 'server.key'}; its public key: {public}")


def _add(where: Path, name: str, rules: dict[str, list[str]], talk: bool) -> None:
    server = where / "server.pub"
    if not server.is_file():
        raise Problem(f"there is no {server}: begin with `voicebus keys server`")
    path = where / "clients" / f"{name}.toml"
    if path.exists():
        raise Problem(f"{path} is there already; edit it, or `voicebus keys remove {name}` first")
    for command in rules["commands"]:
        if command != "*" and command not in COMMANDS:
            there_is_none = f"there is no command {command!r}{loader.nearest(command, COMMANDS)}"
            raise Problem(f"--commands: {there_is_none}", exit_code=2)
    public, secret = curve.new_keys()
    text = f'public = "{public}"\n'
    text += "".join(f"{rule} = {_toml(words)}\n" for rule, words in rules.items())
    text += f"talk = {'true' if talk else 'false'}\n"
    _write(path, text, 0o600)
    try:
        clients.client_of(path)
    except loader.BadSettings as error:
        path.unlink()
        raise Problem(str(error), exit_code=2) from None
    own = where / "issued" / f"{name}.toml"
    known = server.read_text("ascii").strip()
    lines = (f'server = "{known}"', f'public = "{public}"', f'secret = "{secret}"')
    own.unlink(missing_ok=True)
    _write(own, "\n".join(lines) + "\n", 0o600)
    print(f"What {name} may do is in {path}; change it there.")
    print(f"Its own keys are in {own}: move that file to {name}, and keep no copy.")


def _list(where: Path) -> None:
    found = clients.clients(where)
    for client in found.values():
        talk = "talks" if client.talk else "does not talk"
        print(
            f"{client.name}: lanes {', '.join(client.lanes)}; sessions "
            f"{', '.join(client.sessions)}; commands {', '.join(client.commands)}; {talk}"
        )
    if not found:
        sys.stderr.write(f"no clients in {where / 'clients'}; `voicebus keys add NAME` makes one\n")


def _remove(where: Path, name: str) -> None:
    path = where / "clients" / f"{name}.toml"
    if not path.exists():
        known = [one.stem for one in (where / "clients").glob("*.toml")]
        raise Problem(f"there is no client {name!r}{loader.nearest(name, known)}")
    path.unlink()
    (where / "issued" / f"{name}.toml").unlink(missing_ok=True)
    print(f"{name} is not let in any more, and its commands are refused.")
    print("What it has subscribed to ends with its connection: restart the relay to end it now.")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _toml(words: list[str]) -> str:
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return "[" + ", ".join(f'"{word}"' for word in quoted) + "]"


def _write(path: Path, text: str, mode: int) -> None:
    """A new file that was never readable by others than `mode` says."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
