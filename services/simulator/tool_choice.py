"""Which of a session's tools fits what was said, and with which arguments."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from voicebus.services.simulator import numbers

CITIES = (
    "Amsterdam",
    "Athens",
    "Berlin",
    "Boston",
    "Chicago",
    "Dublin",
    "Hamburg",
    "Helsinki",
    "Lisbon",
    "London",
    "Madrid",
    "Moscow",
    "Munich",
    "New York",
    "Oslo",
    "Paris",
    "Prague",
    "Rome",
    "San Francisco",
    "Sydney",
    "Tokyo",
    "Toronto",
    "Vienna",
    "Warsaw",
    "Zurich",
)
ENOUGH = 3
"""A word in the tool's name counts this much; other words count less."""

_COMMON = (
    "a about all am an and any are as at be by can could current do does for from get give go has "
    "have hello how i in is it its let me much my name now of on one or our please run say show so "
    "some tell than that the their them then there these they this to today tool up use us was we "
    "what when where which who will with would you your returns return value given call calls "
    "function long story make"
)
_STOP_WORDS = frozenset(_COMMON.split())
_SYNONYMS = (
    {"weather", "temperature", "forecast", "rain", "sunny", "degrees", "sky"},
    {"time", "clock", "hour", "oclock"},
    {"date", "day", "calendar"},
    {"search", "archive", "find", "slow", "library", "lookup"},
    {"burn", "cpu", "spin", "busy", "compute", "primes"},
    {"crash", "segfault", "abort", "explode"},
    {"book", "reserve", "table", "restaurant"},
    {"sum", "add", "plus", "calculate", "calculator"},
)
_PLACE_NAMES = ("city", "location", "place", "town", "where", "timezone", "zone", "country")
_TOPIC_NAMES = ("query", "topic", "text", "keyword", "keywords", "question", "subject", "term", "q")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A tool and the arguments that were found for it."""

    name: str
    arguments: dict[str, Any]


def chosen(text: str, tools: Sequence[Mapping[str, Any]]) -> list[Chosen]:
    """The calls that a request asks for: none, one, or one per part joined by "and"."""
    calls: list[Chosen] = []
    tool: Mapping[str, Any] | None = None
    for clause in re.split(r"\s*\b(?:and then|and|then)\b\s*|[,;]\s*", text):
        if not clause.strip():
            continue
        match = best(clause, tools)
        if match is None and tool is not None and len(_words(clause)) <= 3:
            # "the weather in Berlin and Paris": the same tool again, if the words fill it.
            found = arguments(clause, tool, needs_evidence=True)
            if found:
                calls.append(Chosen(str(tool["name"]), found))
        elif match is not None:
            tool = match
            call = Chosen(str(tool["name"]), arguments(clause, tool))
            if call not in calls:
                calls.append(call)
    if not calls:
        match = best(text, tools)
        if match is not None:
            calls.append(Chosen(str(match["name"]), arguments(text, match)))
    return calls


def best(text: str, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The tool that fits the text best; None if none fits well enough."""
    scored = [(_score(text, tool), -n, tool) for n, tool in enumerate(tools) if tool.get("name")]
    if not scored:
        return None
    score, _, tool = max(scored, key=lambda one: one[:2])
    return tool if score >= ENOUGH else None


def arguments(
    text: str, tool: Mapping[str, Any], *, needs_evidence: bool = False
) -> dict[str, Any]:
    """Values for the tool's parameters, from the words of the text and the JSON Schema.

    Required parameters always get a value, unless evidence is needed: then nothing is made up.
    """
    schema = tool.get("parameters") or {}
    required = [] if needs_evidence else schema.get("required", ())
    left = numbers.found_in(text)
    found: dict[str, Any] = {}
    for name, kind in (schema.get("properties") or {}).items():
        value = _value(text, name, kind if isinstance(kind, Mapping) else {}, left, tool)
        if value is None and name in required:
            value = _made_up(text, name, kind if isinstance(kind, Mapping) else {}, tool)
        if value is not None:
            found[name] = value
    return found


