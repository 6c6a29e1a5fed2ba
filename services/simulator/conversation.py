"""The conversation of one client with a GA server, as a pure machine.

Client events, steps of an answer, and what the ears found go in; effects come out, in order. There
is no clock, no chance and no I/O: time arrives as an argument, ids are counters after a prefix.

         session.update ─┐                     ┌─ Send(server event)
   conversation.item.* ──┤                     ├─ Listen, Feed, Hear      → the ears
   input_audio_buffer.* ─┼──►  Conversation ───┼─ Answer, StopAnswering   → the performer
            response.* ──┤                     └─ Close                   → the socket
   steps, heard, clock ──┘
"""

import base64
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from voicebus.services.simulator import configuration, sounds
from voicebus.services.simulator.events import checked, client_event_id, decoded_audio
from voicebus.services.simulator.items import Item, Items, shown
from voicebus.services.simulator.responses import Response, count_input_tokens
from voicebus.services.simulator.shapes import Refused
from voicebus.services.simulator.steps import (
    Answer,
    Close,
    Effect,
    Feed,
    Hear,
    Listen,
    Question,
    Send,
    Step,
    StopAnswering,
)

SHORTEST_COMMIT_MS = 100
LONGEST_BUFFER_MS = 30 * 60 * 1000
KEPT_BEFORE_SPEECH_MS = 6000
"""While nobody speaks, this much is kept: the longest prefix padding and the ears' delay."""


