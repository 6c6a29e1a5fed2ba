"""Shapes of client events: a value either fits, or is refused in the words of the real service."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class Refused(Exception):
    """What an `error` event says: a code, a sentence, and the dotted path of the culprit."""

    def __init__(
        self,
        code: str | None,
        message: str,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.kind = kind


Check = Callable[[Any, str], None]
"""Raises `Refused` if the value at the dotted path does not fit; returns nothing."""


@dataclass(frozen=True, slots=True)
class Fields:
    """An object with known fields: unknown and missing ones are refused by name."""

    known: Mapping[str, Check]
    required: Sequence[str] = ()

    def __call__(self, value: Any, path: str) -> None:
        expect(value, dict, "an object", path)
        for name in value:
            if name not in self.known:
                where = join(path, name)
                raise Refused("unknown_parameter", f"Unknown parameter: '{where}'.", where)
        for name in self.required:
            if name not in value:
                where = join(path, name)
                raise Refused(
                    "missing_required_parameter", f"Missing required parameter: '{where}'.", where
                )
        for name, part in value.items():
            self.known[name](part, join(path, name))


@dataclass(frozen=True, slots=True)
class Variant:
    """An object whose shape depends on one of its fields, its tag."""

    tag: str
    shapes: Mapping[str, Check]
    default: str | None = None

    def __call__(self, value: Any, path: str) -> None:
        expect(value, dict, "an object", path)
        where = join(path, self.tag)
        if self.tag not in value and self.default is None:
            raise Refused(
                "missing_required_parameter", f"Missing required parameter: '{where}'.", where
            )
        tag = value.get(self.tag, self.default)
        if not isinstance(tag, str) or tag not in self.shapes:
            raise unsupported(tag, tuple(self.shapes), where)
        self.shapes[tag](value, path)


@dataclass(frozen=True, slots=True)
class Text:
    """A string, perhaps of limited length or of a fixed pattern."""

    longest: int | None = None
    pattern: str | None = None

    def __call__(self, value: Any, path: str) -> None:
        expect(value, str, "a string", path)
        if self.longest is not None and len(value) > self.longest:
            raise Refused(
                "string_above_max_length",
                f"Invalid '{path}': string too long. Expected a string with maximum length "
                f"{self.longest}, but got a string with length {len(value)} instead.",
                path,
            )
        if self.pattern is not None and re.fullmatch(self.pattern, value) is None:
            raise Refused(
                "invalid_value",
                f"Invalid '{path}': string does not match pattern. Expected a string that matches "
                f"the pattern '^{self.pattern}$'.",
                path,
            )


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few strings."""

    allowed: Sequence[str]

    def __call__(self, value: Any, path: str) -> None:
        if value not in self.allowed:
            raise unsupported(value, self.allowed, path)


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds; whole if asked for."""

    least: float | None = None
    most: float | None = None
    whole: bool = False

    def __call__(self, value: Any, path: str) -> None:
        wanted = "an integer" if self.whole else "a decimal number"
        is_number = isinstance(value, int) if self.whole else isinstance(value, int | float)
        if not is_number or isinstance(value, bool):
            raise mistyped(wanted, value, path)
        noun = "integer" if self.whole else "decimal"
        if self.least is not None and value < self.least:
            raise Refused(
                f"{noun}_below_min_value",
                f"Invalid '{path}': {noun} below minimum value. Expected a value >= "
                f"{self.least:g}, but got {value} instead.",
                path,
            )
        if self.most is not None and value > self.most:
            raise Refused(
                f"{noun}_above_max_value",
                f"Invalid '{path}': {noun} above maximum value. Expected a value <= "
                f"{self.most:g}, but got {value} instead.",
                path,
            )


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array; each element fits."""

    element: Check
    most: int | None = None

    def __call__(self, value: Any, path: str) -> None:
        expect(value, list, "an array", path)
        if self.most is not None and len(value) > self.most:
            raise Refused(
                "array_above_max_length",
                f"Invalid '{path}': array too long. Expected an array with maximum length "
                f"{self.most}, but got an array with length {len(value)} instead.",
                path,
            )
        for n, element in enumerate(value):
            self.element(element, f"{path}[{n}]")


@dataclass(frozen=True, slots=True)
class Nullable:
    """The inner shape, or null."""

    inner: Check

    def __call__(self, value: Any, path: str) -> None:
        if value is not None:
            self.inner(value, path)


@dataclass(frozen=True, slots=True)
class ByType:
    """A string fits one shape, an object another, a number a third."""

    text: Check | None = None
    mapping: Check | None = None
    number: Check | None = None
    named: str = field(default="a string or an object")

    def __call__(self, value: Any, path: str) -> None:
        if isinstance(value, str) and self.text:
            self.text(value, path)
        elif isinstance(value, dict) and self.mapping:
            self.mapping(value, path)
        elif isinstance(value, int) and not isinstance(value, bool) and self.number:
            self.number(value, path)
        else:
            raise mistyped(self.named, value, path)


def anything(value: Any, path: str) -> None:
    """Accepts any value."""


def boolean(value: Any, path: str) -> None:
    """Accepts true and false."""
    expect(value, bool, "a boolean", path)


def mapping(value: Any, path: str) -> None:
    """Accepts any object."""
    expect(value, dict, "an object", path)


def expect(value: Any, wanted: type, named: str, path: str) -> None:
    """Raise the service's `invalid_type` unless the value has the type."""
    if not isinstance(value, wanted):
        raise mistyped(named, value, path)


def mistyped(wanted: str, value: Any, path: str) -> Refused:
    """The refusal of a value of another type."""
    return Refused(
        "invalid_type",
        f"Invalid type for '{path}': expected {wanted}, but got {_named(value)} instead.",
        path,
    )


def unsupported(value: Any, allowed: Sequence[str], path: str) -> Refused:
    """The refusal of a value outside a closed list."""
    shown = f"'{value}'" if isinstance(value, str) else _named(value)
    listed = ", ".join(f"'{one}'" for one in allowed)
    return Refused(
        "invalid_value", f"Invalid value: {shown}. Supported values are: {listed}.", path
    )


def join(path: str, name: str) -> str:
    """The dotted path of a field."""
    return f"{path}.{name}" if path else name


def _named(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
