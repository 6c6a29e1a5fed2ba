"""Frames: `[topic (publishers only), header: one JSON object, payload…]`."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from voicebus.bus.depth import DEPTH_LIMIT, is_deep
from voicebus.bus.messages.base import HEADER_LIMIT_BYTES, BadMessage, TooDeep, encode

M = TypeVar("M")


class Codec(Generic[M]):
    """Headers of one plane: a message type or a tagged union of them."""

    def __init__(self, types: Any, *, what: str, depth: int = DEPTH_LIMIT) -> None:
        """`what` names the plane in errors; JSON that is nested deeper than `depth` is refused."""
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(types)
        self._what = what
        self._depth = depth

    def decode(self, frames: Sequence[bytes]) -> tuple[M, Sequence[bytes]]:
        """Header and payload frames. Raises BadMessage and nothing else."""
        if not frames:
            raise BadMessage(f"{self._what}: a message without a header frame")
        if len(frames[0]) > HEADER_LIMIT_BYTES:
            raise BadMessage(
                f"{self._what}: header of {len(frames[0])} bytes, the limit is {HEADER_LIMIT_BYTES}"
            )
        try:
            header = self._decoder.decode(frames[0])
        except msgspec.ValidationError as error:
            raise BadMessage(f"{self._what}: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadMessage(f"{self._what}: not JSON: {error}") from None
        except RecursionError:
            raise TooDeep(self._what, self._depth) from None
        if is_deep(frames[0], self._depth):
            raise TooDeep(self._what, self._depth)
        return header, frames[1:]

    @staticmethod
    def encode(header: M, *payload: bytes) -> list[bytes]:
        """The frames to send."""
        return [encode(header), *payload]


def id_of(frames: Sequence[bytes]) -> str:
    """The id of a command that is otherwise wrong, so that its sender can tell which it was.

    Empty where none can be read. Raises nothing, whatever the bytes are.
    """
    try:
        value = msgspec.json.decode(frames[0]) if frames else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) and len(found) <= 64 else ""
