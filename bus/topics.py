"""Topics: `lane/<session_id>/<kind>`, so that a prefix never matches another session."""

from typing import NamedTuple

ALL_SOUND = b"audio"
"""Recorders subscribe to this, without a slash: all sound, without being taken for a player that
sound is held for."""
LIMIT_BYTES = 512
"""No subscription need be longer: ZeroMQ keeps fifty bytes for each of its bytes."""
LANES = ("event", "audio", "cancel", "raw", "system")


class Topic(NamedTuple):
    """A topic taken apart. On the system lane: lane, role, `<instance>/<what>`."""

    lane: str
    owner: str
    what: str


def event(session_id: str, kind: str) -> bytes:
    """An event of a session."""
    return f"event/{session_id}/{kind}".encode()


def audio(session_id: str, direction: str) -> bytes:
    """Sound: `out` is the assistant's, `in` the caller's."""
    return f"audio/{session_id}/{direction}".encode()


def cancel(session_id: str, what: str) -> bytes:
    """What must stop: `interrupt`, `call` or `close`."""
    return f"cancel/{session_id}/{what}".encode()


def raw(session_id: str, provider_type: str) -> bytes:
    """A provider's frame as it came or went."""
    return f"raw/{session_id}/{provider_type}".encode()


def system(role: str, instance: int, what: str) -> bytes:
    """What a process says of itself."""
    return f"system/{role}/{instance}/{what}".encode()


def owner(prefix: bytes) -> str:
    """The one session that a subscription covers, "" for that of more than one. On the system lane
    the role."""
    covered = parse(prefix + b"?")
    return covered.owner if covered else ""


def parse(topic: bytes) -> Topic | None:
    """The parts, or None if this is not a topic of ours."""
    parts = topic.decode("utf-8", "replace").split("/", 2)
    if len(parts) != 3 or parts[0] not in LANES or not parts[1] or not parts[2]:
        return None
    return Topic(*parts)
