"""Headers of the audio lane. The samples travel as a raw payload frame, never as base64."""

from typing import Literal

from voicebus.bus.messages.base import Message, registry

AudioFormat = Literal["pcm16", "g711_ulaw", "g711_alaw"]
"""pcm16: signed 16-bit little-endian mono, 24 kHz. G.711: 8 kHz, one byte a sample."""

RATE_HZ: dict[str, int] = {"pcm16": 24_000, "g711_ulaw": 8_000, "g711_alaw": 8_000}
BYTES_PER_SAMPLE: dict[str, int] = {"pcm16": 2, "g711_ulaw": 1, "g711_alaw": 1}


def milliseconds(samples: int, format: str) -> int:
    """How long that many samples last, rounded down."""
    return samples * 1000 // RATE_HZ[format]


def duration_ms(size_bytes: int, format: str) -> int:
    """How long sound of that size lasts, rounded down."""
    return milliseconds(size_bytes // BYTES_PER_SAMPLE[format], format)


class SoundHeader(Message, frozen=True, kw_only=True):
    """What all headers on `audio/<sid>/out` begin with."""

    v: int = 1
    kind: str
    session_id: str
    inc: str
    seq: int
    """Counts from 1 on this topic, and anew with another `inc`: what it skips was lost on its way
    to you."""


class SoundWelcome(Message, frozen=True, kw_only=True):
    """The answer to a subscription, on the very string subscribed: now the filter is active."""

    v: int = 1
    kind: str = "welcome"
    session_id: str
    """Whose sound the subscription covers; empty: that of more than one."""
    inc: str
    protocol: tuple[int, ...] = (1,)


class AssistantAudioDelta(SoundHeader, frozen=True, kw_only=True):
    """A piece of the assistant's voice; the payload frame holds the samples."""

    kind: str = "assistant_audio_delta"
    turn_id: str
    item_id: str
    content_index: int
    format: AudioFormat
    offset_samples: int
    """Where this piece begins within its item: a jump shows a drop, here or before."""


class AudioEnd(SoundHeader, frozen=True, kw_only=True):
    """The item's sound is complete; in order with the sound."""

    kind: str = "end"
    turn_id: str
    item_id: str
    content_index: int
    samples: int
    """Of the whole item, what was lost on the way included."""


class AudioFlush(SoundHeader, frozen=True, kw_only=True):
    """Stop playing these responses now. None of their sound follows."""

    kind: str = "flush"
    responses: list[str]
    why: str
    """barge_in, manual, … For people."""


class CallerAudio(SoundHeader, frozen=True, kw_only=True):
    """On `audio/<sid>/in`, numbered on its own, for recorders: the caller's sound as it came.

    It is published only while somebody subscribes; the payload frame holds the samples."""

    kind: str = "caller_audio"
    n: int
    """The number the caller gave it."""
    format: AudioFormat


class SoundIn(Message, frozen=True, kw_only=True):
    """The header of a caller's sound frame: `[header, samples]` to the sound-in socket."""

    v: int = 1
    session_id: str
    token: str
    """Of `open` or `attach`, with the right to talk."""
    n: int
    """Counts from 1 per token."""
    follows_command: bool = False
    """It was said after a command with `after_n` = `n` - 1 (one that is performed in time with the
    sound): it goes out after that, or when it has been held as long as sound is held at all."""


class SoundRefused(Message, frozen=True, kw_only=True):
    """On `system/transport/<instance>/refused`: sound frames that were not taken.

    Forged frames must not write into the session they name, so that it is told here. At most one
    a second for each reason."""

    v: int = 1
    role: str = "transport"
    instance: int
    inc: str
    at_us: int
    reason: str
    text: str
    """Who, what, which limit, what to do: of the newest."""
    count: int
    """So many since this reason was last told."""


SOUND = registry(
    AssistantAudioDelta, AudioEnd, AudioFlush, CallerAudio, SoundIn, SoundRefused, SoundWelcome
)
