"""Who may come in: by address, page, key and ticket. Pure answers.

A browser sends its cookies, its address and its way into a loopback network for any page that asks
it to. So a page elsewhere is told apart by its Origin, and one that calls this machine by a name of
its own (DNS rebinding) by the Host that it names.
"""

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
TICKET_BYTES = 24


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the settings say."""

    bind: str
    key: str | None = None
    """The word that callers must know."""
    origins: Collection[str] = ()
    """Pages elsewhere that may call."""


def is_loopback(host: str) -> bool:
    """Whether nobody elsewhere can reach it. A name is looked at, not looked up."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def why_not_start(bind: str, key: str | None) -> str | None:
    """Why it must not listen there; None when it may."""
    if key is not None or is_loopback(bind):
        return None
    return (
        f"[gateway] bind={bind!r} is not this machine alone, and there is no key_file: everybody "
        "who can reach it could talk at your cost. Name a file of mode 0600 that holds a long "
        'random word in key_file, or set bind = "127.0.0.1"'
    )


def bad_origins(origins: Collection[str]) -> str | None:
    """What is wrong with the list; None when it is fine."""
    for one in origins:
        parts = _parts(one)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            return f"[gateway] origins: {one!r} is no origin; write https://voice.example.org"
    return None


def why_not(policy: Policy, host: str | None, origin: str | None) -> str | None:
    """Why a request may not come in; None when it may. A program that is no browser has no Origin.

    Without a key only names of this machine may have been called, else any page could come by a
    name of its own that leads to 127.0.0.1.
    """
    listed = {one.rstrip("/").lower() for one in policy.origins}
    called = _name(host or "")
    if policy.key is None:
        known = {*LOOPBACK_NAMES, policy.bind.lower(), *(_name(_parts(o).netloc) for o in listed)}
        if called not in known and not is_loopback(called):
            return (
                f"Host {(host or '')[:100]!r} is not this machine: without a key_file it has to be "
                "called by its own name (localhost, 127.0.0.1), or by one of [gateway] origins"
            )
    if origin is None or origin.lower() in listed:
        return None
    if host and _parts(origin.lower()).netloc == host.lower():
        return None
    return (
        f"pages of {origin[:100]!r} may not call: list it in [gateway] origins, or open the page "
        "that the gateway serves itself"
    )


def is_key(policy: Policy, given: object) -> bool:
    """Whether that is the key, in constant time; anything is, where none is needed."""
    if policy.key is None:
        return True
    return isinstance(given, str) and hmac.compare_digest(
        given.encode("utf-8", "surrogatepass"), policy.key.encode()
    )


def bearer(header: str | None) -> str | None:
    """The key in an `Authorization: Bearer …` header."""
    kind, _, key = (header or "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else None


def ticket(secret: bytes, session_id: str) -> str:
    """The right to come back to a session: nothing has to be kept to know it again."""
    seal = hmac.new(secret, session_id.encode(), hashlib.sha256).digest()[:TICKET_BYTES]
    return base64.urlsafe_b64encode(seal).decode()


def is_ticket(secret: bytes, session_id: str, given: str) -> bool:
    """Whether it was given out for that session, in constant time."""
    return hmac.compare_digest(
        ticket(secret, session_id).encode(), given.encode("utf-8", "surrogatepass")
    )


def _name(host: str) -> str:
    """`[::1]:8080` -> `::1`."""
    return _parts(f"//{host}").hostname or ""


def _parts(url: str) -> SplitResult:
    """All empty where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