class Conversation:
    """One session. Every method returns the effects it caused, in order."""

    def __init__(
        self,
        prefix: str,
        model: str = "gpt-realtime",
        *,
        expires_at: int = 0,
        is_transcription: bool = False,
    ) -> None:
        self._prefix = prefix
        self._counts: dict[str, int] = {}
        self._effects: list[Effect] = []
        self._items = Items()
        self._responses: dict[str, Response] = {}
        self._active: Response | None = None
        self._has_spoken = False
        self._conversation_id = self._new_id("conv")
        self.session = (
            configuration.transcription_defaults()
            if is_transcription
            else configuration.defaults(model)
        )
        self.session["id"] = self._new_id("sess")
        self.session["expires_at"] = expires_at
        # The input buffer: what was appended and not yet committed.
        self._buffer = bytearray()
        self._buffer_from_ms = 0.0
        self._speech_item_id: str | None = None
        self._speech_from_ms = 0
        # What an idle timeout needs: until when the last answer plays, on our clock.
        self._idle_from_s: float | None = None
        self._now_s = 0.0

    # What happens

    def opened(self) -> list[Effect]:
        """The client is connected."""
        self._emit("session.created", session=deepcopy(self.session))
        self._effects.append(self._listen())
        return self._taken()

    def client_says(self, event: Any, at_s: float = 0.0) -> list[Effect]:
        """The client sent a frame that holds this JSON value. Raises nothing."""
        self._now_s = at_s
        try:
            self._client_says(checked(event))
        except Refused as refused:
            self._refuse(refused, client_event_id(event))
        return self._taken()

    def client_babbles(self, why: str) -> list[Effect]:
        """The client sent a frame that holds no JSON."""
        self._refuse(Refused("invalid_json", why), None)
        return self._taken()

    def speech_began(self, at_ms: int, at_s: float = 0.0) -> list[Effect]:
        """The ears found speech; `at_ms` is where it began on the stream clock, padding apart."""
        self._now_s = at_s
        detection = self._detection
        if detection is None or self._speech_item_id is not None:
            return self._taken()
        padding = detection.get("prefix_padding_ms", 300)
        self._idle_from_s = None
        self._speech_item_id = self._new_id("item")
        self._speech_from_ms = max(0, round(self._buffer_from_ms), at_ms - padding)
        self._emit(
            "input_audio_buffer.speech_started",
            audio_start_ms=self._speech_from_ms,
            item_id=self._speech_item_id,
        )
        if detection.get("interrupt_response") and self._active is not None:
            self._end(self._active, "cancelled", "turn_detected")
        return self._taken()

    def speech_ended(self, at_ms: int, at_s: float = 0.0) -> list[Effect]:
        """The ears found the end of speech; `at_ms` includes the silence that proved it."""
        self._now_s = at_s
        if self._detection is None or self._speech_item_id is None:
            return self._taken()
        self._emit(
            "input_audio_buffer.speech_stopped", audio_end_ms=at_ms, item_id=self._speech_item_id
        )
        rate = self._bytes_per_ms
        begin = int(self._speech_from_ms - self._buffer_from_ms) * rate
        end = int(at_ms - self._buffer_from_ms) * rate
        self._commit(bytes(self._buffer[max(0, begin) : max(0, end)]))
        self._cut_buffer(at_ms)
        if self._detection.get("create_response"):
            if self._active is None:
                self._create_response({})
            else:
                self._refuse(self._already_active(self._active), None)
        return self._taken()

    def heard(self, item_id: str, words: str | None, why_not: str = "") -> list[Effect]:
        """The ears found the words of an item's sound; None if they could not."""
        item = self._items.get(item_id)
        if item is not None and item.is_hearing:
            item.is_hearing = False
            item.spoken = words or ""
            self._emit_transcription(item, words, why_not)
        for response in list(self._responses.values()):
            if item_id in response.awaits:
                response.awaits.discard(item_id)
                for seen in response.context:
                    if seen.id == item_id:
                        seen.is_hearing, seen.spoken = False, words or ""
                if not response.awaits:
                    self._ask(response)
        return self._taken()

    def step(self, step: Step, at_s: float = 0.0) -> list[Effect]:
        """The performer has come a step further with an answer."""
        self._now_s = at_s
        response = self._responses.get(step.response_id)
        if response is not None:
            response.take(step)
            if response.has_spoken:
                self._has_spoken = True
            if response.status != "in_progress":
                self._ended(response)
        return self._taken()

    def is_answering(self, response_id: str) -> bool:
        """False once the response is over, by itself or cut short."""
        return response_id in self._responses

    def idle_deadline_s(self) -> float | None:
        """When `clock` should be called because nobody has spoken; None if never."""
        timeout = (self._detection or {}).get("idle_timeout_ms")
        if timeout is None or self._idle_from_s is None or self._active is not None:
            return None
        return self._idle_from_s + float(timeout) / 1000

    def clock(self, at_s: float) -> list[Effect]:
        """Time has passed: perhaps nobody has spoken for too long."""
        self._now_s = at_s
        deadline = self.idle_deadline_s()
        if deadline is not None and at_s >= deadline and self._speech_item_id is None:
            self._idle_from_s = None
            item_id = self._speech_item_id = self._new_id("item")
            end_ms = round(self._clock_ms)
            self._emit(
                "input_audio_buffer.timeout_triggered",
                audio_start_ms=round(self._buffer_from_ms),
                audio_end_ms=end_ms,
                item_id=item_id,
            )
            self._commit(bytes(self._buffer))
            self._cut_buffer(end_ms)
            if self._active is None:
                self._create_response({})
        return self._taken()

    def expire(self) -> list[Effect]:
        """The session has reached its longest duration."""
        minutes = configuration.LONGEST_SESSION_S // 60
        self._refuse(
            Refused(
                "session_expired",
                f"Your session hit the maximum duration of {minutes} minutes.",
            ),
            None,
        )
        self._effects.append(Close(1001, "session_expired"))
        return self._taken()

    def error(self, refused: Refused, event_id: str | None = None) -> list[Effect]:
        """Send an `error` event."""
        self._refuse(refused, event_id)
        return self._taken()

    def new_id(self, kind: str) -> str:
        """An id that this session has not used: `kind_prefixN`."""
        return self._new_id(kind)

    @property
    def ids(self) -> dict[str, str | None]:
        """The ids a script may want to name."""
        answers = [item.id for item in self._items if item.shown.get("role") == "assistant"]
        questions = [item.id for item in self._items if item.shown.get("role") == "user"]
        return {
            "session_id": str(self.session["id"]),
            "conversation_id": self._conversation_id,
            "response_id": self._active.id if self._active else self._last_response_id,
            "item_id": self._items.last_id,
            "assistant_item_id": answers[-1] if answers else None,
            "user_item_id": questions[-1] if questions else None,
        }

    # Client events

    def _client_says(self, event: dict[str, Any]) -> None:
        if self.session["type"] == "transcription" and event["type"].startswith(
            ("response.", "output_audio_buffer.")
        ):
            raise Refused(
                "invalid_value",
                f"'{event['type']}' is not available in a transcription session.",
                "type",
            )
        match event["type"]:
            case "session.update":
                self._update(event["session"])
            case "input_audio_buffer.append":
                self._append(decoded_audio(event["audio"]))
            case "input_audio_buffer.commit":
                self._commit_by_hand()
            case "input_audio_buffer.clear":
                self._cut_buffer(self._clock_ms)
                self._speech_item_id = None
                self._emit("input_audio_buffer.cleared")
                self._effects.append(self._listen())
            case "output_audio_buffer.clear":
                raise Refused(
                    "invalid_value",
                    "'output_audio_buffer.clear' is only for WebRTC and SIP: on a WebSocket the "
                    "client holds the sound. Send 'response.cancel' and "
                    "'conversation.item.truncate'.",
                    "type",
                )
            case "conversation.item.create":
                self._create_item(event["item"], event.get("previous_item_id"))
            case "conversation.item.retrieve":
                self._retrieve(event["item_id"])
            case "conversation.item.truncate":
                self._truncate(event["item_id"], event["content_index"], event["audio_end_ms"])
            case "conversation.item.delete":
                self._delete(event["item_id"])
            case "response.create":
                self._create_response(event.get("response") or {})
            case _:
                self._cancel(event.get("response_id"))

    def _update(self, change: Mapping[str, Any]) -> None:
        before = self.session
        self.session = configuration.updated(before, change, has_spoken=self._has_spoken)
        self._emit("session.updated", session=deepcopy(self.session))
        old, new = before["audio"]["input"], self.session["audio"]["input"]
        if old["format"] != new["format"]:
            self._buffer_from_ms += len(self._buffer) / sounds.bytes_per_ms(old["format"]["type"])
            self._buffer.clear()
            self._speech_item_id = None
        if old["format"] != new["format"] or old["turn_detection"] != new["turn_detection"]:
            if new["turn_detection"] is None:
                self._speech_item_id = None
            self._effects.append(self._listen())

    def _append(self, sound: bytes) -> None:
        longest = LONGEST_BUFFER_MS * self._bytes_per_ms
        if len(self._buffer) + len(sound) > longest:
            raise Refused(
                "input_audio_buffer_too_long",
                f"Error appending audio: the buffer holds at most {LONGEST_BUFFER_MS // 60000} "
                "minutes. Commit or clear it first.",
            )
        self._buffer += sound
        if self._detection is not None:
            if sound:
                self._effects.append(Feed(sound))
            if self._speech_item_id is None:
                surplus = self._clock_ms - self._buffer_from_ms - KEPT_BEFORE_SPEECH_MS
                # In steps, as cutting the front of the buffer copies the rest.
                if surplus > KEPT_BEFORE_SPEECH_MS:
                    self._cut_buffer(self._buffer_from_ms + int(surplus))

    def _commit_by_hand(self) -> None:
        length_ms = len(self._buffer) / self._bytes_per_ms
        if self._detection is not None and self._speech_item_id is None:
            length_ms = 0.0  # Under VAD only speech is ever in the buffer.
        if length_ms < SHORTEST_COMMIT_MS:
            raise Refused(
                "input_audio_buffer_commit_empty",
                "Error committing input audio buffer: buffer too small. Expected at least "
                f"{SHORTEST_COMMIT_MS}ms of audio, but buffer only has {length_ms:.2f}ms of audio.",
            )
        begin = 0
        if self._speech_item_id is not None:
            begin = int(self._speech_from_ms - self._buffer_from_ms) * self._bytes_per_ms
        self._commit(bytes(self._buffer[max(0, begin) :]))
        self._cut_buffer(self._clock_ms)
        if self._detection is not None:
            self._effects.append(self._listen())

    def _create_item(self, item: Mapping[str, Any], previous_id: str | None) -> None:
        if previous_id not in (None, "root") and previous_id not in self._items:
            raise Refused(
                "item_create_invalid_previous_item_id",
                f"Error adding item: the previous item with id '{previous_id}' does not exist.",
                "previous_item_id",
            )
        item_id = item.get("id") or self._new_id("item")
        if item_id in self._items:
            raise Refused(
                "item_create_duplicate_item_id",
                f"Error adding item: an item with id '{item_id}' already exists in the "
                "conversation.",
                "item.id",
            )
        if item["type"] == "function_call_output" and not self._items.call_of(item["call_id"]):
            raise Refused(
                "invalid_tool_call_id",
                f"Tool call ID '{item['call_id']}' not found in conversation.",
                "item.call_id",
            )
        created = self._created_item(item, item_id, "item")
        self._add(created, previous_id)
        if created.is_hearing:
            self._hear(created)

    def _retrieve(self, item_id: str) -> None:
        item = self._items.get(item_id)
        if item is None:
            raise Refused(
                "item_retrieve_invalid_item_id",
                f"Error retrieving item: the item with id '{item_id}' does not exist.",
                "item_id",
            )
        retrieved = item.copy()
        for part in retrieved.get("content", ()):
            if part["type"] in ("input_audio", "output_audio"):
                part["audio"] = base64.b64encode(item.sound).decode("ascii")
        self._emit("conversation.item.retrieved", item=retrieved)

    def _truncate(self, item_id: str, content_index: int, end_ms: int) -> None:
        item = self._items.get(item_id)
        if item is None:
            raise Refused(
                "item_truncate_invalid_item_id",
                f"Error truncating item: the item with id '{item_id}' does not exist.",
                "item_id",
            )
        if item.audio_index is None or not item.sound:
            raise Refused(
                "unsupported_content_type",
                "Only model output audio messages can be truncated",
                "item_id",
            )
        if content_index != item.audio_index:
            raise Refused(
                "invalid_value",
                f"Invalid 'content_index': item '{item_id}' has no audio at {content_index}.",
                "content_index",
            )
        if end_ms > item.sound_ms:
            raise Refused(
                "invalid_value",
                f"Audio content of {item.sound_ms}ms is already shorter than {end_ms}ms",
                "audio_end_ms",
            )
        del item.sound[end_ms * item.bytes_per_ms :]
        item.shown["content"][item.audio_index].pop("transcript", None)
        self._emit(
            "conversation.item.truncated",
            item_id=item_id,
            content_index=content_index,
            audio_end_ms=end_ms,
        )

    def _delete(self, item_id: str) -> None:
        if item_id not in self._items:
            raise Refused(
                "item_delete_invalid_item_id",
                f"Error deleting item: the item with id '{item_id}' does not exist.",
                "item_id",
            )
        self._items.remove(item_id)
        self._emit("conversation.item.deleted", item_id=item_id)

    def _cancel(self, response_id: str | None) -> None:
        response = self._responses.get(response_id) if response_id else self._active
        if response is None:
            raise Refused(
                "response_cancel_not_active",
                "Cancellation failed: no active response found",
                "response_id" if response_id else None,
            )
        self._end(response, "cancelled", "client_cancelled")

    # Responses

    _last_response_id: str | None = None

    def _create_response(self, wanted: Mapping[str, Any]) -> None:
        is_out_of_band = wanted.get("conversation") == "none"
        if not is_out_of_band and self._active is not None:
            raise self._already_active(self._active)
        settings = self._response_settings(wanted)
        given = wanted.get("input")
        context = list(self._items) if given is None else self._context(given)
        self._idle_from_s = None
        response = Response(
            id=self._new_id("resp"),
            settings=settings,
            is_out_of_band=is_out_of_band,
            metadata=wanted.get("metadata"),
            emit=self._emit,
            items=self._items if not is_out_of_band else Items(),
            new_id=self._new_id,
            conversation_id=None if is_out_of_band else self._conversation_id,
            input_tokens=count_input_tokens(context, settings),
            context=context,
        )
        self._responses[response.id] = response
        self._last_response_id = response.id
        if not is_out_of_band:
            self._active = response
        self._emit("response.created", response=response.shown())
        response.awaits = {item.id for item in context if item.is_hearing}
        if not response.awaits:
            self._ask(response)

    def _response_settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        settings = deepcopy(self.session)
        if not configuration.is_reasoning(settings["model"]):
            for name in ("reasoning", "parallel_tool_calls"):
                if name in wanted:
                    raise Refused(
                        "invalid_value",
                        f"Unsupported parameter: 'response.{name}' is not supported with model "
                        f"'{settings['model']}'.",
                        f"response.{name}",
                    )
        for name, value in wanted.items():
            if name == "audio":
                settings["audio"]["output"].update(deepcopy(value.get("output") or {}))
            elif name not in ("conversation", "metadata", "input"):
                settings[name] = deepcopy(value)
        if "tools" in wanted or "tool_choice" in wanted:
            configuration.check_tool_names(settings["tools"], "response.tools")
            configuration.check_tool_choice(
                settings["tool_choice"], settings["tools"], "response.tool_choice"
            )
        return settings

    def _context(self, given: list[Mapping[str, Any]]) -> list[Item]:
        context = []
        for n, wanted in enumerate(given):
            if wanted.get("type") == "item_reference":
                item = self._items.get(wanted["id"])
                if item is None:
                    raise Refused(
                        "invalid_value",
                        f"Item with ID '{wanted['id']}' not found in conversation.",
                        f"response.input[{n}].id",
                    )
                context.append(item)
            else:
                item_id = wanted.get("id") or self._new_id("item")
                created = self._created_item(wanted, item_id, f"response.input[{n}]")
                context.append(created)
                if created.is_hearing:
                    self._hear(created)
        return context

    def _ask(self, response: Response) -> None:
        """Everything the answer depends on is known."""
        history = []
        for item in response.context:
            seen = item.copy()
            seen["heard"] = item.text() if item.type == "message" else ""
            history.append(seen)
        settings = response.settings
        self._effects.append(
            Answer(
                Question(
                    response_id=response.id,
                    history=history,
                    tools=settings["tools"],
                    tool_choice=settings["tool_choice"],
                    instructions=settings["instructions"],
                    speaks=response.speaks,
                    audio_type=response.audio_type,
                    speed=settings["audio"]["output"].get("speed", 1.0),
                    metadata=response.metadata,
                    is_out_of_band=response.is_out_of_band,
                )
            )
        )

    def _end(self, response: Response, status: str, reason: str) -> None:
        response.end(status, reason)
        self._ended(response)

    def _ended(self, response: Response) -> None:
        del self._responses[response.id]
        self._effects.append(StopAnswering(response.id))
        if self._active is response:
            self._active = None
            self._idle_from_s = self._now_s + response.sound_ms / 1000
        self._emit("rate_limits.updated", rate_limits=self._rate_limits(response))

    def _already_active(self, response: Response) -> Refused:
        return Refused(
            "conversation_already_has_active_response",
            f"Conversation already has an active response in progress: {response.id}. Wait until "
            "the response is finished before creating a new one.",
        )

    _tokens_left = 40000

    def _rate_limits(self, response: Response) -> list[dict[str, Any]]:
        used = (response.usage or {}).get("total_tokens", 0)
        self._tokens_left = max(0, self._tokens_left - used) or 40000
        return [
            {
                "name": "tokens",
                "limit": 40000,
                "remaining": self._tokens_left,
                "reset_seconds": round((40000 - self._tokens_left) * 60 / 40000, 3),
            }
        ]

    # The input buffer and the user's sound

    @property
    def _detection(self) -> Mapping[str, Any] | None:
        detection = self.session["audio"]["input"]["turn_detection"]
        return detection if isinstance(detection, Mapping) else None

    @property
    def _input_type(self) -> str:
        return str(self.session["audio"]["input"]["format"]["type"])

    @property
    def _bytes_per_ms(self) -> int:
        return sounds.bytes_per_ms(self._input_type)

    @property
    def _clock_ms(self) -> float:
        """The stream clock: all sound appended so far."""
        return self._buffer_from_ms + len(self._buffer) / self._bytes_per_ms

    def _listen(self) -> Listen:
        return Listen(self._detection, self._input_type, round(self._clock_ms))

    def _cut_buffer(self, to_ms: float) -> None:
        count = min(len(self._buffer), int((to_ms - self._buffer_from_ms) * self._bytes_per_ms))
        count -= count % 2
        if count > 0:
            del self._buffer[:count]
            self._buffer_from_ms += count / self._bytes_per_ms

    def _commit(self, sound: bytes) -> None:
        item_id = self._speech_item_id or self._new_id("item")
        self._speech_item_id = None
        self._emit(
            "input_audio_buffer.committed",
            previous_item_id=self._items.last_id,
            item_id=item_id,
        )
        item = Item(
            {
                "id": item_id,
                "object": "realtime.item",
                "type": "message",
                "status": "completed",
                "role": "user",
                "content": [{"type": "input_audio", "transcript": None}],
            },
            sound=bytearray(sound),
            bytes_per_ms=self._bytes_per_ms,
            is_hearing=True,
        )
        self._add(item, None)
        self._hear(item)

    def _created_item(self, item: Mapping[str, Any], item_id: str, path: str) -> Item:
        kept = shown(item, item_id)
        if item["type"] == "function_call" and "call_id" not in kept:
            kept["call_id"] = self._new_id("call")
        sound = bytearray()
        for n, part in enumerate(item.get("content", ())):
            if part["type"] == "input_audio":
                sound += decoded_audio(part["audio"], f"{path}.content[{n}].audio")
        return Item(kept, sound, self._bytes_per_ms, is_hearing=bool(sound))

    def _hear(self, item: Item) -> None:
        self._effects.append(Hear(item.id, bytes(item.sound), self._input_type))

    def _emit_transcription(self, item: Item, words: str | None, why_not: str) -> None:
        wanted = self.session["audio"]["input"]["transcription"]
        if wanted is None:
            return
        kind = "conversation.item.input_audio_transcription"
        index = next(
            (n for n, part in enumerate(item.shown["content"]) if part["type"] == "input_audio"), 0
        )
        if words is None:
            self._emit(
                f"{kind}.failed",
                item_id=item.id,
                content_index=index,
                error={
                    "type": "transcription_error",
                    "code": "audio_unintelligible",
                    "message": why_not or "The audio could not be transcribed.",
                    "param": None,
                },
            )
            return
        item.shown["content"][index]["transcript"] = words
        for n, word in enumerate(words.split()):
            self._emit(
                f"{kind}.delta",
                item_id=item.id,
                content_index=index,
                delta=word if n == 0 else f" {word}",
            )
        self._emit(
            f"{kind}.completed",
            item_id=item.id,
            content_index=index,
            transcript=words,
            usage=self._transcription_usage(item, words, wanted.get("model")),
        )

    def _transcription_usage(self, item: Item, words: str, model: str | None) -> dict[str, Any]:
        if model in (None, "whisper-1"):
            return {"type": "duration", "seconds": item.sound_ms / 1000}
        audio, text = -(-item.sound_ms // 100), -(-len(words) // 4)
        return {
            "type": "tokens",
            "total_tokens": audio + text,
            "input_tokens": audio,
            "output_tokens": text,
            "input_token_details": {"text_tokens": 0, "audio_tokens": audio},
        }

    # Odds and ends

    def _add(self, item: Item, previous_id: str | None) -> None:
        self._items.insert(item, previous_id)
        for kind in ("added", "done"):
            self._emit(
                f"conversation.item.{kind}",
                previous_item_id=self._items.previous_id(item),
                item=item.copy(),
            )

    def _refuse(self, refused: Refused, event_id: str | None) -> None:
        self._emit(
            "error",
            error={
                "type": refused.kind,
                "code": refused.code,
                "message": refused.message,
                "param": refused.param,
                "event_id": event_id,
            },
        )

    def _emit(self, kind: str, **fields: Any) -> None:
        self._effects.append(Send({"type": kind, "event_id": self._new_id("event"), **fields}))

    def _new_id(self, kind: str) -> str:
        number = self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{kind}_{self._prefix}{number:06d}"

    def _taken(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects
