"""What a vendor's piece can find in a provider's frame."""

from typing import NamedTuple


class SoundDelta(NamedTuple):
    """A piece of the assistant's voice, decoded once."""

    turn_id: str
    """The provider's response id."""
    item_id: str
    content_index: int
    sound: bytes
    """As the provider cut it: pcm16 may end in the middle of a sample."""


class SoundDone(NamedTuple):
    """The item's sound is complete."""

    turn_id: str
    item_id: str
    content_index: int


class SpeechStarted(NamedTuple):
    """The provider hears the caller begin to speak."""

    item_id: str = ""
    """What the speech becomes; empty where the provider does not say."""


class InputCommitted(NamedTuple):
    """What the caller said has become a turn."""


class Malformed(NamedTuple):
    """It says it is sound, and is not."""

    why: str


Piece = SoundDelta | SoundDone | SpeechStarted | InputCommitted | Malformed
