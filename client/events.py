"""Events as a program sees them: typed data, and the header as it came."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from voicebus.bus.messages import events
from voicebus.bus.messages.base import BadMessage, Message, decode_object

Data: TypeAlias = Message | dict[str, Any]

_headers = msgspec.json.Decoder(events.EventHeader)


@dataclass(frozen=True)
class Event:
    """One thing that happened in a session."""

    kind: str
    session_id: str
    seq: int | None
    epoch: int
    cause: str | None
    """The id of the command that led to it."""
    at_us: int
    data: Data
    """The struct of this kind from `voicebus.bus.messages.events`; a dict for kinds that this
    version does not know."""
    header: events.EventHeader
    raw: bytes
    """The header's JSON as it came."""

    def as_json(self) -> bytes:
        """The header as one line of JSON."""
        return msgspec.json.format(self.raw, indent=-1)


@dataclass(frozen=True)
class RawEvent:
    """A provider's frame as it came or went; sound is replaced by its size in bytes."""

    direction: str
    """`up` from the provider, `down` to it."""
    type: str
    """In the provider's words."""
    at_us: int
    frame: dict[str, Any]


def decode_raw(frames: list[bytes]) -> RawEvent | None:
    """From `[header, frame]`; None for a welcome. Raises BadMessage."""
    header = decode_object(frames[0], what="raw event")
    if len(frames) < 2:
        return None
    return RawEvent(
        direction=str(header.get("dir", "")),
        type=str(header.get("kind", "")),
        at_us=int(header.get("at_us", 0)),
        frame=decode_object(frames[1], what="raw event"),
    )


def decode(raw: bytes) -> Event:
    """An event from its header frame. Raises BadMessage."""
    try:
        header = _headers.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"event: {error}") from None
    return Event(
        kind=header.kind,
        session_id=header.session_id,
        seq=header.seq,
        epoch=header.epoch,
        cause=header.cause,
        at_us=header.at_us,
        data=_data(header),
        header=header,
        raw=raw,
    )


def _data(header: events.EventHeader) -> Data:
    body = header.data if isinstance(header.data, dict) else bytes(header.data)
    known = events.EVENTS.get(header.kind)
    try:
        if isinstance(body, dict):
            return body if known is None else msgspec.convert(body, known)
        if known is not None:
            return msgspec.json.decode(body, type=known)
    except msgspec.ValidationError:
        pass  # a newer publisher: its fields are there as a dict
    return body if isinstance(body, dict) else decode_object(body, what=header.kind)