def _value(
    text: str,
    name: str,
    schema: Mapping[str, Any],
    left: list[int | float],
    tool: Mapping[str, Any],
) -> Any:
    lower = text.lower()
    options = schema.get("enum")
    if options:
        for option in options:
            if re.search(rf"\b{re.escape(str(option).replace('_', ' ').lower())}\b", lower):
                return option
        return None
    match _type(schema):
        case "integer" | "number" as kind:
            if not left:
                return None
            value = left.pop(0)
            return int(value) if kind == "integer" else value
        case "string" if _is_named(name, _PLACE_NAMES):
            return _place(text)
        case "string" if _is_named(name, _TOPIC_NAMES):
            return _topic(text)
        case "string":
            found = re.search(rf"\b{re.escape(name.replace('_', ' ').lower())}\s+(\w+)", lower)
            return found[1] if found else None
        case "array":
            inner = schema.get("items")
            element = _value(text, name, inner if isinstance(inner, Mapping) else {}, left, tool)
            return [element] if element is not None else None
        case _:
            return None


def _made_up(text: str, name: str, schema: Mapping[str, Any], tool: Mapping[str, Any]) -> Any:
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    match _type(schema):
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "array":
            return []
        case "object":
            return {}
        case "string" if _is_named(name, _PLACE_NAMES):
            return "Berlin"
        case "string" if not _is_named(name, _TOPIC_NAMES):
            return _proper_name(text) or " ".join(text.split())
        case _:
            return " ".join(text.split())


def _type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), None)
    if kind is None:
        for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            if isinstance(option, Mapping) and option.get("type") not in (None, "null"):
                return str(option["type"])
    return str(kind or "string")


def _place(text: str) -> str | None:
    lower = text.lower()
    for city in CITIES:
        if re.search(rf"\b{city.lower()}\b", lower):
            return city
    found = re.search(r"\b(?:in|at|for|of|near)\s+((?:[^\W\d_]+[ '-]?){1,3})", text)
    if found is None:
        return None
    words = [word for word in found[1].split() if word.lower() not in _STOP_WORDS]
    return " ".join(word.capitalize() for word in words) or None


def _proper_name(text: str) -> str | None:
    """Luigi, of "a table at Luigi": what is written with a capital after such a word."""
    found = re.search(r"\b(?:at|with|called|named) ([A-Z][\w']*(?: [A-Z][\w']*)*)", text)
    return found[1] if found else None


def _topic(text: str) -> str | None:
    found = re.search(r"\b(?:for|about|on|regarding)\s+(.+)", text, re.IGNORECASE)
    if found is None:
        return None
    return re.sub(r"\s*\bplease\b|[.?!]+\s*$", "", found[1]).strip() or None


def _is_named(name: str, hints: Sequence[str]) -> bool:
    return any(word in hints for word in _split(name))


def _score(text: str, tool: Mapping[str, Any]) -> int:
    said = {_stem(word) for word in _words(text)} - _STOP_WORDS
    wider = said | {_stem(word) for group in _STEMMED for word in group if group & said}
    name = {_stem(word) for word in _split(str(tool["name"]))} - _STOP_WORDS
    told = {_stem(word) for word in _words(str(tool.get("description") or ""))} - _STOP_WORDS
    asked: set[str] = set()
    for key, schema in ((tool.get("parameters") or {}).get("properties") or {}).items():
        asked |= {_stem(word) for word in _split(key)} - _STOP_WORDS
        if isinstance(schema, Mapping):
            asked |= {_stem(str(option).lower()) for option in schema.get("enum") or ()}
    return (
        4 * len(name & said)
        + 3 * bool(name & wider - said)
        + 2 * len(told & said)
        + bool(told & wider - said)
        + 2 * len(asked & said)
    )


def _split(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z]+", spaced) if word]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower().replace("'", ""))


def _stem(word: str) -> str:
    for ending in ("ings", "ing", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


_STEMMED = tuple({_stem(word) for word in group} for group in _SYNONYMS)
