"""The keys folder: the relay's own key, and who its clients are and what they may do.

server.key            the relay's secret key, mode 0600
server.pub            its public key: clients need it
clients/<name>.toml   a client's public key and permissions
"""

import re
import tomllib
from pathlib import Path

import msgspec

from voicebus.config.loader import BadSettings, nearest

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,40}")
LANES = ("event", "audio", "cancel", "raw", "system")
OWN = "own"


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may do. The defaults are those of a talker that minds its own business."""

    name: str = ""
    public: str
    """Its public key, Z85, 40 characters."""
    lanes: tuple[str, ...] = ("event", "audio", "cancel")
    """What it may subscribe to; raw frames and recordings are other people's words."""
    sessions: tuple[str, ...] = (OWN,)
    """`own`: those it opened; `*`: all; else beginnings of session ids."""
    commands: tuple[str, ...] = ("*",)
    talk: bool = True
    """Whether it may send sound."""


def server_key(folder: Path) -> str:
    """The relay's secret key. Raises BadSettings."""
    path = folder / "server.key"
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadSettings(
            f"cannot read the relay's key {path}: {why}; make it with `voicebus keys server`"
        ) from None
    if mode & 0o077:
        raise BadSettings(f"others may read {path} (mode {mode:04o}): chmod 600 {path}")
    if len(text) != 40:
        raise BadSettings(f"{path} should hold a key of 40 characters and nothing else")
    return text


def clients(folder: Path) -> dict[str, Client]:
    """Public key -> client. Raises BadSettings that names the file."""
    found: dict[str, Client] = {}
    for path in sorted((folder / "clients").glob("*.toml")):
        client = client_of(path)
        if client.public in found:
            other = found[client.public].name
            raise BadSettings(f"{path}: {client.name} has the same key as {other}")
        found[client.public] = client
    return found


def client_of(path: Path) -> Client:
    """One client's file."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{path}: {error}") from None
    known = [field.name for field in msgspec.structs.fields(Client) if field.name != "name"]
    for key in table:
        if key not in known:
            raise BadSettings(f"{path} has no {key}{nearest(key, known)}")
    if not NAME.fullmatch(path.stem):
        raise BadSettings(f"{path}: use a name of small letters, digits and - _ .")
    try:
        client = msgspec.convert({**table, "name": path.stem}, Client)
    except msgspec.ValidationError as error:
        raise BadSettings(f"{path}: {error}") from None
    if len(client.public) != 40:
        raise BadSettings(f"{path}: public must be a key of 40 characters")
    for lane in client.lanes:
        if lane not in LANES:
            raise BadSettings(f"{path}: there is no lane {lane!r}{nearest(lane, LANES)}")
    return client
