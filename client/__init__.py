"""The Python SDK: `RealtimeClient.connect(config) -> RealtimeSession`."""

from voicebus.client.client import Joining, RealtimeClient
from voicebus.client.errors import (
    BadSound,
    ClientError,
    CommandRefused,
    Lagged,
    NobodyAnswers,
    NoReply,
    SessionGone,
)
from voicebus.client.events import Event, RawEvent
from voicebus.client.resample import Resampler, at_rate
from voicebus.client.session import RealtimeSession
from voicebus.client.sound import Heard, Sound, SoundEnd, SoundFlush

__all__ = [
    "BadSound",
    "ClientError",
    "CommandRefused",
    "Event",
    "Heard",
    "Joining",
    "Lagged",
    "NoReply",
    "NobodyAnswers",
    "RawEvent",
    "RealtimeClient",
    "RealtimeSession",
    "Resampler",
    "SessionGone",
    "Sound",
    "SoundEnd",
    "SoundFlush",
    "at_rate",
]
