"""The session's configuration: its defaults, what may be set, and how an update is merged."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from voicebus.services.simulator import shapes
from voicebus.services.simulator.shapes import (
    ByType,
    Fields,
    ListOf,
    Nullable,
    Number,
    OneOf,
    Refused,
    Text,
    Variant,
    anything,
    boolean,
    mapping,
)

DEFAULT_INSTRUCTIONS = (
    "Your knowledge cutoff is 2023-10. You are a helpful, witty, and friendly AI. Act like a "
    "human, but remember that you aren't a human and that you can't do human things in the real "
    "world. Your voice and personality should be warm and engaging, with a lively and playful "
    "tone. Talk quickly. You should always call a function if you can."
)
VOICES = (
    "alloy",
    "ash",
    "ballad",
    "coral",
    "echo",
    "sage",
    "shimmer",
    "verse",
    "marin",
    "cedar",
)
TRANSCRIBERS = (
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize",
    "gpt-transcribe",
    "gpt-live-transcribe",
    "gpt-realtime-whisper",
)
LONGEST_DESCRIPTION = 1024
LONGEST_SESSION_S = 3600


def defaults(model: str) -> dict[str, Any]:
    """The configuration of a realtime session nobody has configured yet."""
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": "",
        "model": model,
        "output_modalities": ["audio"],
        "instructions": DEFAULT_INSTRUCTIONS,
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "expires_at": 0,
        "include": None,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": dict(_SERVER_VAD),
            },
            "output": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "voice": "alloy",
                "speed": 1.0,
            },
        },
    }


def transcription_defaults() -> dict[str, Any]:
    """The configuration of a transcription session nobody has configured yet."""
    detection = {
        key: value
        for key, value in _SERVER_VAD.items()
        if key not in ("create_response", "interrupt_response", "idle_timeout_ms")
    }
    return {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": "",
        "expires_at": 0,
        "include": None,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": detection,
            }
        },
    }


def updated(
    current: Mapping[str, Any], change: Mapping[str, Any], *, has_spoken: bool
) -> dict[str, Any]:
    """The configuration after a `session.update`: only fields present change, all or nothing.

    Raises `Refused` with the dotted path of the first field that does not fit; the current
    configuration is never touched.
    """
    if "type" not in change:
        raise Refused(
            "missing_required_parameter",
            "Missing required parameter: 'session.type'.",
            "session.type",
        )
    _SESSION(change, "session")
    if change["type"] != current["type"]:
        raise Refused(
            "invalid_parameter",
            f"Passing a {change['type']} session update event to a {current['type']} session is "
            "not allowed.",
            "session.type",
        )
    if current["type"] == "realtime":
        _check_realtime(current, change, has_spoken=has_spoken)
    merged = deepcopy(dict(current))
    for key, value in change.items():
        if key == "audio" and isinstance(value, Mapping):
            _merge_audio(merged["audio"], value)
        elif key == "tools":
            merged[key] = deepcopy(value or [])
        else:
            merged[key] = deepcopy(value)
    return merged


def is_reasoning(model: str) -> bool:
    """True for models that accept `reasoning` and `parallel_tool_calls`."""
    return model.startswith("gpt-realtime-2") and not model.startswith("gpt-realtime-2025")


def check_tool_choice(choice: Any, tools: list[dict[str, Any]], path: str) -> None:
    """Raise `Refused` if the choice names a function the session does not have."""
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        names = [tool.get("name") for tool in tools]
        if choice.get("name") not in names:
            raise Refused(
                "invalid_value",
                f"Tool choice '{choice.get('name')}' not found in 'tools' parameter.",
                path,
            )


def check_tool_names(tools: list[dict[str, Any]], path: str) -> None:
    """Raise `Refused` if two functions share a name."""
    seen: set[str] = set()
    for n, tool in enumerate(tools):
        name = tool.get("name")
        if name is None:
            continue
        if name in seen:
            raise Refused(
                "invalid_value",
                f"Invalid '{path}[{n}].name': tool names must be unique, '{name}' is there twice.",
                f"{path}[{n}].name",
            )
        seen.add(name)


def _check_realtime(
    current: Mapping[str, Any], change: Mapping[str, Any], *, has_spoken: bool
) -> None:
    model = current["model"]
    if change.get("model", model) != model:
        raise Refused(
            "invalid_value",
            "Cannot update a conversation's model after it started.",
            "session.model",
        )
    for field in ("reasoning", "parallel_tool_calls"):
        if field in change and not is_reasoning(model):
            raise Refused(
                "invalid_value",
                f"Unsupported parameter: 'session.{field}' is not supported with model '{model}'.",
                f"session.{field}",
            )
    output = (change.get("audio") or {}).get("output") or {}
    voice = output.get("voice", current["audio"]["output"]["voice"])
    if has_spoken and voice != current["audio"]["output"]["voice"]:
        raise Refused(
            "cannot_update_voice",
            "Cannot update a conversation's voice if assistant audio is present.",
            "session.audio.output.voice",
        )
    if (
        current["tracing"] is not None
        and change.get("tracing", current["tracing"]) != (current["tracing"])
    ):
        raise Refused(
            "invalid_value", "Tracing cannot be changed once it is enabled.", "session.tracing"
        )
    tools = change.get("tools", current["tools"]) or []
    check_tool_names(tools, "session.tools")
    if "tool_choice" in change:
        check_tool_choice(change["tool_choice"], tools, "session.tool_choice")


def _merge_audio(audio: dict[str, Any], change: Mapping[str, Any]) -> None:
    for side in ("input", "output"):
        for key, value in (change.get(side) or {}).items():
            if key == "turn_detection" and isinstance(value, Mapping):
                audio[side][key] = _full_detection(audio[side][key], value)
            elif key == "format" and isinstance(value, Mapping):
                audio[side][key] = _full_format(value)
            else:
                audio[side][key] = deepcopy(value)


def _full_detection(current: Mapping[str, Any] | None, change: Mapping[str, Any]) -> dict[str, Any]:
    kind = change.get("type", "server_vad")
    base = _SERVER_VAD if kind == "server_vad" else _SEMANTIC_VAD
    if current is not None and current.get("type") == kind:
        base = dict(current)
    return {**base, **change, "type": kind}


def _full_format(change: Mapping[str, Any]) -> dict[str, Any]:
    if change.get("type") == "audio/pcm":
        return {"type": "audio/pcm", "rate": 24000}
    return {"type": change["type"]}


_SERVER_VAD: dict[str, Any] = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}
_SEMANTIC_VAD: dict[str, Any] = {
    "type": "semantic_vad",
    "eagerness": "auto",
    "create_response": True,
    "interrupt_response": True,
}

# What may be set, field by field.

_string = Text()
_name = Text(longest=64, pattern="[a-zA-Z0-9_-]+")
_format = Variant(
    "type",
    {
        "audio/pcm": Fields({"type": _string, "rate": Number(least=24000, most=24000, whole=True)}),
        "audio/pcmu": Fields({"type": _string}),
        "audio/pcma": Fields({"type": _string}),
    },
)
_detection = Variant(
    "type",
    {
        "server_vad": Fields(
            {
                "type": _string,
                "threshold": Number(least=0, most=1),
                "prefix_padding_ms": Number(least=0, most=5000, whole=True),
                "silence_duration_ms": Number(least=0, most=30000, whole=True),
                "idle_timeout_ms": Nullable(Number(least=5000, most=30000, whole=True)),
                "create_response": boolean,
                "interrupt_response": boolean,
            }
        ),
        "semantic_vad": Fields(
            {
                "type": _string,
                "eagerness": OneOf(("low", "medium", "high", "auto")),
                "create_response": boolean,
                "interrupt_response": boolean,
            }
        ),
    },
    default="server_vad",
)
_transcription = Fields(
    {
        "model": OneOf(TRANSCRIBERS),
        "language": _string,
        "languages": ListOf(_string),
        "prompt": _string,
        "keywords": ListOf(_string),
        "delay": OneOf(("minimal", "low", "medium", "high", "xhigh")),
    },
)
_input = Fields(
    {
        "format": _format,
        "transcription": Nullable(_transcription),
        "noise_reduction": Nullable(
            Fields({"type": OneOf(("near_field", "far_field"))}, required=("type",))
        ),
        "turn_detection": Nullable(_detection),
    }
)
_voice = ByType(OneOf(VOICES), Fields({"id": _string}, required=("id",)))
_output = Fields({"format": _format, "voice": _voice, "speed": Number(least=0.25, most=1.5)})
_function = Fields(
    {
        "type": _string,
        "name": _name,
        "description": Text(longest=LONGEST_DESCRIPTION),
        "parameters": mapping,
    },
    required=("name",),
)
_mcp = Fields(
    {
        "type": _string,
        "server_label": _string,
        "server_url": _string,
        "connector_id": _string,
        "tunnel_id": _string,
        "authorization": _string,
        "headers": Nullable(mapping),
        "allowed_tools": anything,
        "require_approval": anything,
        "server_description": _string,
        "defer_loading": boolean,
        "allowed_callers": anything,
    },
    required=("server_label",),
)
_tools = ListOf(Variant("type", {"function": _function, "mcp": _mcp}), most=128)
_tool_choice = ByType(
    OneOf(("none", "auto", "required")),
    Variant(
        "type",
        {
            "function": Fields({"type": _string, "name": _string}, required=("name",)),
            "mcp": Fields(
                {"type": _string, "server_label": _string, "name": Nullable(_string)},
                required=("server_label",),
            ),
        },
    ),
)
_max_tokens = ByType(
    OneOf(("inf",)), number=Number(least=1, most=4096, whole=True), named="an integer or 'inf'"
)
_modalities = ListOf(OneOf(("text", "audio")))
_reasoning = Nullable(Fields({"effort": OneOf(("minimal", "low", "medium", "high", "xhigh"))}))
_prompt = Nullable(
    Fields(
        {"id": _string, "version": Nullable(_string), "variables": Nullable(mapping)},
        required=("id",),
    )
)


def modalities(value: Any, path: str) -> None:
    """Accepts ["audio"] and ["text"]: never both, never none."""
    _modalities(value, path)
    if len(value) != 1:
        raise Refused(
            "invalid_value",
            f"Invalid value: {value}. Supported combinations are: ['text'] and ['audio'].",
            path,
        )


def metadata(value: Any, path: str) -> None:
    """Accepts up to 16 pairs of strings, keys up to 64 and values up to 512 characters."""
    if value is None:
        return
    shapes.expect(value, dict, "an object", path)
    if len(value) > 16:
        raise Refused(
            "object_above_max_properties",
            f"Invalid '{path}': too many properties. Expected an object with at most 16 "
            f"properties, but got an object with {len(value)} properties instead.",
            path,
        )
    for key, text in value.items():
        Text(longest=64)(key, f"{path}.{key[:64]}")
        Text(longest=512)(text, f"{path}.{key}")


_tracing = Nullable(
    ByType(
        OneOf(("auto",)),
        Fields({"workflow_name": _string, "group_id": _string, "metadata": mapping}),
    )
)
_include = Nullable(ListOf(OneOf(("item.input_audio_transcription.logprobs",))))
_truncation = ByType(
    OneOf(("auto", "disabled")),
    Variant(
        "type",
        {
            "retention_ratio": Fields(
                {
                    "type": _string,
                    "retention_ratio": Number(least=0, most=1),
                    "token_limits": Nullable(
                        Fields({"post_instructions": Number(least=0, whole=True)})
                    ),
                },
                required=("retention_ratio",),
            )
        },
    ),
)
_SESSION = Variant(
    "type",
    {
        "realtime": Fields(
            {
                "type": _string,
                "model": _string,
                "output_modalities": modalities,
                "instructions": _string,
                "max_output_tokens": _max_tokens,
                "tools": _tools,
                "tool_choice": _tool_choice,
                "parallel_tool_calls": boolean,
                "reasoning": _reasoning,
                "prompt": _prompt,
                "tracing": _tracing,
                "include": _include,
                "truncation": _truncation,
                "audio": Fields({"input": _input, "output": _output}),
            }
        ),
        "transcription": Fields(
            {"type": _string, "include": _include, "audio": Fields({"input": _input})}
        ),
    },
)

RESPONSE_FIELDS: dict[str, shapes.Check] = {
    "output_modalities": modalities,
    "instructions": _string,
    "audio": Fields({"output": Fields({"format": _format, "voice": _voice})}),
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": boolean,
    "reasoning": _reasoning,
    "max_output_tokens": _max_tokens,
    "conversation": OneOf(("auto", "none")),
    "metadata": metadata,
    "prompt": _prompt,
}
