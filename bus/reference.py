"""What documents say about the message types: their words, their fields, an example of each.

All of it is taken from the types themselves, so that the page, the schemas and the code cannot
drift apart. Reads the sources: for generators and for the `schema` command, never on a hot path.
"""

import ast
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as shapes

from voicebus.bus.messages.base import Message


class Field(NamedTuple):
    """A field as the page shows it."""

    name: str
    """As on the wire."""
    type: str
    """In words: `integer or null`."""
    default: str | None
    """As JSON; None where the field must be there."""
    note: str
    """What the source says under it; may be empty."""


def says(of: type[Message]) -> str:
    """The docstring of a message, as one paragraph per paragraph."""
    return inspect.getdoc(of) or ""


def fields(of: type[Message]) -> list[Field]:
    """The fields, in the order of the wire; a tagged type's tag comes first."""
    notes = notes_of(of)
    info = shapes.type_info(of)
    assert isinstance(info, shapes.StructType)
    found = []
    if info.tag_field is not None and isinstance(info.tag, str):
        found.append(Field(info.tag_field, f'`"{info.tag}"`', None, ""))
    for field in info.fields:
        default = None if field.required else _default(field)
        found.append(
            Field(field.encode_name, words(field.type), default, notes.get(field.name, ""))
        )
    return found


def notes_of(of: type[Message]) -> dict[str, str]:
    """Field name -> the string that follows it in the source, those of its bases included."""
    found: dict[str, str] = {}
    for one in reversed(of.__mro__):
        if issubclass(one, Message) and one is not Message:
            found |= _notes(one.__module__).get(one.__name__, {})
    return found


