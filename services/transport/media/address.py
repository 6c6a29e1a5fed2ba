"""Where a provider is: addresses taken apart, checked, and put together."""

import ipaddress
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit, urlunsplit

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_PORTS = {"ws": 80, "wss": 443}


class BadAddress(ValueError):
    """The provider's address cannot be dialled. The text says why and what to do."""


class Address(NamedTuple):
    """An address to dial."""

    url: str
    host: str
    port: int
    is_secure: bool

    @property
    def place(self) -> str:
        """`host:port`, for messages; never the query, which may hold secrets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it stays on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def address(url: str, query: dict[str, str]) -> Address:
    """The address with these query parameters; others that it already has are kept as they are.

    Raises BadAddress.
    """
    parts, port = _split(url)
    scheme = _SCHEMES[parts.scheme]
    kept = [
        pair
        for pair in parts.query.split("&")
        if pair and not any(name in query for name, _ in parse_qsl(pair, keep_blank_values=True))
    ]
    added = [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items()]
    full = urlunsplit((scheme, parts.netloc, parts.path or "/", "&".join([*kept, *added]), ""))
    return Address(full, parts.hostname or "", port or _PORTS[scheme], scheme == "wss")


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise BadAddress(f"provider_url is no address: {error}") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise BadAddress(
            "provider_url must look like wss://host/path or ws://host:port/path; "
            f"it begins with {url[:40]!r}"
        )
    return parts, port
