"""What the model wrote as arguments: JSON, an object, and, for a client's tool, its schema.

The pool checks its own tools against their code. A client's tool has no runner that could, so what
schemas commonly hold is checked here. The rest is let through: patterns, whose search may never
end, formats, and whatever else JSON Schema has.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from voicebus.bus.depth import VALUE_DEPTH_LIMIT, is_deep

DEPTH_LIMIT = 16
CHECK_LIMIT = 10_000
"""Comparisons made for one call: alternatives within alternatives have no end."""
NAMED = 3
"""Alternatives that are named where none fits."""
SHOWN = 200
"""Characters of a wrong value that are shown."""
WHOLE = "the arguments"
TOO_DEEP = f"the arguments are nested too deeply, the limit is {VALUE_DEPTH_LIMIT} levels"
_Bound = tuple[str, tuple[type, ...], Callable[[Any], Any], Callable[[Any, Any], bool], str]


def _itself(value: Any) -> Any:
    return value


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_NUMBER = (int, float)
_BOUNDS: tuple[_Bound, ...] = (
    ("minimum", _NUMBER, _itself, operator.ge, "be at least {}"),
    ("maximum", _NUMBER, _itself, operator.le, "be at most {}"),
    ("exclusiveMinimum", _NUMBER, _itself, operator.gt, "be above {}"),
    ("exclusiveMaximum", _NUMBER, _itself, operator.lt, "be below {}"),
    ("minLength", (str,), len, operator.ge, "have {} characters or more"),
    ("maxLength", (str,), len, operator.le, "have {} characters or fewer"),
    ("minItems", (list,), len, operator.ge, "have {} items or more"),
    ("maxItems", (list,), len, operator.le, "have {} items or fewer"),
)


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
    return _Check(schema).mismatch(value, schema, WHOLE, 0)


class _Check:
    """A value against a schema and what that refers to."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._whole = schema
        self._left = CHECK_LIMIT

    def mismatch(self, value: Any, schema: Any, where: str, depth: int) -> str | None:
        """The first thing that does not fit."""
        if not isinstance(schema, Mapping):
            return None
        self._left -= 1 + len(_list(schema, "enum")) + len(_list(schema, "required"))
        if depth > DEPTH_LIMIT or self._left < 0:
            return None
        wrong = _not_chosen(value, schema, where) or _of_another_type(value, schema, where)
        wrong = wrong or _out_of_bounds(value, schema, where)
        if wrong:
            return wrong
        for inner in (self._referred(schema), *_list(schema, "allOf")):
            wrong = self.mismatch(value, inner, where, depth + 1)
            if wrong:
                return wrong
        wrong = self._no_alternative(value, schema, where, depth)
        if wrong:
            return wrong
        if isinstance(value, dict):
            return self._mismatch_inside(value, schema, where, depth)
        if isinstance(value, list):
            first = len(_list(schema, "prefixItems"))  # which have schemas of their own
            for index, one in enumerate(value[first:], first):
                wrong = self.mismatch(one, schema.get("items"), f"{where}[{index}]", depth + 1)
                if wrong:
                    return wrong
        return None

    def _referred(self, schema: Mapping[str, Any]) -> Any:
        """What a schema refers to, where that stands in the same document."""
        to = schema.get("$ref")
        if not isinstance(to, str) or not (to == "#" or to.startswith("#/")):
            return None
        found: Any = self._whole
        for name in to.split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _no_alternative(
        self, value: Any, schema: Mapping[str, Any], where: str, depth: int
    ) -> str | None:
        for key in ("anyOf", "oneOf"):
            found = [self.mismatch(value, one, where, depth + 1) for one in _list(schema, key)]
            wrong = [one for one in found if one is not None]
            if wrong and len(wrong) == len(found):
                return ", or ".join(list(dict.fromkeys(wrong))[:NAMED])
        return None

    def _mismatch_inside(
        self, value: dict[str, Any], schema: Mapping[str, Any], where: str, depth: int
    ) -> str | None:
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        missing = [name for name in _list(schema, "required") if name not in value]
        if missing:
            return f"{where} lack {', '.join(map(str, missing))}"
        # What a pattern lets in is none of the others.
        others = None if "patternProperties" in schema else schema.get("additionalProperties")
        for name, one in value.items():
            if name not in known and others is False:
                return f"{where} know no {name!r} (known: {', '.join(known) or 'none'})"
            inner = f"argument {name}" if where == WHOLE else f"{where}.{name}"
            wrong = self.mismatch(one, known.get(name, others), inner, depth + 1)
            if wrong:
                return wrong
        return None


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _not_chosen(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(choices, list) or any(_is_same(value, one) for one in choices):
        return None
    return f"{where} must be one of {_text(choices)}, not {_text(value)}"


def _is_same(one: Any, other: Any) -> bool:
    """Whether they are one JSON value: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _of_another_type(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    kinds = schema.get("type")
    wanted = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if not wanted or any(_is(value, kind) for kind in wanted):
        return None
    return f"{where} must be of type {' or '.join(map(str, wanted))}, not {_name_of(value)}"


def _out_of_bounds(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    for key, types, measure, fits, words in _BOUNDS:
        limit = schema.get(key)
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            continue  # older schemas say with true that `minimum` itself is left out
        if isinstance(value, bool) or not isinstance(value, types):
            continue
        if not fits(measure(value), limit):
            return f"{where} must {words.format(limit)}, not {_text(value)}"
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
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