def notes_by_type(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Wire field -> note, for those of our types that have one of these names."""
    wanted = set(names)
    found: dict[str, dict[str, str]] = {}
    waiting: list[type[Message]] = [Message]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if one.__name__ in wanted and one.__module__.startswith("voicebus.bus.messages"):
            notes = notes_of(one)
            found[one.__name__] = {
                field.encode_name: notes[field.name]
                for field in msgspec.structs.fields(one)
                if field.name in notes
            }
    return found


@cache
def _notes(module: str) -> dict[str, dict[str, str]]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        own = found.setdefault(node.name, {})
        for field, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                own[field.target.id] = " ".join(after.value.value.split())
    return found


def words(type: shapes.Type) -> str:
    """A type in a reader's words."""
    match type:
        case shapes.LiteralType(values=values):
            return " or ".join(f"`{msgspec.json.encode(v).decode()}`" for v in values)
        case shapes.UnionType(types=types):
            return " or ".join(words(one) for one in types)
        case shapes.DictType(value_type=value):
            inner = words(value)
            return "object" if inner == "any JSON" else f"object of {inner}"
        case shapes.ListType(item_type=item) | shapes.VarTupleType(item_type=item):
            return f"list of {words(item)}"
        case shapes.StructType(cls=cls):
            return cls.__name__
        case _:
            names: dict[Any, str] = {
                shapes.StrType: "string",
                shapes.IntType: "integer",
                shapes.FloatType: "number",
                shapes.BoolType: "boolean",
                shapes.NoneType: "null",
                shapes.AnyType: "any JSON",
                shapes.RawType: "any JSON",
            }
            return names[type.__class__]


def _default(field: shapes.Field) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
    if callable(value):
        value = value()
    return msgspec.json.encode(value).decode()


# --- examples ---------------------------------------------------------------------------------

SESSION = "s0-01k9yq3v5m8x2c4e6g7h9j0n1p"
COMMAND = "01k9yq3v5m8x2c4e6g7h9j0n1r"

SAMPLES: dict[str, Any] = {
    "after_ms": 250,
    "age_ms": 120,
    "args": {"city": "Berlin"},
    "arguments": {"city": "Berlin"},
    "at": 1793003600,
    "at_ms": 1250,
    "at_us": 1793000000123456,
    "attempt": 1,
    "audio_in": "ipc:///run/voicebus/transport-0.audio-in",
    "audio_out": "ipc:///run/voicebus/transport-0.audio-out",
    "budget_ms": 20000,
    "call_id": "call_7f3a",
    "call_ids": ["call_7f3a"],
    "calls": ["call_7f3a"],
    "cause": COMMAND,
    "code": "provider_error",
    "command": "ping",
    "commands": "ipc:///run/voicebus/session-0.commands",
    "config": {"instructions": "Be brief."},
    "content_index": 0,
    "counters": {"sound_refused_unknown_token": 2},
    "delta": "It is twenty one",
    "dropped_ms": 140,
    "duration_ms": 412.5,
    "epoch": 3,
    "error": "the provider refused it",
    "events": "ipc:///run/voicebus/session-0.events",
    "expires_at": 1793003600,
    "format": "pcm16",
    "free": 4,
    "from": 41,
    "generation": 1,
    "heads": {SESSION: 57},
    "heard_ms": 1840,
    "heartbeat_ms": 250,
    "id": COMMAND,
    "inc": "9f3a11c2",
    "instance": 0,
    "instructions": "Be brief.",
    "item": {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "Hello."}],
    },
    "item_id": "item_004",
    "lag_ms": 0.4,
    "lease_s": 60.0,
    "limit": 200,
    "limits": [{"name": "tokens", "limit": 40000, "remaining": 39391, "reset_seconds": 0.9}],
    "message": "Be brief.",
    "missing": [],
    "model": "gpt-realtime",
    "n": 12,
    "name": "get_weather",
    "next": 61,
    "offset_samples": 4800,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "pid": 4242,
    "played_ms": 1840,
    "prev": 50,
    "progress": 0.5,
    "provider": "openai",
    "provider_session_id": "sess_001",
    "reset_ms": 900,
    "responses": ["resp_002"],
    "result": {"city": "Berlin", "temperature": 21},
    "role": "transport",
    "samples": 60696,
    "seq": 57,
    "session_id": SESSION,
    "sessions": {SESSION: 12},
    "shard": 0,
    "since_us": 1793000000000000,
    "status": "completed",
    "text": "It is twenty one degrees.",
    "to": 60,
    "token": "Xk3v0mQ9bq3T1r7wZc5nYA",
    "tool": "get_weather",
    "topics": {"assistant_transcript": 50, "session_opened": 1},
    "transport": "transport-0",
    "turn_id": "resp_002",
    "vendor": "openai",
    "why": "queue_full",
    "worker": "toolhost-0",
    "details": {},
}
BY_TYPE: dict[tuple[str, str], Any] = {
    ("Open", "config"): {"instructions": "Be brief.", "tools": ["get_weather"]},
    ("Update", "config"): {"instructions": "Answer in German."},
    ("SubscriptionRefused", "client"): "kiosk",
    ("SubscriptionRefused", "topic"): "raw/",
    ("SubscriptionRefused", "code"): "not_allowed",
    ("SubscriptionRefused", "message"): "client 'kiosk' may not subscribe to 'raw/' "
    "(lanes: event, audio; sessions: own)",
    ("Schema", "name"): "events.json",
    ("RawFrame", "kind"): "response.created",
    ("RawFrame", "dir"): "up",
    ("CommandError", "code"): "busy",
    ("CommandError", "retry"): True,
    ("CommandError", "message"): "64 commands of this client already wait for their replies",
    ("LinkWelcome", "transport"): 0,
    ("SessionClosed", "message"): None,
    ("SessionClosed", "code"): None,
    ("SessionClosed", "reason"): "client",
    ("AssistantTurnCompleted", "error"): None,
    ("AssistantTurnCompleted", "reason"): None,
    ("SubmitToolOutput", "error"): None,
    ("Approve", "reason"): None,
    ("Interrupt", "reason"): "manual",
    ("Replayed", "events"): [],
    ("ToolCallArgsDelta", "delta"): '{"city": "Ber',
    ("ProviderClosed", "reason"): "going away",
    ("ProviderClosed", "code"): 1001,
    ("ProviderClosed", "http_status"): None,
    ("SessionReconnecting", "reason"): "the provider closed the connection (1001)",
    ("CancelCalls", "reason"): "barge_in",
    ("CancelCall", "reason"): "barge_in",
    ("Cancel", "reason"): "barge_in",
    ("SoundRefused", "reason"): "unknown_token",
    ("SoundRefused", "text"): "this token is unknown or was revoked; attach again for a new one",
    ("Dial", "model"): "gpt-realtime",
    ("State", "why"): None,
    ("State", "state"): "ready",
    ("State", "lag_ms"): 0.4,
    ("ProcessReport", "process"): "session-0",
    ("ProcessReport", "what"): "died",
    ("ProcessReport", "why"): "terminated by SIGKILL",
    ("ProcessReport", "exit_code"): None,
    ("ProcessReport", "signal"): "SIGKILL",
    ("ProcessReport", "silent_ms"): None,
    ("PoolReport", "worker"): "toolhost-0/9f3a11c2",
    ("PoolReport", "tools"): 5,
    ("PoolReport", "why"): None,
    ("PoolReport", "tool"): None,
    ("PoolReport", "failures"): None,
    ("PoolReport", "last"): None,
    ("PoolReport", "for_s"): None,
    ("AudioEnd", "samples"): 60696,
    ("SoundPassed", "samples"): 2400,
    ("Result", "status"): "ok",
    ("Result", "failure"): None,
    ("Outcome", "status"): "ok",
    ("AssistantHeard", "estimated"): False,
    ("AssistantHeard", "complete"): False,
    ("ToolCallFailed", "reason"): "timeout",
    ("ToolCallFailed", "error"): "get_weather did not answer within 20 s",
    ("SoundHeldDropped", "why"): "hold",
    ("Outcome", "failure"): None,
    ("Failure", "message"): "ValueError: no such city",
    ("Progress", "text"): "calling the restaurant",
    ("CallProgress", "text"): "calling the restaurant",
    ("ToolCallProgress", "text"): "calling the restaurant",
    ("UserTranscript", "text"): "What is the weather in Berlin?",
    ("UserTranscriptDelta", "delta"): "What is",
    ("SendText", "text"): "What is the weather in Berlin?",
    ("WorkerHello", "name"): "my-worker",
    ("AudioFlush", "why"): "barge_in",
    ("Flush", "why"): "barge_in",
    ("SoundIn", "n"): 1,
    ("SessionLine", "state"): "ready",
    ("SessionLine", "created_us"): 1793000000000000,
    ("SessionState", "heads"): {"session_opened": 1, "user_transcript": 57},
    ("SessionState", "tools"): ["get_weather"],
    ("SessionState", "tokens"): 609,
    ("LinkShown", "state"): "ready",
    ("ItemShown", "type"): "message",
    ("ItemShown", "role"): "assistant",
    ("ItemShown", "call_id"): None,
    ("ItemShown", "name"): None,
    ("ItemShown", "generated_ms"): 2529,
    ("CallShown", "state"): "running",
    ("ResponseShown", "out_of_band"): False,
}
"""Where the field's usual sample would mislead."""


