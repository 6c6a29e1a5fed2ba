"""What a client may do: pure answers from its file and the sessions it opened."""

from collections.abc import Collection

from voicebus.bus import ids
from voicebus.bus.messages.commands import SHARD_COMMANDS
from voicebus.config.clients import OWN, Client


def may_see(client: Client, session_id: str, owned: Collection[str]) -> bool:
    """Whether a whole session id is one of its sessions."""
    if OWN in client.sessions and session_id in owned:
        return True
    return any(
        rule == "*" or (rule != OWN and session_id.startswith(rule)) for rule in client.sessions
    )


def may_subscribe(client: Client, topic: bytes, owned: Collection[str]) -> bool:
    """Whether everything that begins so is allowed. A prefix that covers more is not."""
    try:
        lane, slash, rest = topic.decode("ascii").partition("/")
    except UnicodeDecodeError:
        return False
    if not slash or lane not in client.lanes:
        return False
    if lane == "system":
        return True
    session_id, slash, _ = rest.partition("/")
    if slash:
        return may_see(client, session_id, owned)
    return any(rule == "*" or (rule != OWN and rest.startswith(rule)) for rule in client.sessions)


def why_not(
    client: Client, command: str, session_id: str | None, owned: Collection[str]
) -> str | None:
    """Why a command is not allowed; None when it is."""
    if "*" not in client.commands and command not in client.commands:
        allowed = ", ".join(client.commands) or "none"
        return f"client {client.name!r} may not {command} (it may: {allowed})"
    if session_id is None:
        return None if command in SHARD_COMMANDS else f"{command} needs a session_id"
    if ids.shard_of(session_id) is None:
        return f"{session_id[:60]!r} is no session id (s<shard>-<26 characters>)"
    if not may_see(client, session_id, owned):
        return f"session {session_id} is not one of client {client.name!r}'s"
    return None
