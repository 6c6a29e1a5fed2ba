"""Azure OpenAI, `/openai/v1`: the same frames, the key in a header of its own."""

from voicebus.services.transport.media.openai import OpenAI


class Azure(OpenAI):
    """The piece of this vendor. The address names the resource, the model is a deployment."""

    def __init__(self, name: str = "azure", intent: str | None = None) -> None:
        super().__init__(name, intent)

    def headers(self, key: str | None) -> dict[str, str]:
        """What the handshake carries."""
        return {"api-key": key} if key else {}
