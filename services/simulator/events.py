"""Shapes of the client events and of what is refused before the conversation sees them."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from voicebus.services.simulator.configuration import RESPONSE_FIELDS
from voicebus.services.simulator.items import LONGEST_ID, check_creatable
from voicebus.services.simulator.shapes import (
    Fields,
    Nullable,
    Number,
    Refused,
    Text,
    expect,
    mapping,
)

LARGEST_APPEND_BYTES = 15 * 1024 * 1024
LONGEST_EVENT_ID = 512


def checked(event: Any) -> dict[str, Any]:
    """The event, if the real service would look at it; else raises `Refused`."""
    if not isinstance(event, dict):
        raise Refused("invalid_event", "The event must be a JSON object.")
    if "type" not in event:
        raise Refused("invalid_event", "The 'type' field is missing.", "type")
    kind = event["type"]
    if not isinstance(kind, str) or kind not in _SHAPES:
        listed = ", ".join(f"'{one}'" for one in _SHAPES)
        shown = f"'{kind}'" if isinstance(kind, str) else str(kind)
        raise Refused(
            "invalid_value", f"Invalid value: {shown}. Supported values are: {listed}.", "type"
        )
    _SHAPES[kind](event, "")
    return event


def decoded_audio(text: str, param: str = "audio") -> bytes:
    """The bytes of a base64 string; raises `Refused` if it is none or too much."""
    try:
        sound = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(
            "invalid_value",
            f"Invalid '{param}'. Expected base64-encoded audio bytes but got some invalid bytes.",
            param,
        ) from None
    if len(sound) > LARGEST_APPEND_BYTES:
        raise Refused(
            "string_above_max_length",
            f"Invalid '{param}': audio too long. Expected at most {LARGEST_APPEND_BYTES} bytes, "
            f"but got {len(sound)} bytes instead.",
            param,
        )
    return sound


def client_event_id(event: Any) -> str | None:
    """The id that errors about this event must carry."""
    if isinstance(event, Mapping) and isinstance(event.get("event_id"), str):
        return str(event["event_id"])
    return None


def _creation(value: Any, path: str) -> None:
    check_creatable(value, path)


def _input(value: Any, path: str) -> None:
    expect(value, list, "an array", path)
    for n, item in enumerate(value):
        where = f"{path}[{n}]"
        if isinstance(item, dict) and item.get("type") == "item_reference":
            _REFERENCE(item, where)
        else:
            check_creatable(item, where)


_string = Text()
_REFERENCE = Fields({"type": _string, "id": _string}, required=("id",))
_event: dict[str, Any] = {"type": _string, "event_id": Text(longest=LONGEST_EVENT_ID)}
_SHAPES: dict[str, Fields] = {
    "session.update": Fields({**_event, "session": mapping}, required=("session",)),
    "input_audio_buffer.append": Fields({**_event, "audio": _string}, required=("audio",)),
    "input_audio_buffer.commit": Fields(_event),
    "input_audio_buffer.clear": Fields(_event),
    "output_audio_buffer.clear": Fields(_event),
    "conversation.item.create": Fields(
        {**_event, "item": _creation, "previous_item_id": Nullable(Text(longest=LONGEST_ID))},
        required=("item",),
    ),
    "conversation.item.retrieve": Fields({**_event, "item_id": _string}, required=("item_id",)),
    "conversation.item.truncate": Fields(
        {
            **_event,
            "item_id": _string,
            "content_index": Number(least=0, whole=True),
            "audio_end_ms": Number(least=0, whole=True),
        },
        required=("item_id", "content_index", "audio_end_ms"),
    ),
    "conversation.item.delete": Fields({**_event, "item_id": _string}, required=("item_id",)),
    "response.create": Fields(
        {**_event, "response": Nullable(Fields({**RESPONSE_FIELDS, "input": Nullable(_input)}))}
    ),
    "response.cancel": Fields({**_event, "response_id": Nullable(_string)}),
}
