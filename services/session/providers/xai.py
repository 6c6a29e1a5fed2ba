"""xAI's Grok voice: the GA dialect with differences.

Voice and turn detection stand at the top of the session. The caller's words come cumulative and may
be corrected. Several events are missing, among them some ends of responses, which the core's
watchdogs make up. Tools that xAI runs itself look like calls and are nobody's to answer.
"""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.work import ToolSpec
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.providers.openai import QUIET, Frame, OpenAI, build_session_update

TRANSCRIPTION = {"model": "grok-transcribe"}
_WORDS = "conversation.item.input_audio_transcription."


class XAI(OpenAI):
    """The translator."""

    name = "xai"
    default_model = "grok-voice-latest"
    capabilities = Capabilities(
        semantic_turn_detection=False,
        transcription_sessions=False,
        rate_limit_events=False,
        runs_tools=True,
        resume=True,
        longest_session_s=3600.0,
    )
    quiet = QUIET | {"ping"}

    def read(self, frame: Frame, now_us: int) -> list[i.AnyInput]:
        """What a frame means to us; nothing for what we do not know."""
        kind = frame.get("type")
        if kind == "conversation.created":
            # It may be the only introduction there is.
            return [i.ProviderSessionCreated(now_us=now_us)]
        if kind == _WORDS + "updated":
            return _so_far(super().read({**frame, "type": _WORDS + "completed"}, now_us))
        found = super().read(frame, now_us)
        if kind == _WORDS + "completed" and frame.get("status") == "in_progress":
            return _so_far(found)
        return [_read_by_its_words(one) for one in found]

    def configure(
        self, config: SessionConfig, tools: Sequence[ToolSpec], only: Sequence[str] | None
    ) -> Frame:
        """Its own places for voice and turn detection; the nested ones are not honoured."""
        frame = build_session_update(config, tools, only, transcription=TRANSCRIPTION)
        session: dict[str, Any] = frame["session"]
        audio = session.get("audio")
        if not isinstance(audio, dict):
            return frame  # an extra has put something else there: xAI will say what is wrong
        for side, field in (("output", "voice"), ("input", "turn_detection")):
            part = audio.get(side)
            if isinstance(part, dict) and field in part:
                session[field] = part[field]
                rest = {key: value for key, value in part.items() if key != field}
                audio = {**audio, side: rest}
        session["audio"] = {side: part for side, part in audio.items() if part != {}}
        if not session["audio"]:
            del session["audio"]
        return frame


def _so_far(found: list[i.AnyInput]) -> list[i.AnyInput]:
    return [
        replace(one, final=False, cumulative=True, usage=None)
        for one in found
        if isinstance(one, i.UserWords)
    ]


def _read_by_its_words(found: i.AnyInput) -> i.AnyInput:
    match found:
        case i.ProviderRefused(meaning="other", message=message):
            # Its codes are others than OpenAI's; the words are much the same.
            words = message.lower()
            if "active response" in words and "no active" not in words:
                return replace(found, meaning="already_active")
            if "no active response" in words or "cancellation failed" in words:
                return replace(found, meaning="benign")
            if "session.update" in words:
                return replace(found, about="configuration")
            return replace(found, about="response") if "response.create" in words else found
        case _:
            return found
