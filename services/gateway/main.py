"""The gateway service's main."""

import asyncio
import os
import secrets
import stat
import tomllib
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from voicebus.bus.messages.commands import SessionConfig
from voicebus.client import RealtimeClient
from voicebus.config import extras
from voicebus.config.loader import nearest
from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway import doors, protocol
from voicebus.services.runtime import CannotStart, Runtime, run

LEAST_KEY = 16
LEAVE_S = 2.5
"""For telling callers to come back; supervisord waits five."""


def check(settings: GatewaySettings) -> tuple[doors.Policy, protocol.Allowed]:
    """What the settings allow. Raises CannotStart, whose text says what to do."""
    absent = extras.lacking(extras.WEB)
    if absent:
        raise CannotStart(
            f"the gateway needs {' and '.join(absent)}; get it with: {extras.how_to_get('web')}"
        )
    if not settings.bind:
        raise CannotStart("[gateway] bind is not set: name the address to listen on")
    key = None if settings.key_file is None else read_key(Path(settings.key_file))
    origins = tuple(settings.origins.split())
    why = doors.why_not_start(settings.bind, key) or doors.bad_origins(origins)
    if why is None and (settings.tls_cert is None) != (settings.tls_key is None):
        why = "[gateway] tls_cert and tls_key belong together: set both or none"
    if why is None:
        why = _unreadable("tls_cert", settings.tls_cert) or _unreadable("tls_key", settings.tls_key)
    if why is not None:
        raise CannotStart(why)
    allowed = protocol.Allowed(
        commands=_listed(settings.commands),
        fields=_listed(settings.config_fields),
        fixed=_fixed(settings.session_file),
    )
    fields = frozenset(field.name for field in msgspec.structs.fields(SessionConfig))
    for setting, names, known in (
        ("commands", allowed.commands, protocol.SESSION_COMMANDS),
        ("config_fields", allowed.fields, fields),
        (f"session_file={settings.session_file!r}", allowed.fixed, fields),
    ):
        for name in sorted(frozenset(names or ()) - known):
            raise CannotStart(f"[gateway] {setting}: there is no {name}{nearest(name, known)}")
    return doors.Policy(bind=settings.bind, key=key, origins=origins), allowed


def read_key(path: Path) -> str:
    """The word that callers must know. Raises CannotStart."""
    try:
        text = path.read_text("utf-8").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CannotStart(f"[gateway] key_file={str(path)!r}: {reason}") from None
    if mode & 0o077:
        raise CannotStart(
            f"[gateway] key_file={str(path)!r}: others may read it (mode {mode:04o}); "
            f"chmod 600 {path}"
        )
    if len(text) < LEAST_KEY or len(text.split()) != 1:
        raise CannotStart(
            f"[gateway] key_file={str(path)!r}: it must hold one word of at least {LEAST_KEY} "
            f"characters; make one with: openssl rand -hex 24 > {path}"
        )
    return text


def _unreadable(setting: str, path: str | None) -> str | None:
    """Why that file cannot be read: the TLS library does not say which one it was."""
    if path is not None:
        try:
            Path(path).open("rb").close()
        except OSError as error:
            return f"[gateway] {setting}={path!r}: {error.strerror}"
    return None


def own_secret(path: Path) -> bytes:
    """What callers' tokens are made with: kept, so that a restarted gateway knows them again."""
    if path.exists():
        kept = path.read_bytes()
        if len(kept) >= doors.TICKET_BYTES:
            return kept
        path.unlink()
    fresh = secrets.token_bytes(32)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(fresh)
    return fresh


async def serve(runtime: Runtime[GatewaySettings]) -> None:
    """Until told to stop."""
    settings = runtime.settings
    policy, allowed = check(settings)
    # Only here: these packages are an extra.
    from voicebus.services.gateway.app import Gateway  # noqa: PLC0415
    from voicebus.services.gateway.server import listen, server  # noqa: PLC0415

    secret = own_secret(runtime.endpoints.run_dir / "gateway.secret")
    listening = listen(settings)
    if settings.tls_cert is None and not doors.is_loopback(settings.bind):
        runtime.log.warning(
            "gateway.in_clear",
            bind=settings.bind,
            why="without tls_cert keys and voices can be read on the way, and browsers give no "
            "microphone: set tls_cert and tls_key, or put a proxy with HTTPS before it",
        )
    async with RealtimeClient(runtime.endpoints, shards=runtime.cell.shards) as client:
        gateway = Gateway(runtime, client, policy=policy, allowed=allowed, secret=secret)
        serving = server(gateway.app(), settings, runtime.count)
        task = await serving.begin(listening)
        stopping = asyncio.create_task(runtime.stopping.wait())
        runtime.ready()
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        runtime.draining("sending callers to the next gateway")
        await gateway.leave(LEAVE_S)
        serving.should_exit = True
        stopping.cancel()
        await task


def _listed(text: str) -> frozenset[str] | None:
    return None if text.strip() == "*" else frozenset(text.split())


def _fixed(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise CannotStart(f"[gateway] session_file={path!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CannotStart(f"[gateway] session_file={path!r} is not TOML: {error}") from None


def main() -> NoReturn:
    """Run it as a process."""
    run(serve, GatewaySettings, role="gateway")
