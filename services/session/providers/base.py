"""What a translator is, and what a provider may or may not be able to do."""

from typing import Any, Protocol

import msgspec

from voicebus.services.session.core.effects import Request
from voicebus.services.session.core.inputs import AnyInput


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider can do. A command that it cannot do is answered `unsupported`."""

    truncate: bool = True
    manual_commit: bool = True
    server_turn_detection: bool = True
    arguments_deltas: bool = True
    text: bool = True
    out_of_band: bool = True
    resume: bool = False
    longest_session_s: float | None = None


class Translator(Protocol):
    """One provider's dialect. Both directions are pure and never raise for what a provider says."""

    name: str
    default_model: str
    capabilities: Capabilities

    def read(self, frame: dict[str, Any], now_us: int) -> list[AnyInput]:
        """What a frame means to us; nothing for what we do not know."""

    def write(self, event_id: str, request: Request) -> dict[str, Any]:
        """The frame that asks for it."""
