"""What the model wrote as arguments: JSON, an object, and, for a client's tool, its schema.

The pool checks its own tools against their code. A client's tool has no runner that could, so the
common part of JSON Schema is checked here; what is not known of it is let through.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from voicebus.bus.depth import VALUE_DEPTH_LIMIT, is_deep

DEPTH_LIMIT = 16
TOO_DEEP = f"the arguments are nested too deeply, the limit is {VALUE_DEPTH_LIMIT} levels"
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def parse(text: str) -> dict[str, Any] | str:
    """The arguments, or what is wrong with them, for the model to read."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        return f"the arguments are not JSON: {error}"
    except RecursionError:
        return TOO_DEEP
    if is_deep(text.encode(), VALUE_DEPTH_LIMIT):
        return TOO_DEEP
    if not isinstance(value, dict):
        return f"the arguments must be a JSON object, not {_name_of(value)}"
    return value


def mismatch(value: Any, schema: Mapping[str, Any]) -> str | None:
    """The first thing that does not fit the schema, for the model to read."""
    return _mismatch(value, schema, "the arguments", 0)


def _mismatch(value: Any, schema: Any, where: str, depth: int) -> str | None:
    if not isinstance(schema, Mapping) or depth > DEPTH_LIMIT:
        return None
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        return f"{where} must be one of {_text(choices)}, not {_text(value)}"
    kinds = schema.get("type")
    wanted = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if wanted and not any(_is(value, kind) for kind in wanted):
        return f"{where} must be of type {' or '.join(map(str, wanted))}, not {_name_of(value)}"
    if isinstance(value, dict):
        return _mismatch_inside(value, schema, where, depth)
    if isinstance(value, list):
        for index, one in enumerate(value):
            wrong = _mismatch(one, schema.get("items"), f"{where}[{index}]", depth + 1)
            if wrong:
                return wrong
    return None


def _mismatch_inside(
    value: dict[str, Any], schema: Mapping[str, Any], where: str, depth: int
) -> str | None:
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    missing = [name for name in required if name not in value] if isinstance(required, list) else []
    if missing:
        return f"{where} lack {', '.join(map(str, missing))}"
    for name, one in value.items():
        if name in known:
            inner = f"argument {name}" if depth == 0 else f"{where}.{name}"
            wrong = _mismatch(one, known[name], inner, depth + 1)
            if wrong:
                return wrong
        elif schema.get("additionalProperties") is False:
            return f"{where} know no {name!r} (known: {', '.join(known) or 'none'})"
    return None


def _is(value: Any, kind: Any) -> bool:
    types = _TYPES.get(kind) if isinstance(kind, str) else None
    if types is None:
        return True
    if isinstance(value, bool):
        return bool(kind == "boolean")
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, types)


def _name_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
