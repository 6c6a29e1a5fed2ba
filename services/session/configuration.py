"""What a client may configure: checked whole, with the nearest name for what does not exist."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from voicebus.bus.messages.base import BadMessage, convert
from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.bus.messages.work import ToolSpec
from voicebus.config.loader import nearest
from voicebus.services.session.core.capabilities import Capabilities

FIELDS = tuple(field.name for field in msgspec.structs.fields(SessionConfig))
FIXED = frozenset(
    {
        "model",
        "provider",
        "session_type",
        "modalities",
        "input_audio_format",
        "output_audio_format",
        "headless",
    }
)
"""What cannot change while a session is open."""
ANSWERS = frozenset(
    {
        "instructions",
        "voice",
        "modalities",
        "output_audio_format",
        "tools",
        "tool_choice",
        "max_response_output_tokens",
        "on_interrupt",
        "speed",
        "prompt",
        "tracing",
        "truncation",
        "reasoning",
        "parallel_tool_calls",
        "model",
        "headless",
        "max_tokens_total",
        "tool_timeout_s",
        "approval_timeout_s",
        "filler",
    }
)
"""What is said of answers and tools: it means nothing to a session that only writes down."""
VAD: dict[str, type[ServerVad] | type[SemanticVad]] = {
    "server_vad": ServerVad,
    "semantic_vad": SemanticVad,
}
MAX_TOOL_NAME = 64
LONGEST_S = 604_800
"""No wait that a client chooses is longer."""
INNER: dict[str, tuple[str, ...]] = {
    "voice": ("id",),
    "input_audio_transcription": (
        "model",
        "language",
        "languages",
        "prompt",
        "keywords",
        "delay",
    ),
    "tool_choice": ("type", "name", "server_label"),
    "prompt": ("id", "version", "variables"),
    "tracing": ("workflow_name", "group_id", "metadata"),
    "truncation": ("type", "retention_ratio", "token_limits"),
    "truncation.token_limits": ("post_instructions",),
    "reasoning": ("effort",),
    "filler": ("after_ms", "instructions"),
}
"""What a field holds when it is an object. Anything else a provider knows: `provider_extras`."""
TOOL_FIELDS = (
    "type",
    "name",
    "description",
    "parameters",
    "strict",
    "timeout_s",
    "on_interrupt",
    "effects",
    "approval",
)


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
    for key, value in values.items():
        _check_inner(key, value)
    values["turn_detection"] = _checked_vad(values.get("turn_detection"))
    if values["turn_detection"] is None:
        del values["turn_detection"]
    _check_tool_choice(values.get("tool_choice", "auto"))
    try:
        full = {**(msgspec.to_builtins(base) if base else {}), **values}
        config = msgspec.convert(full, SessionConfig)
    except msgspec.ValidationError as error:
        raise BadMessage(f"config: {error}") from None
    _check_limits(config)
    if config.session_type == "transcription":
        idle = sorted(key for key in ANSWERS & set(given) if given[key])
        if idle:
            warnings.append(
                f"{', '.join(idle)}: ignored, since a transcription session has no answers "
                "(session_type); it transcribes by input_audio_transcription.model"
            )
        config = msgspec.structs.replace(config, tools=[])
    if config.input_audio_transcription is False:
        warnings.append(
            "input_audio_transcription is off: after a reconnect the model will not know "
            "what the caller said"
        )
    return Checked(config, warnings)


def unsupported(config: SessionConfig, can: Capabilities) -> str | None:
    """What of a configuration a provider cannot do, and what to do instead."""
    if config.session_type == "transcription" and not can.transcription_sessions:
        return f"provider {config.provider}: has no transcription sessions (session_type)"
    manual = config.turn_detection == "none"
    if manual and not can.manual_commit:
        return f"provider {config.provider}: cannot do without turn detection (turn_detection)"
    if not manual and not can.server_turn_detection:
        return f'provider {config.provider}: has no turn detection; use turn_detection "none"'
    semantic = config.turn_detection == "semantic_vad" or isinstance(
        config.turn_detection, SemanticVad
    )
    if semantic and not can.semantic_turn_detection:
        return f"provider {config.provider}: has no semantic_vad; use server_vad"
    if "audio" not in config.modalities and not can.text:
        return f'provider {config.provider}: answers only in speech; add "audio" to modalities'
    return None


def _check_inner(path: str, value: Any) -> None:
    """Unknown names are errors at any depth, wherever the names are known to us."""
    known = INNER.get(path)
    if known is None or not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key not in known:
            raise BadMessage(
                f"config.{path} has no {key!r}{nearest(key, known)}; "
                "what only a provider knows goes into provider_extras"
            )
        _check_inner(f"{path}.{key}", inner)


def _checked_vad(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value.get("type", "server_vad")
    if not isinstance(kind, str) or kind not in VAD:
        raise BadMessage(f"config.turn_detection has no type {kind!r}{nearest(str(kind), VAD)}")
    known = (*(field.name for field in msgspec.structs.fields(VAD[kind])), "type")
    for key in value:
        if key not in known:
            raise BadMessage(f"config.turn_detection ({kind}) has no {key!r}{nearest(key, known)}")
    return {**value, "type": kind}


def _check_tool_choice(value: Any) -> None:
    if isinstance(value, dict):
        kind, name, server = (value.get(key) for key in ("type", "name", "server_label"))
        holds = kind in (None, "function") and isinstance(name, str) and server is None
        # Tools of a server that the provider asks itself; without a name it may be any of them.
        holds = holds or (kind == "mcp" and isinstance(server, str) and isinstance(name or "", str))
    else:
        holds = isinstance(value, str) and value in ("auto", "none", "required")
    if not holds:
        raise BadMessage(
            'config.tool_choice must be "auto", "none", "required", {"name": …} '
            'or {"type": "mcp", "server_label": …, "name": …}'
        )


def _check_limits(config: SessionConfig) -> None:
    if not config.modalities:
        raise BadMessage('config.modalities must hold "audio" or "text"')
    if not 1 <= config.lease_s <= 86_400:
        raise BadMessage(f"config.lease_s={config.lease_s:g}: use 1 to 86400 seconds")
    tokens = config.max_response_output_tokens
    if isinstance(tokens, int) and not 1 <= tokens <= 4096:
        raise BadMessage(f'config.max_response_output_tokens={tokens}: use 1 to 4096, or "inf"')
    for field in ("tool_timeout_s", "approval_timeout_s", "max_duration_s"):
        value = getattr(config, field)
        if value is not None and not 0 < value <= LONGEST_S:
            raise BadMessage(
                f"config.{field}={value:g}: must be above 0 and at most {LONGEST_S} (a week)"
            )
    if config.max_tokens_total is not None and config.max_tokens_total <= 0:
        raise BadMessage(f"config.max_tokens_total={config.max_tokens_total}: must be above 0")
    if config.filler is not None and not 200 <= config.filler.after_ms <= 60_000:
        raise BadMessage(f"config.filler.after_ms={config.filler.after_ms}: use 200 to 60000")
    if config.speed is not None and not 0.25 <= config.speed <= 1.5:
        raise BadMessage(f"config.speed={config.speed:g}: use 0.25 to 1.5")
    _check_choice("reasoning.effort", config.reasoning, "effort", EFFORTS)
    _check_choice("truncation.type", config.truncation, "type", ("retention_ratio",))
    if isinstance(config.voice, dict) and not isinstance(config.voice.get("id"), str):
        raise BadMessage('config.voice: a custom voice is {"id": "voice_…"}')
    if config.prompt is not None and not isinstance(config.prompt.get("id"), str):
        raise BadMessage('config.prompt: needs the "id" of a prompt kept at the provider')


EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "none")


def _check_choice(path: str, value: Any, key: str, choices: Sequence[str]) -> None:
    if isinstance(value, dict) and value.get(key) not in choices:
        raise BadMessage(f"config.{path}={value.get(key)!r}: use one of {', '.join(choices)}")


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


def own_tools(config: SessionConfig) -> list[ToolSpec]:
    """The tools that a configuration holds whole, where there is no catalogue. Raises BadMessage
    for names, which only a catalogue knows."""
    found = resolve(config.tools, {})
    if found.missing:
        raise BadMessage(
            f"config.tools names {', '.join(found.missing)}: give whole schemas, or the tools' own"
        )
    return found.specs


def _clients_tool(schema: dict[str, Any]) -> ToolSpec:
    inner = schema.get("function", schema)
    if isinstance(inner, dict):
        for key in inner:
            if key not in TOOL_FIELDS:
                raise BadMessage(
                    f"config.tools: a schema has no {key!r}{nearest(key, TOOL_FIELDS)}"
                )
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_TOOL_NAME:
        raise BadMessage(f"config.tools: a schema needs a name of 1 to {MAX_TOOL_NAME} characters")
    parameters = inner.get("parameters", {"type": "object", "properties": {}})
    if not isinstance(parameters, dict):
        raise BadMessage(f"config.tools: {name!r}: parameters must be a JSON Schema object")
    known = {"on_interrupt": "finish", **inner, "parameters": parameters}
    for key in ("type", "strict"):
        known.pop(key, None)
    spec = convert(known, ToolSpec, what=f"config.tools: {name!r}")
    if not 0 < spec.timeout_s <= LONGEST_S:
        raise BadMessage(
            f"config.tools: {name!r}: timeout_s={spec.timeout_s:g} must be above 0 and at most "
            f"{LONGEST_S} (a week)"
        )
    return spec
