"""Azure OpenAI, `/openai/v1`: the GA dialect under another address and key.

Its older preview endpoints speak the beta dialect, whose names we understand and whose flat
configuration we do not write: such an endpoint refuses the session.
"""

from collections.abc import Sequence

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.work import ToolSpec
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.providers.openai import Frame, OpenAI, build_session_update

TRANSCRIPTION = {"model": "whisper-1"}
"""The one model that needs no deployment of its own; others are named by their deployments."""


class Azure(OpenAI):
    """The translator."""

    name = "azure"
    default_model = "gpt-realtime"
    capabilities = Capabilities(longest_session_s=1800.0)

    def configure(
        self, config: SessionConfig, tools: Sequence[ToolSpec], only: Sequence[str] | None
    ) -> Frame:
        """The GA configuration, with a transcription model that is there."""
        return build_session_update(config, tools, only, transcription=TRANSCRIPTION)
