"""A tool's output as a sentence that can be spoken and understood again."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from voicebus.services.simulator import numbers

_PLACES = ("city", "location", "place", "town", "country", "where")
_SKIES = ("sky", "condition", "conditions", "weather", "summary", "forecast", "outlook")
_TIMES = ("time", "now", "local_time", "current_time")
_ERRORS = ("error", "message", "reason", "detail")
_UNITS = {
    "c": "",
    "f": "",
    "s": "seconds",
    "ms": "milliseconds",
    "kmh": "kilometers per hour",
    "km": "kilometers",
    "m": "meters",
    "percent": "percent",
    "pct": "percent",
    "eur": "euros",
    "usd": "dollars",
}
LONGEST = 600
DONE = "That is done."


def of_output(output: str) -> str:
    """What an assistant says about a tool's output: JSON of any shape, or plain text."""
    try:
        value = json.loads(output)
    except ValueError:
        value = output
    return _clipped(_sentence(value))


def _sentence(value: Any) -> str:
    if value is None or value is True or value in ("", {}, []):
        return DONE
    match value:
        case False:
            return "The answer is no."
        case int() | float():
            return f"The answer is {numbers.spoken(value)}."
        case str():
            return _ended(numbers.in_words(value))
        case Mapping():
            return _of_mapping(value)
        case Sequence():
            noun = "result" if len(value) == 1 else "results"
            return f"I found {numbers.spoken(len(value))} {noun}: {_listed(value)}."
        case _:
            return _ended(str(value))


def _of_mapping(value: Mapping[str, Any]) -> str:
    if value.get("error"):
        return f"I am sorry, that did not work. {_ended(_reason(value['error']))}"
    rest = {str(key): part for key, part in value.items() if part is not None}
    place = _taken(rest, _PLACES)
    degrees = _taken_by(rest, lambda key: key.startswith(("temperature", "temp", "degrees")))
    sky = _taken(rest, _SKIES)
    time = _taken(rest, _TIMES)
    said = []
    parts = []
    if isinstance(degrees, int | float) and not isinstance(degrees, bool):
        parts.append(f"{numbers.spoken(degrees)} degrees")
    elif degrees is not None:
        parts.append(f"{_phrase(degrees)} degrees")
    if sky is not None:
        parts.append(_phrase(sky))
    if time is not None:
        parts.append(_phrase(time))
    where = f" in {_phrase(place)}" if place is not None else ""
    if parts:
        said.append(f"It is {' and '.join(parts)}{where}.")
    elif place is not None:
        rest = {"place": place, **rest}
    for key, part in rest.items():
        said.append(_fact(key, part))
    return " ".join(said) or DONE


def _fact(key: str, value: Any) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().split("_")
    unit = _UNITS.get(words[-1], "") if len(words) > 1 and words[-1] in _UNITS else None
    if unit is not None:
        words = words[:-1]
    name = " ".join(word for word in words if word)
    if isinstance(value, bool):
        return f"The {name} is {'yes' if value else 'no'}."
    if isinstance(value, list | tuple):
        return f"The {name} are {_listed(value)}." if value else f"There are no {name}."
    return _ended(f"The {name} is {_phrase(value)}{f' {unit}' if unit else ''}")


def _phrase(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return numbers.spoken(value)
        case str():
            return numbers.in_words(value).strip().rstrip(".")
        case Mapping():
            return ", ".join(f"{_words(str(key))} {_phrase(part)}" for key, part in value.items())
        case list():
            return _listed(value)
        case _:
            return str(value)


def _listed(values: Sequence[Any]) -> str:
    if not values:
        return "nothing"
    phrases = [_phrase(value) for value in values[:5]]
    if len(values) > 5:
        phrases.append(f"{numbers.spoken(len(values) - 5)} more")
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _reason(error: Any) -> str:
    if isinstance(error, Mapping):
        for key in _ERRORS:
            if error.get(key):
                return _reason(error[key])
    return _phrase(error).replace("_", " ")


def _words(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).replace("_", " ").lower()


def _taken(values: dict[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if key in values and not isinstance(values[key], Mapping | list):
            return values.pop(key)
    return None


def _taken_by(values: dict[str, Any], wanted: Any) -> Any:
    for key in values:
        if wanted(key):
            return values.pop(key)
    return None


def _ended(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _clipped(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST].rsplit(' ', 1)[0]}, and so on."
