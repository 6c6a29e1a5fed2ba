"""Ids: ULIDs, session ids that carry their home shard, incarnations."""

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_SESSION = re.compile(r"s(\d{1,4})-[0-9a-hjkmnp-tv-z]{26}")


def ulid() -> str:
    """26 lower-case characters: 48 bits of milliseconds, 80 bits of chance."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def session_id(shard: int) -> str:
    """`s<shard>-<ulid>`: the endpoints follow from the id."""
    return f"s{shard}-{ulid()}"


def shard_of(session_id: str) -> int | None:
    """The home shard, or None if this is no session id."""
    match = _SESSION.fullmatch(session_id)
    return int(match[1]) if match else None


def incarnation() -> str:
    """Names one start of a process: eight random hex digits."""
    return secrets.token_hex(4)


def token() -> str:
    """A right that cannot be guessed: 128 random bits."""
    return secrets.token_urlsafe(16)
