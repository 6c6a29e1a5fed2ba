"""One response while it is given: its items, their parts, and the events each step makes.

Order of a message:   output_item.added, conversation.item.added, content_part.added, deltas,
                      output_*.done, content_part.done, conversation.item.done, output_item.done
Order of a call:      output_item.added, conversation.item.added, arguments.delta, arguments.done,
                      conversation.item.done, output_item.done
All `done` events come also when the response is cut short; only `status` says how it went.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from voicebus.services.simulator import sounds
from voicebus.services.simulator.items import Item, Items
from voicebus.services.simulator.steps import (
    AnswerEnded,
    ArgumentsGrew,
    CallBegan,
    CallEnded,
    MessageBegan,
    MessageEnded,
    SoundGrew,
    Step,
    WordsGrew,
)

Emit = Callable[..., None]
"""`emit(type, **fields)` sends a server event."""


@dataclass(slots=True)
class _Part:
    """An item of the output and how far it has come."""

    item: Item
    words: str = ""
    arguments: str = ""
    is_open: bool = True


@dataclass(slots=True)
class Response:
    """A response, from `response.created` to `response.done`."""

    id: str
    settings: Mapping[str, Any]
    """The session's configuration with what this response overrides."""
    is_out_of_band: bool
    metadata: Mapping[str, str] | None
    emit: Emit
    items: Items
    """The conversation it writes; left alone when out of band."""
    new_id: Callable[[str], str]
    conversation_id: str | None
    input_tokens: Mapping[str, int]
    context: Sequence[Item]
    """The items it answers."""
    awaits: set[str] = field(default_factory=set)
    """Ids of the user's items whose words must be known before an answer can be thought of."""
    status: str = "in_progress"
    parts: dict[int, _Part] = field(default_factory=dict)
    status_details: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    has_spoken: bool = False
    sound_ms: int = 0

    @property
    def speaks(self) -> bool:
        """False for a text response."""
        return bool(self.settings["output_modalities"] == ["audio"])

    @property
    def audio_type(self) -> str:
        """The wire format of its sound."""
        return str(self.settings["audio"]["output"]["format"]["type"])

    def shown(self) -> dict[str, Any]:
        """The response as events carry it."""
        output = self.settings["audio"]["output"]
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self.status,
            "status_details": deepcopy(self.status_details),
            "output": [part.item.copy() for _, part in sorted(self.parts.items())],
            "conversation_id": self.conversation_id,
            "output_modalities": list(self.settings["output_modalities"]),
            "max_output_tokens": self.settings["max_output_tokens"],
            "audio": {"output": {"format": dict(output["format"]), "voice": output["voice"]}},
            "usage": deepcopy(self.usage),
            "metadata": dict(self.metadata) if self.metadata is not None else None,
        }

    def take(self, step: Step) -> None:
        """Send what the step makes of it. Steps after the end change nothing."""
        if self.status != "in_progress":
            return
        match step:
            case MessageBegan(output_index=index):
                self._begin_message(index)
            case CallBegan(output_index=index, name=name, call_id=call_id):
                self._begin_call(index, name, call_id or self.new_id("call"))
            case WordsGrew(output_index=index, words=words):
                self._grow_words(index, words)
            case SoundGrew(output_index=index, sound=sound):
                self._grow_sound(index, sound)
            case ArgumentsGrew(output_index=index, arguments=arguments):
                self._grow_arguments(index, arguments)
            case MessageEnded(output_index=index) | CallEnded(output_index=index):
                self._close(index, "completed")
            case AnswerEnded():
                self.end(step.status, step.reason, step.error)
        limit = self.settings["max_output_tokens"]
        if limit != "inf" and self.status == "in_progress" and self._output_tokens()[0] > limit:
            self.end("incomplete", "max_output_tokens")

    def end(
        self,
        status: str,
        reason: str | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """Close everything that is open and send `response.done`."""
        for index in sorted(self.parts):
            self._close(index, "completed" if status == "completed" else "incomplete")
        self.status = status
        if status != "completed" or reason or error:
            self.status_details = {"type": status}
            if reason:
                self.status_details["reason"] = reason
            if error:
                self.status_details["error"] = dict(error)
        self.usage = None if status == "failed" else self._usage()
        self.emit("response.done", response=self.shown())

    # Messages

    def _begin_message(self, index: int) -> None:
        kind = "output_audio" if self.speaks else "output_text"
        item = Item(
            {
                "id": self.new_id("item"),
                "object": "realtime.item",
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            },
            bytes_per_ms=sounds.bytes_per_ms(self.audio_type),
            audio_index=0 if self.speaks else None,
        )
        self._add(index, item)
        key = "transcript" if self.speaks else "text"
        item.shown["content"] = [{"type": kind, key: ""}]
        self._emit_part("response.content_part.added", index, {"type": kind[7:], key: ""})

    def _grow_words(self, index: int, words: str) -> None:
        part = self.parts[index]
        part.words += words
        key = "transcript" if self.speaks else "text"
        part.item.shown["content"][0][key] = part.words
        kind = "output_audio_transcript" if self.speaks else "output_text"
        self._emit_delta(f"response.{kind}.delta", index, delta=words)

    def _grow_sound(self, index: int, sound: bytes) -> None:
        part = self.parts[index]
        part.item.sound += sound
        self.has_spoken = True
        self.sound_ms += len(sound) // part.item.bytes_per_ms
        self._emit_delta(
            "response.output_audio.delta", index, delta=base64.b64encode(sound).decode("ascii")
        )

    def _close_message(self, index: int, part: _Part) -> None:
        if self.speaks:
            self._emit_delta("response.output_audio.done", index)
            self._emit_delta("response.output_audio_transcript.done", index, transcript=part.words)
            shown = {"type": "audio", "transcript": part.words}
        else:
            self._emit_delta("response.output_text.done", index, text=part.words)
            shown = {"type": "text", "text": part.words}
        self._emit_part("response.content_part.done", index, shown)

    # Calls

    def _begin_call(self, index: int, name: str, call_id: str) -> None:
        self._add(
            index,
            Item(
                {
                    "id": self.new_id("item"),
                    "object": "realtime.item",
                    "type": "function_call",
                    "status": "in_progress",
                    "name": name,
                    "call_id": call_id,
                    "arguments": "",
                }
            ),
        )

    def _grow_arguments(self, index: int, arguments: str) -> None:
        part = self.parts[index]
        part.arguments += arguments
        self.emit(
            "response.function_call_arguments.delta",
            response_id=self.id,
            item_id=part.item.id,
            output_index=index,
            call_id=part.item.shown["call_id"],
            delta=arguments,
        )

    def _close_call(self, index: int, part: _Part) -> None:
        part.item.shown["arguments"] = part.arguments
        self.emit(
            "response.function_call_arguments.done",
            response_id=self.id,
            item_id=part.item.id,
            output_index=index,
            call_id=part.item.shown["call_id"],
            name=part.item.shown["name"],
            arguments=part.arguments,
        )

    # Both

    def _add(self, index: int, item: Item) -> None:
        self.parts[index] = _Part(item)
        self.emit(
            "response.output_item.added",
            response_id=self.id,
            output_index=index,
            item=item.copy(),
        )
        if not self.is_out_of_band:
            self.items.insert(item)
            self.emit(
                "conversation.item.added",
                previous_item_id=self.items.previous_id(item),
                item=item.copy(),
            )

    def _close(self, index: int, status: str) -> None:
        part = self.parts[index]
        if not part.is_open:
            return
        part.is_open = False
        part.item.shown["status"] = status
        if part.item.type == "message":
            self._close_message(index, part)
        else:
            self._close_call(index, part)
        if self.items.get(part.item.id) is part.item:
            self.emit(
                "conversation.item.done",
                previous_item_id=self.items.previous_id(part.item),
                item=part.item.copy(),
            )
        self.emit(
            "response.output_item.done",
            response_id=self.id,
            output_index=index,
            item=part.item.copy(),
        )

    def _emit_part(self, kind: str, index: int, part: Mapping[str, Any]) -> None:
        self._emit_delta(kind, index, part=dict(part))

    def _emit_delta(self, kind: str, index: int, **fields: Any) -> None:
        self.emit(
            kind,
            response_id=self.id,
            item_id=self.parts[index].item.id,
            output_index=index,
            content_index=0,
            **fields,
        )

    # Tokens

    def _output_tokens(self) -> tuple[int, int, int]:
        """All, text and audio tokens so far: four letters or 50 ms each."""
        letters = sum(len(part.words) + len(part.arguments) for part in self.parts.values())
        text, audio = -(-letters // 4), -(-self.sound_ms // 50)
        return text + audio, text, audio

    def _usage(self) -> dict[str, Any]:
        text_in = self.input_tokens["text"]
        audio_in = self.input_tokens["audio"]
        image_in = self.input_tokens["image"]
        total_in = text_in + audio_in + image_in
        total_out, text_out, audio_out = self._output_tokens()
        return {
            "total_tokens": total_in + total_out,
            "input_tokens": total_in,
            "output_tokens": total_out,
            "input_token_details": {
                "text_tokens": text_in,
                "audio_tokens": audio_in,
                "image_tokens": image_in,
                "cached_tokens": 0,
                "cached_tokens_details": {
                    "text_tokens": 0,
                    "audio_tokens": 0,
                    "image_tokens": 0,
                },
            },
            "output_token_details": {"text_tokens": text_out, "audio_tokens": audio_out},
        }


def count_input_tokens(items: Sequence[Item], settings: Mapping[str, Any]) -> dict[str, int]:
    """Roughly what the service would count: four letters, or 100 ms of a user's sound, each."""
    letters = len(settings["instructions"]) + len(str(settings["tools"]))
    audio = image = 0
    for item in items:
        letters += len(str(item.shown.get("output", ""))) + len(
            str(item.shown.get("arguments", ""))
        )
        letters += len(item.text())
        audio += -(-item.sound_ms // 100)
        image += sum(255 for part in item.shown.get("content", ()) if "image_url" in part)
    return {"text": -(-letters // 4), "audio": audio, "image": image}
