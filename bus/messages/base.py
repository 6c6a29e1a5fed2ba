"""The base of all messages: how they are named, encoded, decoded and refused."""

import re
from functools import cache
from typing import Any, TypeVar

import msgspec

from voicebus.bus.depth import DEPTH_LIMIT, is_deep

PROTOCOL_VERSION = 1
"""The major version on the wire. Within it, changes are additive only."""

HEADER_LIMIT_BYTES = 8 * 1024 * 1024
"""No JSON header is longer; larger things travel as payload frames."""


class BadMessage(ValueError):
    """A frame that does not follow the protocol. The text names what, where and the limit."""


class TooDeep(BadMessage):
    """JSON that is nested so deeply that somebody's stack would end."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what}: JSON is nested too deeply, the limit is {limit} levels")


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One JSON object on the wire. Receivers ignore fields they do not know."""


M = TypeVar("M", bound=Message)


@cache
def wire_name(of: type[Message]) -> str:
    """`AssistantTurnCompleted` -> `assistant_turn_completed`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", of.__name__).lower()


def registry(*types: type[M]) -> dict[str, type[M]]:
    """The types by their names on the wire."""
    return {wire_name(one): one for one in types}


_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """JSON bytes of a message, or of any plain value."""
    return _encoder.encode(message)


def plain(message: Message) -> dict[str, Any]:
    """The message as dicts, lists, strings and numbers, as it will stand in JSON."""
    value: dict[str, Any] = msgspec.to_builtins(message)
    return value


def convert(data: Any, to: type[M], *, what: str) -> M:
    """Plain data as a typed message. Raises BadMessage that names the field."""
    try:
        return msgspec.convert(data, to)
    except msgspec.ValidationError as error:
        raise BadMessage(f"{what}: {error}") from None


def decode_object(raw: bytes, *, what: str) -> dict[str, Any]:
    """A JSON object from a frame. Raises BadMessage for anything else."""
    if len(raw) > HEADER_LIMIT_BYTES:
        raise BadMessage(
            f"{what}: header of {len(raw)} bytes, the limit is {HEADER_LIMIT_BYTES}: "
            "send large things as payload frames"
        )
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(f"{what}: not JSON: {error}") from None
    except RecursionError:
        raise TooDeep(what, DEPTH_LIMIT) from None
    if is_deep(raw, DEPTH_LIMIT):
        raise TooDeep(what, DEPTH_LIMIT)
    if not isinstance(value, dict):
        raise BadMessage(f"{what}: expected a JSON object, got {type(value).__name__}")
    return value
