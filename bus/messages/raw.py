"""The raw lane: the provider's own frames as they came or went, while somebody listens."""

from typing import Literal

from voicebus.bus.messages.base import Message


class RawFrame(Message, frozen=True, kw_only=True):
    """The header; the provider's frame follows as it is, one JSON text. Unnumbered."""

    v: int = 1
    kind: str
    """The provider's own name for it, `type` in its frame."""
    session_id: str
    dir: Literal["up", "down"]
    """`up` from the provider, `down` to it."""
    at_us: int
