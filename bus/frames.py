"""Frames: `[topic (publishers only), header: one JSON object, payload…]`."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from voicebus.bus.messages.base import HEADER_LIMIT_BYTES, BadMessage, encode

M = TypeVar("M")


class Codec(Generic[M]):
    """Headers of one plane: a message type or a tagged union of them."""

    def __init__(self, types: Any, *, what: str) -> None:
        """`what` names the plane in errors."""
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(types)
        self._what = what

    def decode(self, frames: Sequence[bytes]) -> tuple[M, Sequence[bytes]]:
        """Header and payload frames. Raises BadMessage and nothing else."""
        if not frames:
            raise BadMessage(f"{self._what}: a message without a header frame")
        if len(frames[0]) > HEADER_LIMIT_BYTES:
            raise BadMessage(
                f"{self._what}: header of {len(frames[0])} bytes, the limit is {HEADER_LIMIT_BYTES}"
            )
        try:
            return self._decoder.decode(frames[0]), frames[1:]
        except msgspec.ValidationError as error:
            raise BadMessage(f"{self._what}: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadMessage(f"{self._what}: not JSON: {error}") from None
        except RecursionError:
            raise BadMessage(f"{self._what}: JSON is nested too deeply") from None

    @staticmethod
    def encode(header: M, *payload: bytes) -> list[bytes]:
        """The frames to send."""
        return [encode(header), *payload]
