"""OpenAI Realtime, GA dialect (and its beta names, which near relatives still send).

Source of the wire facts: the `openai` package's `types/realtime` and OpenAI's realtime guides.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.bus.messages.events import Usage
from voicebus.bus.messages.work import ToolSpec
from voicebus.services.session.configuration import check, own_tools
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.capabilities import Capabilities

Frame = dict[str, Any]

FORMATS: dict[str, dict[str, Any]] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
DEFAULT_TRANSCRIPTION = {"model": "gpt-4o-mini-transcribe"}

BENIGN = frozenset(
    {
        "response_cancel_not_active",
        "input_audio_buffer_commit_empty",
        "item_truncate_invalid_item_id",
        "item_delete_invalid_item_id",
        "item_retrieve_invalid_item_id",
        "unsupported_content_type",
    }
)
"""Races that do no harm: what was to be stopped, cut or deleted is already gone."""
MODELS = frozenset({"model_not_found", "invalid_model"})
FATAL = MODELS | frozenset(
    {
        "insufficient_quota",
        "invalid_api_key",
        "account_deactivated",
        "billing_hard_limit_reached",
        "beta_api_shape_disabled",
    }
)
"""What no repetition helps against."""
MAX_ID = 32
RATE_LIMITS = frozenset({"rate_limit_exceeded", "inference_rate_limit_exceeded"})


# --- from the provider ------------------------------------------------------------------------


def _text(frame: Mapping[str, Any], key: str) -> str:
    value = frame.get(key)
    return value if isinstance(value, str) else ""


def _maybe(frame: Mapping[str, Any], key: str) -> str | None:
    value = frame.get(key)
    return value if isinstance(value, str) and value else None


def _number(frame: Mapping[str, Any], key: str) -> int:
    value = frame.get(key)
    return int(value) if isinstance(value, int | float) and abs(value) < 2**53 else 0


def _table(frame: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = frame.get(key)
    return value if isinstance(value, dict) else {}


def _list(frame: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = frame.get(key)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _item(raw: Mapping[str, Any]) -> i.Item:
    words = [part.get("text") or part.get("transcript") for part in _list(raw, "content")]
    return i.Item(
        item_id=_text(raw, "id"),
        type=_text(raw, "type"),
        role=_maybe(raw, "role"),
        status=_maybe(raw, "status"),
        call_id=_maybe(raw, "call_id"),
        name=_maybe(raw, "name"),
        arguments=raw["arguments"] if isinstance(raw.get("arguments"), str) else None,
        text=" ".join(word for word in words if isinstance(word, str)) or None,
    )


def _session_created(frame: Frame, now_us: int) -> i.AnyInput:
    session = _table(frame, "session")
    return i.ProviderSessionCreated(
        now_us=now_us,
        provider_session_id=_maybe(session, "id"),
        model=_maybe(session, "model"),
        expires_at=_number(session, "expires_at") or None,
    )


def _session_updated(frame: Frame, now_us: int) -> i.AnyInput:
    session = _table(frame, "session")
    return i.ProviderSessionUpdated(
        now_us=now_us,
        event_id=_maybe(frame, "event_id"),
        session=session,
        provider_session_id=_maybe(session, "id"),
        model=_maybe(session, "model"),
        expires_at=_number(session, "expires_at") or None,
    )


def _speech_started(frame: Frame, now_us: int) -> i.AnyInput:
    return i.SpeechStarted(
        now_us=now_us, at_ms=_number(frame, "audio_start_ms"), item_id=_maybe(frame, "item_id")
    )


def _speech_stopped(frame: Frame, now_us: int) -> i.AnyInput:
    return i.SpeechStopped(
        now_us=now_us, at_ms=_number(frame, "audio_end_ms"), item_id=_maybe(frame, "item_id")
    )


def _committed(frame: Frame, now_us: int) -> i.AnyInput:
    return i.InputCommitted(
        now_us=now_us,
        item_id=_text(frame, "item_id"),
        previous_item_id=_maybe(frame, "previous_item_id"),
    )


def _user_words(final: bool) -> Callable[[Frame, int], i.AnyInput]:
    def read(frame: Frame, now_us: int) -> i.AnyInput:
        return i.UserWords(
            now_us=now_us,
            item_id=_text(frame, "item_id"),
            text=_text(frame, "transcript" if final else "delta"),
            final=final,
            usage=(_table(frame, "usage") or None) if final else None,
        )

    return read


def _user_words_failed(frame: Frame, now_us: int) -> i.AnyInput:
    message = _text(_table(frame, "error"), "message")
    return i.UserWordsFailed(
        now_us=now_us,
        item_id=_text(frame, "item_id"),
        message=message or "the provider could not transcribe what was said",
    )


def _item_added(done: bool) -> Callable[[Frame, int], i.AnyInput]:
    def read(frame: Frame, now_us: int) -> i.AnyInput:
        return i.ItemAdded(
            now_us=now_us,
            item=_item(_table(frame, "item")),
            previous_item_id=_maybe(frame, "previous_item_id"),
            done=done,
        )

    return read


def _item_deleted(frame: Frame, now_us: int) -> i.AnyInput:
    return i.ItemDeleted(now_us=now_us, item_id=_text(frame, "item_id"))


def _out_of_band(response: Mapping[str, Any]) -> bool:
    # Without a conversation id at all it is a relative that has only the default conversation.
    return "conversation_id" in response and response["conversation_id"] is None


def _response_started(frame: Frame, now_us: int) -> i.AnyInput:
    response = _table(frame, "response")
    return i.ResponseStarted(
        now_us=now_us,
        response_id=_text(response, "id"),
        tag=_maybe(_table(response, "metadata"), fx.TAG),
        out_of_band=_out_of_band(response),
    )


def _output_item_added(frame: Frame, now_us: int) -> i.AnyInput:
    return i.OutputItemAdded(
        now_us=now_us,
        response_id=_text(frame, "response_id"),
        output_index=_number(frame, "output_index"),
        item=_item(_table(frame, "item")),
    )


def _output_item_done(frame: Frame, now_us: int) -> i.AnyInput:
    return i.OutputItemDone(
        now_us=now_us,
        response_id=_text(frame, "response_id"),
        output_index=_number(frame, "output_index"),
        item=_item(_table(frame, "item")),
    )


def _assistant_words(key: str, *, spoken: bool) -> Callable[[Frame, int], i.AnyInput]:
    def read(frame: Frame, now_us: int) -> i.AnyInput:
        return i.AssistantWords(
            now_us=now_us,
            response_id=_text(frame, "response_id"),
            item_id=_text(frame, "item_id"),
            content_index=_number(frame, "content_index"),
            text=_text(frame, key),
            final=key != "delta",
            spoken=spoken,
        )

    return read


def _arguments(frame: Frame, now_us: int) -> i.AnyInput:
    return i.ArgumentsWords(
        now_us=now_us,
        response_id=_text(frame, "response_id"),
        item_id=_text(frame, "item_id"),
        call_id=_text(frame, "call_id"),
        delta=_text(frame, "delta"),
    )


def _sound_done(frame: Frame, now_us: int) -> i.AnyInput:
    return i.SoundDone(
        now_us=now_us,
        response_id=_text(frame, "response_id"),
        item_id=_text(frame, "item_id"),
        content_index=_number(frame, "content_index"),
    )


def _usage(raw: Any) -> Usage | None:
    if not isinstance(raw, dict):
        return None
    details = {
        key: raw[key]
        for key in ("input_token_details", "output_token_details")
        if isinstance(raw.get(key), dict)
    }
    return Usage(
        prompt_tokens=_number(raw, "input_tokens"),
        completion_tokens=_number(raw, "output_tokens"),
        total_tokens=_number(raw, "total_tokens"),
        extras=details,
    )


def _response_done(frame: Frame, now_us: int) -> i.AnyInput:
    response = _table(frame, "response")
    status = response.get("status")
    # Some servers send the details as a bare string.
    raw = response.get("status_details")
    details = raw if isinstance(raw, dict) else {"reason": raw if isinstance(raw, str) else None}
    error = _table(details, "error") or None
    code = _text(error or {}, "code") or _text(error or {}, "type")
    return i.ResponseDone(
        now_us=now_us,
        response_id=_text(response, "id"),
        status=status if status in ("completed", "cancelled", "incomplete", "failed") else "failed",
        reason=_maybe(details, "reason"),
        error=error,
        usage=_usage(response.get("usage")),
        output=[_item(one) for one in _list(response, "output")],
        rate_limited=code in RATE_LIMITS,
        retry_after_ms=_retry_after_ms(_text(error or {}, "message")),
        out_of_band=_out_of_band(response),
        tag=_maybe(_table(response, "metadata"), fx.TAG),
        fatal=code in FATAL,
    )


_HINT = re.compile(r"try again in (?:(\d{1,4})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)(m?s))?")


def _retry_after_ms(message: str) -> int | None:
    """The hint in "… Please try again in 1.5s.", 20ms or 1m12.5s; at most a minute is waited."""
    found = _HINT.search(message)
    if found is None or not any(found.groups()):
        return None
    minutes, number, unit = found.groups()
    ms = float(number or 0) * (1 if unit == "ms" else 1000) + int(minutes or 0) * 60_000
    return max(1, min(60_000, int(ms)))


def _rate_limits(frame: Frame, now_us: int) -> i.AnyInput:
    return i.LimitsTold(now_us=now_us, limits=_list(frame, "rate_limits"))


def error(frame: Frame, now_us: int) -> i.ProviderRefused:
    """What the provider refuses, by its code; where there is none, by its type."""
    error = _table(frame, "error")
    code = _maybe(error, "code") or _maybe(error, "type") or "provider_error"
    message = _text(error, "message") or code
    meaning: Any = "other"
    if code == "conversation_already_has_active_response":
        meaning = "already_active"
    elif code in BENIGN:
        meaning = "benign"
    elif code in MODELS and _text(error, "param").startswith("session.audio"):
        meaning = "other"  # the model that writes down what is said, not the one that answers
    elif code in FATAL or _text(error, "type") in FATAL:
        meaning = "fatal"
    elif code == "session_expired":
        meaning = "expired"
    return i.ProviderRefused(
        now_us=now_us,
        code=code,
        message=message,
        event_id=_maybe(error, "event_id"),
        meaning=meaning,
        about=_about(code, _text(error, "param")),
        details={key: error[key] for key in ("type", "param") if error.get(key) is not None},
        rate_limited=code in RATE_LIMITS,
        retry_after_ms=_retry_after_ms(message) if code in RATE_LIMITS else None,
    )


def _about(code: str, param: str) -> Literal["configuration", "response"] | None:
    """What an error refuses that names none of our requests."""
    if param.startswith("session") or code == "cannot_update_voice":
        return "configuration"
    if param.startswith("response") or code == "bad_response_create":
        return "response"
    return None


_TRANSCRIPTION = "conversation.item.input_audio_transcription"
READERS: dict[str, Callable[[Frame, int], i.AnyInput]] = {
    "session.created": _session_created,
    "session.updated": _session_updated,
    "input_audio_buffer.speech_started": _speech_started,
    "input_audio_buffer.speech_stopped": _speech_stopped,
    "input_audio_buffer.committed": _committed,
    f"{_TRANSCRIPTION}.delta": _user_words(final=False),
    f"{_TRANSCRIPTION}.completed": _user_words(final=True),
    f"{_TRANSCRIPTION}.failed": _user_words_failed,
    "conversation.item.added": _item_added(done=False),
    "conversation.item.created": _item_added(done=True),
    "conversation.item.done": _item_added(done=True),
    "conversation.item.deleted": _item_deleted,
    "response.created": _response_started,
    "response.output_item.added": _output_item_added,
    "response.output_item.done": _output_item_done,
    "response.output_text.delta": _assistant_words("delta", spoken=False),
    "response.output_text.done": _assistant_words("text", spoken=False),
    "response.output_audio_transcript.delta": _assistant_words("delta", spoken=True),
    "response.output_audio_transcript.done": _assistant_words("transcript", spoken=True),
    "response.output_audio.done": _sound_done,
    "response.function_call_arguments.delta": _arguments,
    "response.done": _response_done,
    "rate_limits.updated": _rate_limits,
    "error": error,
}
for _beta, _ga in (
    ("response.text.delta", "response.output_text.delta"),
    ("response.text.done", "response.output_text.done"),
    ("response.audio_transcript.delta", "response.output_audio_transcript.delta"),
    ("response.audio_transcript.done", "response.output_audio_transcript.done"),
    ("response.audio.done", "response.output_audio.done"),
    ("transcription_session.created", "session.created"),
    ("transcription_session.updated", "session.updated"),
):
    READERS[_beta] = READERS[_ga]
QUIET = frozenset(
    {
        "conversation.created",
        "conversation.item.retrieved",
        "conversation.item.truncated",
        f"{_TRANSCRIPTION}.segment",
        "input_audio_buffer.cleared",
        "input_audio_buffer.dtmf_event_received",
        "input_audio_buffer.timeout_triggered",
        "output_audio_buffer.cleared",
        "output_audio_buffer.started",
        "output_audio_buffer.stopped",
        "response.content_part.added",
        "response.content_part.done",
        "response.function_call_arguments.done",
        "response.output_audio.delta",
        "response.audio.delta",
        "mcp_list_tools.completed",
        "mcp_list_tools.failed",
        "mcp_list_tools.in_progress",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "response.mcp_call.in_progress",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
    }
)
"""They repeat what other frames say, or tell of what the provider does by itself."""


# --- to the provider --------------------------------------------------------------------------


def build_session_update(
    config: SessionConfig | Mapping[str, Any],
    tools: Sequence[ToolSpec] | None = None,
    only: Sequence[str] | None = None,
    *,
    transcription: Mapping[str, Any] = DEFAULT_TRANSCRIPTION,
) -> Frame:
    """The GA `session.update` frame for a configuration, or for just some of its fields.

    `provider_extras` are merged deeply, so that a nested extra does not wipe its neighbours. A
    mapping is checked as `open` does: raises BadMessage with the nearest name for an unknown field.
    Without `tools` they are the whole schemas that the configuration holds.
    """
    if not isinstance(config, SessionConfig):
        config = check(config).config
    if tools is None:
        tools = own_tools(config)
    wanted = _Wanted(None if only is None else frozenset(only))
    session: Frame = {"type": config.session_type}
    given: Frame = {}
    if wanted.at_open():
        given["format"] = FORMATS[config.input_audio_format]
    if wanted("turn_detection"):
        given["turn_detection"] = _turn_detection(config)
    if wanted("input_audio_transcription"):
        chosen = config.input_audio_transcription
        given["transcription"] = (
            None if chosen is False else dict(transcription) if chosen is None else chosen
        )
    if wanted("noise_reduction", config.noise_reduction):
        kind = config.noise_reduction
        given["noise_reduction"] = None if kind is None else {"type": kind}
    if wanted("include", config.include):
        session["include"] = list(config.include)
    taken = _answers(config, tools, session, wanted) if config.session_type == "realtime" else {}
    audio = {key: part for key, part in (("input", given), ("output", taken)) if part}
    if audio:
        session["audio"] = audio
    if wanted("provider_extras", config.provider_extras):
        session = merge(session, config.provider_extras)
    return {"type": "session.update", "session": session}


class _Wanted:
    """Which fields go into an update: at the opening all that are set, later those that are named.

    A field that is named is sent also when it is unset: that is how it is cleared.
    """

    def __init__(self, named: frozenset[str] | None) -> None:
        self._named = named

    def at_open(self) -> bool:
        return self._named is None

    def __call__(self, field: str, value: Any = True) -> bool:
        if self._named is None:
            return value is not None and value != () and value != {}
        return field in self._named


def _answers(
    config: SessionConfig, tools: Sequence[ToolSpec], session: Frame, wanted: _Wanted
) -> Frame:
    """What only sessions with answers have. Fills `session`; returns the sound's part of it."""
    taken: Frame = {}
    if wanted.at_open():
        session["output_modalities"] = ["audio"] if "audio" in config.modalities else ["text"]
        taken["format"] = FORMATS[config.output_audio_format]
    if wanted("instructions", config.instructions):
        session["instructions"] = config.instructions or ""
    if wanted("voice", config.voice) and config.voice is not None:
        taken["voice"] = config.voice
    if wanted("speed", config.speed):
        taken["speed"] = 1.0 if config.speed is None else config.speed
    if wanted("tools"):
        session["tools"] = [_tool(spec) for spec in tools]
    if wanted("tool_choice"):
        session["tool_choice"] = _tool_choice(config.tool_choice)
    if wanted("max_response_output_tokens", config.max_response_output_tokens):
        session["max_output_tokens"] = config.max_response_output_tokens or "inf"
    for field in ("prompt", "tracing", "truncation", "reasoning", "parallel_tool_calls"):
        value = getattr(config, field)
        if wanted(field, value):
            session[field] = value
    return taken


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` over `base`, object by object; the last one wins for everything else."""
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both and isinstance(old, dict) else value
    return merged


def _turn_detection(config: SessionConfig) -> Frame | None:
    match config.turn_detection:
        case "none":
            return None
        case ServerVad() | SemanticVad() as vad:
            fields: Frame = msgspec.to_builtins(vad)
            if config.session_type == "transcription":
                # It never answers, so that it has nothing to create or to interrupt.
                fields = {key: fields[key] for key in fields if not key.endswith("_response")}
            return fields
        case name:
            return {"type": name}


def _tool(spec: ToolSpec) -> Frame:
    return {
        "type": "function",
        "name": spec.name,
        "description": spec.description,
        "parameters": spec.parameters,
    }


def _tool_choice(choice: str | dict[str, Any]) -> str | Frame:
    if isinstance(choice, str):
        return choice
    if choice.get("type") == "mcp":
        return choice
    return {"type": "function", "name": choice.get("name")}


def _item_create(item: Frame) -> Frame:
    return {"type": "conversation.item.create", "item": item}


def _item_id(item_id: str) -> Frame:
    # Longer ids are refused; then the provider chooses one.
    return {"id": item_id} if 0 < len(item_id) <= MAX_ID else {}


def _message(role: str, text: str) -> Frame:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def frame_of(request: fx.Request) -> Frame:
    """The frame that asks for it, without its id. Configurations are the translator's own."""
    match request:
        case fx.AddUserText(text):
            return _item_create(_message("user", text))
        case fx.AddContext(text):
            return _item_create(_message("system", text))
        case fx.AddItem(item):
            return _item_create(item)
        case fx.AddMessage(role, text, item_id):
            return _item_create({**_message(role, text), **_item_id(item_id)})
        case fx.AddCall(call_id, name, arguments, item_id):
            call = {"type": "function_call", "call_id": call_id, "name": name}
            return _item_create({**call, "arguments": arguments, **_item_id(item_id)})
        case fx.AddOutput(call_id, output):
            return _item_create(
                {"type": "function_call_output", "call_id": call_id, "output": output}
            )
        case fx.DeleteItem(item_id):
            return {"type": "conversation.item.delete", "item_id": item_id}
        case fx.TruncateItem(item_id, content_index, heard_ms):
            return {
                "type": "conversation.item.truncate",
                "item_id": item_id,
                "content_index": content_index,
                "audio_end_ms": heard_ms,
            }
        case fx.CommitInput():
            return {"type": "input_audio_buffer.commit"}
        case fx.ClearInput():
            return {"type": "input_audio_buffer.clear"}
        case fx.CreateResponse(tag, overrides, tool_choice):
            response = dict(overrides)
            if tool_choice is not None:
                response["tool_choice"] = tool_choice
            response["metadata"] = {**(response.get("metadata") or {}), fx.TAG: tag}
            return {"type": "response.create", "response": response}
        case fx.CancelResponse(response_id):
            return {"type": "response.cancel", "response_id": response_id}
        case _:
            raise TypeError(f"no frame for {type(request).__name__}")


PLACED_BY_ITEM = (i.UserWords, i.UserWordsFailed, i.ItemDeleted, i.InputCommitted)


def placeable(found: i.AnyInput) -> list[i.AnyInput]:
    """Without its response nothing of it can be placed; an item without an id is nobody's."""
    if getattr(found, "response_id", "?") == "":
        return []
    if isinstance(found, PLACED_BY_ITEM) and not found.item_id:
        return []
    return [found]


class OpenAI:
    """The translator."""

    name = "openai"
    default_model = "gpt-realtime"
    capabilities = Capabilities(longest_session_s=3600.0)
    quiet = QUIET

    def read(self, frame: Frame, now_us: int) -> list[i.AnyInput]:
        """What a frame means to us; nothing for what we do not know."""
        kind = frame.get("type")
        reader = READERS.get(kind) if isinstance(kind, str) else None
        return [] if reader is None else placeable(reader(frame, now_us))

    def write(self, event_id: str, request: fx.Request) -> Frame:
        """The frame that asks for it."""
        match request:
            case fx.Configure(config, tools, only):
                frame = self.configure(config, tools, only)
            case fx.AddUserText() | fx.AddItem():
                frame = frame_of(request)
                # Known under an id of ours, it can be told again before it was ever announced.
                frame = {**frame, "item": {**_item_id(event_id), **frame["item"]}}
            case _:
                frame = frame_of(request)
        return {**frame, "event_id": event_id}

    def configure(
        self, config: SessionConfig, tools: Sequence[ToolSpec], only: Sequence[str] | None
    ) -> Frame:
        """The frame that sets the session up, or changes these fields of it."""
        return build_session_update(config, tools, only)
