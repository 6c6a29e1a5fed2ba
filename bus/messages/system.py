"""The system lane: what every role says of itself on `system/<role>/<instance>/<what>`."""

from typing import Literal

from voicebus.bus.messages.base import Message, registry


class State(Message, frozen=True, kw_only=True):
    """Published once a second, at each change, and to each new subscriber."""

    v: int = 1
    role: str
    instance: int
    inc: str
    pid: int
    state: Literal["starting", "ready", "draining", "failing", "stopped"]
    why: str | None = None
    """What is missing, in a sentence, unless ready."""
    since_us: int
    at_us: int
    counters: dict[str, int] = {}
    """What was dropped or refused so far, by name."""


SYSTEM = registry(State)
