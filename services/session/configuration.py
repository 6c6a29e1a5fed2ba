"""What a client may configure: checked whole, with the nearest name for what does not exist."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.bus.messages.work import ToolSpec
from voicebus.config.loader import nearest

FIELDS = tuple(field.name for field in msgspec.structs.fields(SessionConfig))
FIXED = frozenset(
    {"model", "provider", "modalities", "input_audio_format", "output_audio_format", "headless"}
)
"""What cannot change while a session is open."""
VAD: dict[str, type[ServerVad] | type[SemanticVad]] = {
    "server_vad": ServerVad,
    "semantic_vad": SemanticVad,
}
MAX_TOOL_NAME = 64


class Checked(NamedTuple):
    """A configuration that holds, and what its author should know about it."""

    config: SessionConfig
    warnings: list[str]


def check(given: Mapping[str, Any], base: SessionConfig | None = None) -> Checked:
    """A configuration from what a client gave, on top of `base`. Raises BadMessage."""
    warnings: list[str] = []
    values = dict(given)
    if "temperature" in values:
        del values["temperature"]
        warnings.append("temperature is ignored: the realtime API has none any more")
    for key in values:
        if key not in FIELDS:
            raise BadMessage(f"config has no field {key!r}{nearest(key, FIELDS)}")
    if values.get("turn_detection") is None and "turn_detection" in values:
        values["turn_detection"] = "none"
    _check_vad(values.get("turn_detection"))
    _check_tool_choice(values.get("tool_choice", "auto"))
    try:
        full = {**(msgspec.to_builtins(base) if base else {}), **values}
        config = msgspec.convert(full, SessionConfig)
    except msgspec.ValidationError as error:
        raise BadMessage(f"config: {error}") from None
    _check_limits(config)
    if config.input_audio_transcription is False:
        warnings.append(
            "input_audio_transcription is off: after a reconnect the model will not know "
            "what the caller said"
        )
    return Checked(config, warnings)


def _check_vad(value: Any) -> None:
    if not isinstance(value, dict):
        return
    kind = value.get("type", "server_vad")
    if kind not in VAD:
        raise BadMessage(f"config.turn_detection has no type {kind!r}{nearest(str(kind), VAD)}")
    value.setdefault("type", kind)
    known = (*(field.name for field in msgspec.structs.fields(VAD[kind])), "type")
    for key in value:
        if key not in known:
            raise BadMessage(f"config.turn_detection ({kind}) has no {key!r}{nearest(key, known)}")


def _check_tool_choice(value: Any) -> None:
    named = isinstance(value, dict) and isinstance(value.get("name"), str)
    if not named and value not in ("auto", "none", "required"):
        raise BadMessage('config.tool_choice must be "auto", "none", "required" or {"name": …}')


def _check_limits(config: SessionConfig) -> None:
    if not config.modalities:
        raise BadMessage('config.modalities must hold "audio" or "text"')
    if not 1 <= config.lease_s <= 86_400:
        raise BadMessage(f"config.lease_s={config.lease_s:g}: use 1 to 86400 seconds")
    tokens = config.max_response_output_tokens
    if isinstance(tokens, int) and not 1 <= tokens <= 4096:
        raise BadMessage(f'config.max_response_output_tokens={tokens}: use 1 to 4096, or "inf"')
    if config.tool_timeout_s is not None and config.tool_timeout_s <= 0:
        raise BadMessage(f"config.tool_timeout_s={config.tool_timeout_s:g}: must be above 0")


class Tools(NamedTuple):
    """The tools of a session: from the catalogue, and the client's own."""

    specs: list[ToolSpec]
    client: list[str]
    missing: list[str]
    """Names that the catalogue does not have now."""


def resolve(
    wanted: Sequence[str | dict[str, Any]] | str, catalogue: Mapping[str, ToolSpec]
) -> Tools:
    """Find the tools that a configuration names. Raises BadMessage for a malformed schema."""
    if wanted == "*":
        return Tools(list(catalogue.values()), [], [])
    specs: list[ToolSpec] = []
    client: list[str] = []
    missing: list[str] = []
    for one in wanted:
        if isinstance(one, dict):
            spec = _clients_tool(one)
            client.append(spec.name)
        elif one in catalogue:
            spec = catalogue[one]
        else:
            missing.append(one)
            continue
        if any(other.name == spec.name for other in specs):
            raise BadMessage(f"config.tools names {spec.name!r} twice")
        specs.append(spec)
    return Tools(specs, client, missing)


def _clients_tool(schema: dict[str, Any]) -> ToolSpec:
    inner = schema.get("function", schema)
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_TOOL_NAME:
        raise BadMessage(f"config.tools: a schema needs a name of 1 to {MAX_TOOL_NAME} characters")
    parameters = inner.get("parameters", {"type": "object", "properties": {}})
    if not isinstance(parameters, dict):
        raise BadMessage(f"config.tools: {name!r}: parameters must be a JSON Schema object")
    return ToolSpec(
        name=name,
        description=str(inner.get("description", "")),
        parameters=parameters,
        timeout_s=float(inner.get("timeout_s", 20.0)),
        on_interrupt=inner.get("on_interrupt", "finish"),
        effects=inner.get("effects", "once"),
    )
