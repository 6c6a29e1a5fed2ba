"""Sound as a program sees it, in the order of the audio lane."""

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.sound import (
    BYTES_PER_SAMPLE,
    AssistantAudioDelta,
    AudioEnd,
    AudioFlush,
    AudioFormat,
)


@dataclass(frozen=True)
class Sound:
    """A piece of the assistant's voice."""

    turn_id: str
    item_id: str
    content_index: int
    format: AudioFormat
    offset_samples: int
    """Where it begins within its item; a jump means that something was dropped."""
    samples: bytes
    header: bytes = field(default=b"", repr=False, compare=False)
    """The header's JSON as it came."""

    @property
    def count(self) -> int:
        """How many samples."""
        return len(self.samples) // BYTES_PER_SAMPLE[self.format]


@dataclass(frozen=True)
class SoundEnd:
    """The item's sound is complete."""

    turn_id: str
    item_id: str
    content_index: int
    samples: int
    header: bytes = field(default=b"", repr=False, compare=False)


@dataclass(frozen=True)
class SoundFlush:
    """Stop playing these responses now."""

    responses: tuple[str, ...]
    why: str
    header: bytes = field(default=b"", repr=False, compare=False)


Heard: TypeAlias = Sound | SoundEnd | SoundFlush


class _Kind(msgspec.Struct):
    kind: str = ""


def decode(frames: list[bytes]) -> Heard | None:
    """From `[header, samples]`; None for a kind of a newer version. Raises BadMessage."""
    if not frames:
        raise BadMessage("sound: a message without a header frame")
    try:
        match msgspec.json.decode(frames[0], type=_Kind).kind:
            case "assistant_audio_delta":
                piece = msgspec.json.decode(frames[0], type=AssistantAudioDelta)
                return _piece(piece, frames)
            case "end":
                end = msgspec.json.decode(frames[0], type=AudioEnd)
                return SoundEnd(end.turn_id, end.item_id, end.content_index, end.samples, frames[0])
            case "flush":
                flush = msgspec.json.decode(frames[0], type=AudioFlush)
                return SoundFlush(tuple(flush.responses), flush.why, frames[0])
            case _:
                return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"sound: {error}") from None


def _piece(header: AssistantAudioDelta, frames: list[bytes]) -> Sound:
    samples = frames[1] if len(frames) > 1 else b""
    if len(samples) % BYTES_PER_SAMPLE[header.format]:
        raise BadMessage(f"sound: {len(samples)} bytes are no whole number of 16-bit samples")
    return Sound(
        turn_id=header.turn_id,
        item_id=header.item_id,
        content_index=header.content_index,
        format=header.format,
        offset_samples=header.offset_samples,
        samples=samples,
        header=frames[0],
    )
