"""What a frame of a caller's means, and how frames to a caller look. Pure.

    caller                                   gateway
      {"open": {…}} or {"attach": {…}}  ──▶
                                        ◀──  {"opened": {…}} or {"attached": {…}}
      {"id", "command", "data"}         ──▶
                                        ◀──  {"v", "id", "ok", "seq", "data"|"error"}   its reply
                                        ◀──  {"v", "kind", "seq", …}                    an event
      samples (binary)                  ──▶
                                        ◀──  header and samples (binary)                sound
                                        ◀──  {"error": {…}} · {"notice": {…}}

docs/gateway.md describes each, with an example.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from voicebus.bus import ids
from voicebus.bus.messages.base import BadMessage, decode_object, encode
from voicebus.bus.messages.commands import COMMANDS, RETRY, SHARD_COMMANDS, CommandError, Reply
from voicebus.bus.messages.sound import RATE_HZ

WHO = "gateway"
ID_LIMITS = (8, 64)
SESSION_COMMANDS = frozenset(COMMANDS) - SHARD_COMMANDS - {"attach"} | {"ping"}
"""What can be done from here. `open` and `attach` are the first frame; `list`, `catalogue` and
`schema` would show what is not the caller's."""
AFTER_SOUND = frozenset({"commit_audio", "clear_audio", "close"})
"""Performed after the sound that came before them on this connection."""


@dataclass(frozen=True)
class Closing:
    """How a connection ends."""

    code: int
    reason: str
    """At most 123 bytes."""


ENDED = Closing(1000, "the session has ended")
RESTARTING = Closing(1012, "the gateway is stopping: come back with your token and after_seq")
FULL = Closing(1013, "too many connections: come back later")
INTERNAL = Closing(1011, "the gateway failed: come back with your token and after_seq")
TOO_SLOW = Closing(4000, "too many events wait for you: come back with after_seq and read faster")
BAD_FIRST = Closing(4400, "the first frame was wrong: see the error before this")
TOO_LATE = Closing(4408, "no first frame came in time")
NOT_ALLOWED = Closing(4401, "not allowed: see the error before this")
REFUSED = Closing(4403, "the session was refused: see the error before this")
GONE = Closing(4404, "that session does not exist any more")
TAKEN_OVER = Closing(4409, "another connection has attached to this session")
FLOOD = Closing(4429, "too much wrong or refused input: come back slower")


@dataclass(frozen=True)
class Refusal:
    """Why something was not done."""

    error: CommandError
    id: str | None = None
    """Of the command, where it could be read."""
    closing: Closing | None = None


@dataclass(frozen=True)
class Opening:
    """A new conversation is wanted."""

    config: dict[str, Any]
    key: object = None


@dataclass(frozen=True)
class Joining:
    """A caller comes back."""

    session_id: str
    token: str
    after_seq: int