def example(of: type[Message]) -> dict[str, Any]:
    """A plausible message of that type, as plain data; it decodes as the type."""
    info = shapes.type_info(of)
    assert isinstance(info, shapes.StructType)
    found: dict[str, Any] = {}
    if info.tag_field is not None:
        found[info.tag_field] = info.tag
    for field in info.fields:
        found[field.encode_name] = _sample(of, field)
    return found


def _sample(of: type[Message], field: shapes.Field) -> Any:
    name = field.encode_name
    for one in of.__mro__:
        if (one.__name__, name) in BY_TYPE:
            return BY_TYPE[one.__name__, name]
    fixed = not field.required and name in {"v", "kind"}
    if not fixed and name in SAMPLES and _fits(SAMPLES[name], field.type):
        return SAMPLES[name]
    if not field.required:
        return msgspec.json.decode(_default(field))
    return _any(field.type)


def _fits(value: Any, type: shapes.Type) -> bool:
    """Whether the sample is of the field's own kind; integers do for numbers."""
    match type:
        case shapes.UnionType(types=types):
            return any(_fits(value, one) for one in types)
        case shapes.LiteralType(values=values):
            return value in values
        case shapes.StrType():
            return isinstance(value, str)
        case shapes.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case shapes.FloatType():
            return isinstance(value, int | float)
        case shapes.BoolType():
            return isinstance(value, bool)
        case shapes.DictType(value_type=inner):
            return isinstance(value, dict) and all(_fits(one, inner) for one in value.values())
        case shapes.ListType(item_type=item) | shapes.VarTupleType(item_type=item):
            return isinstance(value, list) and all(_fits(one, item) for one in value)
        case shapes.AnyType() | shapes.RawType():
            return True
        case _:
            return False


def _any(type: shapes.Type) -> Any:
    """The plainest value of a type."""
    match type:
        case shapes.UnionType(types=types):
            return _any(types[0])
        case shapes.LiteralType(values=values):
            return values[0]
        case shapes.StructType(cls=cls):
            assert issubclass(cls, Message)
            return example(cls)
        case shapes.ListType(item_type=item) | shapes.VarTupleType(item_type=item):
            return [_any(item)]
        case shapes.DictType():
            return {}
        case shapes.BoolType():
            return True
        case shapes.IntType():
            return 1
        case shapes.FloatType():
            return 1.0
        case shapes.StrType():
            return "…"
        case _:
            return None
