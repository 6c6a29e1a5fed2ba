"""What a translator is: one provider's dialect, both ways."""

from typing import Any, Protocol

from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.core.effects import Request
from voicebus.services.session.core.inputs import AnyInput


class Translator(Protocol):
    """One provider's dialect. Both directions are pure and never raise for what a provider says."""

    name: str
    default_model: str
    capabilities: Capabilities
    quiet: frozenset[str]
    """Kinds of frames that are known and decide nothing."""

    def read(self, frame: dict[str, Any], now_us: int) -> list[AnyInput]:
        """What a frame means to us; nothing for what we do not know."""

    def write(self, event_id: str, request: Request) -> dict[str, Any]:
        """The frame that asks for it."""