@dataclass(frozen=True)
class Asked:
    """A command."""

    id: str
    command: str
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What callers may do and set. None: everything there is."""

    commands: Collection[str] | None = None
    fields: Collection[str] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """The configuration that holds for every call."""


def refusal(
    code: Any,
    message: str,
    *,
    id: str | None = None,
    closing: Closing | None = None,
    after_ms: int | None = None,
) -> Refusal:
    """As the bus says it, by the gateway."""
    error = CommandError(code=code, message=message, retry=RETRY[code], after_ms=after_ms, who=WHO)
    return Refusal(error, id, closing)


def first(text: str) -> Opening | Joining | Refusal:
    """The first frame of a connection."""
    try:
        frame = decode_object(text.encode("utf-8", "surrogatepass"), what="first frame")
    except BadMessage as error:
        return _bad_first(str(error))
    wanted = [name for name in ("open", "attach") if name in frame]
    if len(wanted) != 1 or not isinstance(frame[wanted[0]], dict):
        return _bad_first(
            'first frame: expected {"open": {…configuration…}} or '
            '{"attach": {"session_id", "token", "after_seq"}}'
        )
    if wanted == ["open"]:
        return Opening(frame["open"], frame.get("key"))
    return _joining(frame["attach"])


def _joining(data: dict[str, Any]) -> Joining | Refusal:
    session_id, token = data.get("session_id"), data.get("token")
    after = data.get("after_seq", 0)
    if not isinstance(session_id, str) or ids.shard_of(session_id) is None:
        return _bad_first(
            f"attach: session_id {str(session_id)[:60]!r} is no session id "
            "(s<shard>-<26 characters>, as `opened` told it)"
        )
    if not isinstance(token, str) or not token or len(token) > 200:
        return _bad_first("attach: token must be the one that `opened` told")
    if not isinstance(after, int) or isinstance(after, bool) or not 0 <= after < 2**53:
        return _bad_first(
            f"attach: after_seq {str(after)[:60]!r} must be the seq of the last event you have, "
            "0 for none"
        )
    return Joining(session_id, token, after)


def _bad_first(message: str) -> Refusal:
    return refusal("bad_request", message, closing=BAD_FIRST)


def command(text: str, session_id: str, allowed: Allowed) -> Asked | Refusal:
    """A later text frame."""
    try:
        frame = decode_object(text.encode("utf-8", "surrogatepass"), what="command")
    except BadMessage as error:
        return refusal("bad_request", str(error))
    id, name, data = frame.get("id"), frame.get("command"), frame.get("data", {})
    least, most = ID_LIMITS
    if not isinstance(id, str) or not least <= len(id) <= most:
        return refusal(
            "bad_request",
            f"command: id must be a text of {least} to {most} characters of your own: a ULID or "
            "UUID, the same again when you send the command again",
            id=id if isinstance(id, str) and len(id) <= most else None,
        )
    if not isinstance(name, str) or name not in SESSION_COMMANDS:
        return refusal(
            "bad_request",
            f"there is no command {str(name)[:60]!r} here "
            f"(there are: {', '.join(sorted(SESSION_COMMANDS))})",
            id=id,
        )
    if not isinstance(data, dict):
        return refusal("bad_request", f"{name}: data must be an object", id=id)
    if frame.get("session_id") not in (None, session_id):
        return refusal(
            "not_allowed",
            f"{name}: this connection is session {session_id}'s; open another for another session",
            id=id,
        )
    if allowed.commands is not None and name not in allowed.commands:
        return refusal(
            "not_allowed",
            f"{name} may not be used here (may be: {', '.join(sorted(allowed.commands))})",
            id=id,
        )
    if name == "update" and isinstance(data.get("config"), dict):
        why = why_not_set(data["config"], allowed)
        if why is not None:
            return refusal("not_allowed", why, id=id)
    return Asked(id, name, data)


def configuration(asked: dict[str, Any], allowed: Allowed) -> dict[str, Any] | Refusal:
    """Of a new session: what the caller wants, under what holds for every call."""
    why = why_not_set(asked, allowed)
    if why is not None:
        return refusal("not_allowed", why, closing=REFUSED)
    return {**asked, **allowed.fixed}


def why_not_set(asked: Mapping[str, Any], allowed: Allowed) -> str | None:
    """Which field a caller may not set; None when all may be."""
    for name in asked:
        if name in allowed.fixed:
            return f"configuration: {name[:60]} is the same for every call here; leave it out"
        if allowed.fields is not None and name not in allowed.fields:
            may = ", ".join(sorted(allowed.fields)) or "nothing"
            return f"configuration: {name[:60]} may not be set here (may be: {may})"
    return None


def performed(asked: Asked, after_sound: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The data as it goes to the session: only the gateway knows the numbers of sound frames."""
    if asked.command not in AFTER_SOUND:
        return asked.data
    return {**asked.data, **after_sound()}


def why_no_sound(size: int, limit: int) -> Refusal | None:
    """What is wrong with a frame of sound by its size."""
    if size > limit:
        return refusal(
            "bad_request",
            f"a sound frame of {size} bytes: the limit is {limit}; send 20 ms at a time",
        )
    return None


def began(
    what: str,
    *,
    session_id: str,
    token: str,
    config: Mapping[str, Any],
    seq: int,
    warnings: Collection[str],
    limits: Mapping[str, int],
) -> str:
    """The answer to the first frame: `opened` or `attached`."""
    formats = {way: config.get(f"{way}_audio_format") or "pcm16" for way in ("input", "output")}
    data = {
        "session_id": session_id,
        "token": token,
        "seq": seq,
        "lease_s": config.get("lease_s") or 60.0,
        "audio": {
            way: {"format": format, "rate_hz": RATE_HZ.get(format)}
            for way, format in formats.items()
        },
        "limits": dict(limits),
        "warnings": list(warnings),
    }
    return _text({what: data})


def refused(why: Refusal) -> str:
    """The reply to a command, or an error that belongs to none."""
    if why.id is None:
        return _text({"error": why.error})
    return _text(Reply(id=why.id, ok=False, error=why.error))


def answered(reply: Reply) -> str:
    """A reply of the session's."""
    return _text(reply)


def audio_dropped(direction: str, dropped_ms: int, why: str) -> str:
    """Sound did not reach the other end."""
    fields = {"what": "audio_dropped", "direction": direction, "dropped_ms": dropped_ms}
    return _text({"notice": {**fields, "why": why}})


def sound(header: bytes, samples: bytes = b"") -> bytes:
    """A binary frame: two bytes with the header's length, most significant first; the header as it
    is on the audio lane; the samples."""
    return len(header).to_bytes(2, "big") + header + samples


def _text(value: Any) -> str:
    return encode(value).decode()
