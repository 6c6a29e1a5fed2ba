"""Conversation items: which shapes a client may create, how the server shows them, their order."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from voicebus.services.simulator.shapes import (
    Check,
    Fields,
    ListOf,
    Nullable,
    OneOf,
    Refused,
    Text,
    Variant,
    anything,
    boolean,
    mapping,
)

LONGEST_ID = 32


@dataclass(slots=True)
class Item:
    """An item of the conversation, its sound kept apart from what events show."""

    shown: dict[str, Any]
    """The item as events carry it: content without sound."""
    sound: bytearray = field(default_factory=bytearray)
    """The sound of its audio part, in the wire format it came or went in."""
    bytes_per_ms: int = 48
    audio_index: int | None = None
    """Which content part has sound that may be truncated: assistant messages only."""
    spoken: str | None = None
    """What was heard in a user's sound; None until the ears are done."""
    is_hearing: bool = False

    @property
    def id(self) -> str:
        """The item's id."""
        return str(self.shown["id"])

    @property
    def type(self) -> str:
        """message, function_call, function_call_output, ..."""
        return str(self.shown["type"])

    @property
    def sound_ms(self) -> int:
        """How long its sound is, rounded down."""
        return len(self.sound) // self.bytes_per_ms

    def copy(self) -> dict[str, Any]:
        """The item as an event may carry it; later changes do not reach the event."""
        return deepcopy(self.shown)

    def text(self) -> str:
        """Everything said or written in this item, sound included once it was heard."""
        parts: list[str] = []
        for part in self.shown.get("content", ()):
            text = part.get("text") or part.get("transcript")
            if text is None and part.get("type") == "input_audio":
                text = self.spoken
            if text:
                parts.append(text)
        return " ".join(parts)


class Items:
    """The ordered items of a conversation."""

    def __init__(self) -> None:
        self._ordered: list[Item] = []
        self._by_id: dict[str, Item] = {}

    def __iter__(self) -> Iterator[Item]:
        return iter(self._ordered)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._by_id

    def get(self, item_id: str) -> Item | None:
        """The item of that id, if it is there."""
        return self._by_id.get(item_id)

    @property
    def last_id(self) -> str | None:
        """The id of the item at the end; None in an empty conversation."""
        return self._ordered[-1].id if self._ordered else None

    def previous_id(self, item: Item) -> str | None:
        """The id of the item before this one; None at the head."""
        place = self._ordered.index(item)
        return self._ordered[place - 1].id if place else None

    def insert(self, item: Item, after: str | None = None) -> None:
        """Put the item after another, at the front ("root"), or at the end (None).

        The id named by `after` must be there: see `check_place`.
        """
        if after is None:
            self._ordered.append(item)
        elif after == "root":
            self._ordered.insert(0, item)
        else:
            self._ordered.insert(self._ordered.index(self._by_id[after]) + 1, item)
        self._by_id[item.id] = item

    def remove(self, item_id: str) -> None:
        """Take the item out; it must be there."""
        self._ordered.remove(self._by_id.pop(item_id))

    def call_of(self, call_id: str) -> Item | None:
        """The function call of that call id, if it is there."""
        for item in reversed(self._ordered):
            if item.type == "function_call" and item.shown.get("call_id") == call_id:
                return item
        return None


def check_creatable(item: Any, path: str = "item") -> None:
    """Raise `Refused` if a client may not create such an item."""
    _CREATABLE(item, path)
    if item["type"] != "message":
        return
    for n, part in enumerate(item["content"]):
        url = part.get("image_url")
        if url is not None and not url.startswith(("data:image/png;", "data:image/jpeg;")):
            raise Refused(
                "invalid_value",
                f"Invalid '{path}.content[{n}].image_url'. Expected a base64-encoded data URI of "
                "a PNG or JPEG image.",
                f"{path}.content[{n}].image_url",
            )


def shown(item: Mapping[str, Any], item_id: str) -> dict[str, Any]:
    """The item as the server shows it: complete, with an id, without the sound itself."""
    kept = {"id": item_id, "object": "realtime.item", "type": item["type"], "status": "completed"}
    for key, value in item.items():
        if key not in ("id", "object", "type", "status", "content"):
            kept[key] = deepcopy(value)
    if item["type"] == "message":
        kept["content"] = [
            {key: deepcopy(value) for key, value in part.items() if key != "audio"}
            for part in item["content"]
        ]
    return kept


# What a client may create, field by field.

_string = Text()
_id = Text(longest=LONGEST_ID)
_call_id = Text(longest=LONGEST_ID, pattern="[a-zA-Z0-9_-]+")
_common: dict[str, Check] = {
    "id": _id,
    "type": _string,
    "object": OneOf(("realtime.item",)),
    "status": OneOf(("completed", "incomplete", "in_progress")),
}
_input_text = Fields({"type": _string, "text": _string}, required=("text",))
_output_text = _input_text
_input_audio = Fields(
    {"type": _string, "audio": _string, "transcript": Nullable(_string)}, required=("audio",)
)
_input_image = Fields(
    {"type": _string, "image_url": _string, "detail": OneOf(("auto", "low", "high"))},
    required=("image_url",),
)


def _message(parts: Mapping[str, Check]) -> Fields:
    return Fields(
        {
            **_common,
            "role": _string,
            "content": ListOf(Variant("type", parts)),
            "phase": Nullable(_string),
        },
        required=("role", "content"),
    )


_CREATABLE = Variant(
    "type",
    {
        "message": Variant(
            "role",
            {
                "user": _message(
                    {
                        "input_text": _input_text,
                        "input_audio": _input_audio,
                        "input_image": _input_image,
                    }
                ),
                "assistant": _message({"output_text": _output_text}),
                "system": _message({"input_text": _input_text}),
            },
        ),
        "function_call": Fields(
            {**_common, "name": _string, "arguments": _string, "call_id": _call_id},
            required=("name", "arguments"),
        ),
        "function_call_output": Fields(
            {**_common, "call_id": _call_id, "output": _string}, required=("call_id", "output")
        ),
        "mcp_approval_response": Fields(
            {
                **_common,
                "approval_request_id": _string,
                "approve": boolean,
                "reason": Nullable(_string),
            },
            required=("approval_request_id", "approve"),
        ),
        "mcp_list_tools": Fields(
            {**_common, "server_label": _string, "tools": ListOf(mapping)},
            required=("server_label", "tools"),
        ),
        "mcp_call": Fields(
            {
                **_common,
                "server_label": _string,
                "name": _string,
                "arguments": _string,
                "approval_request_id": Nullable(_string),
                "output": Nullable(_string),
                "error": anything,
            },
            required=("server_label", "name", "arguments"),
        ),
        "mcp_approval_request": Fields(
            {**_common, "server_label": _string, "name": _string, "arguments": _string},
            required=("server_label", "name", "arguments"),
        ),
    },
)
