"""The vendors whose sound we can carry."""

from typing import Protocol

from voicebus.services.transport.media.address import Address
from voicebus.services.transport.media.azure import Azure
from voicebus.services.transport.media.openai import OpenAI
from voicebus.services.transport.media.pieces import Piece


class Media(Protocol):
    """What the media plane needs of a vendor. Pure: values in, values out."""

    name: str

    def look(self, text: str) -> Piece | None:
        """What a provider's text frame holds for the media plane; None: nothing."""
        ...

    def wrap(self, sound: bytes) -> bytes:
        """The caller's sound as a text frame to send."""
        ...

    def address(self, url: str, model: str | None) -> Address:
        """Where to dial. Raises BadAddress."""
        ...

    def headers(self, key: str | None) -> dict[str, str]:
        """The handshake's headers."""
        ...


VENDORS: dict[str, Media] = {
    one.name: one
    for one in (
        OpenAI(),
        OpenAI("openai-transcription", intent="transcription"),
        Azure(),
        Azure("azure-transcription", intent="transcription"),
        OpenAI("xai"),
    )
}
