"""A scenario being played on one connection: decides what to do, does nothing itself."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from voicebus.services.simulator import rules, sentences
from voicebus.services.simulator.scenario import Action, AnswerRule, Heard, Rule, Scenario, When
from voicebus.services.simulator.steps import Call, Plan, Question, Say


@dataclass(frozen=True, slots=True)
class Course:
    """What happens with an event: the actions in their order; `go_on` is the event itself."""

    event: Any
    """The event, with what the scenario set and unset. A client may send what is no object."""
    actions: Sequence[Action]


_USUAL = (Action(go_on=True),)


class Script:
    """One connection's way through a scenario."""

    def __init__(self, scenario: Scenario, connection: int = 1) -> None:
        self._scenario = scenario
        self._connection = connection
        self._fits: dict[int, int] = {}
        self._answered: dict[int, int] = {}
        self._heard = 0

    def opened(self) -> Sequence[Action]:
        """The connection is open and `session.created` is on its way."""
        course = self._course("opens", "", {})
        return [action for action in course.actions if not action.go_on]

    def timers(self) -> list[tuple[int, Sequence[Action]]]:
        """What to do so many milliseconds after the opening."""
        return [
            (rule.after_ms, rule.do)
            for rule in self._scenario.on
            if rule.after_ms is not None and rule.connection in (None, self._connection)
        ]

    def received(self, event: Any) -> Course:
        """The client sent this."""
        if not isinstance(event, Mapping):
            return Course(event, _USUAL)
        return self._course("receives", str(event.get("type")), event)

    def sending(self, event: Mapping[str, Any]) -> Course:
        """The server is about to send this."""
        return self._course("sends", str(event.get("type")), event)

    def hears(self) -> Heard | None:
        """What the ears find in the next sound; None if the scenario does not say."""
        heard = self._scenario.hear
        if not heard:
            return None
        self._heard += 1
        return heard[min(self._heard, len(heard)) - 1]

    def plan(self, question: Question) -> Plan:
        """The answer of the scenario, or else of the rules."""
        for n, rule in enumerate(self._scenario.answer):
            used = self._answered.get(n, 0)
            if (rule.times is None or used < rule.times) and self._fits_when(rule.when, question):
                self._answered[n] = used + 1
                return _planned(rule, question)
        if self._scenario.server.rules:
            return rules.answer(question)
        return Plan((Say("The scenario has no answer to that."),))

    def _course(self, cause: str, kind: str, event: Mapping[str, Any]) -> Course:
        for n, rule in enumerate(self._scenario.on):
            if not _is_about(rule, cause, kind) or not _has(event, rule.where):
                continue
            if rule.connection not in (None, self._connection):
                continue
            count = self._fits[n] = self._fits.get(n, 0) + 1
            if rule.nth is not None and count != rule.nth:
                continue
            if rule.times is not None and count > rule.times:
                continue
            changed = deepcopy(dict(event)) if rule.set or rule.unset else event
            for path, value in rule.set.items():
                put(changed, path, value)
            for path in rule.unset:
                _take(changed, path)
            usual = () if rule.instead else _USUAL
            return Course(changed, (*usual, *rule.do))
        return Course(event, _USUAL)

    def _fits_when(self, when: When, question: Question) -> bool:
        if when.connection not in (None, self._connection):
            return False
        if when.out_of_band not in (None, question.is_out_of_band):
            return False
        if when.speaks not in (None, question.speaks):
            return False
        outputs = _outputs(question.history)
        if when.output is not None and not any(when.output in text for _, text in outputs):
            return False
        if when.tool is not None and not any(when.tool == name for name, _ in outputs):
            return False
        if when.text is not None:
            if when.output is None and when.tool is None and outputs:
                return False  # The user's words have had their answer: the calls.
            return when.text.lower() in (rules.last_request(question.history) or "").lower()
        return True


def filled(value: Any, ids: Mapping[str, str | None], event: Mapping[str, Any]) -> Any:
    """The value with `$name` replaced by an id, and `$event.path` by a part of the event."""
    if isinstance(value, Mapping):
        return {key: filled(part, ids, event) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, ids, event) for part in value]
    if isinstance(value, str) and value.startswith("$"):
        if value.startswith("$event."):
            return _look(event, value[7:])
        if value[1:] in ids:
            return ids[value[1:]]
    return value


def _is_about(rule: Rule, cause: str, kind: str) -> bool:
    if cause == "opens":
        return rule.opens
    wanted = rule.receives if cause == "receives" else rule.sends
    return wanted is not None and wanted in (kind, "*")


def _planned(rule: AnswerRule, question: Question) -> Plan:
    parts: list[Say | Call] = []
    if rule.say is not None or rule.tone_ms is not None:
        parts.append(Say(_filled_in(rule.say or "", question), rule.tone_ms))
    calls = rule.call if isinstance(rule.call, list) else [rule.call] if rule.call else []
    parts += [Call(call.name, call.arguments, call.call_id) for call in calls]
    for part in rule.parts:
        if part.call is not None:
            parts.append(Call(part.call.name, part.call.arguments, part.call.call_id))
        else:
            parts.append(Say(_filled_in(part.say or "", question), part.tone_ms))
    return Plan(
        tuple(parts),
        status=rule.status,
        reason=rule.reason,
        error=rule.error,
        delay_ms=rule.delay_ms,
        pace=rule.pace,
        chunk_ms=rule.chunk_ms,
        never_ends=rule.never_ends,
        cut_after_ms=rule.cut_after_ms,
        interleaved=rule.interleaved,
    )


class _Values(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


def _filled_in(text: str, question: Question) -> str:
    """`{text}`, `{output}`, `{said}` and the fields of the last output, put into the text."""
    values = _Values(text=rules.last_request(question.history) or "")
    outputs = _outputs(question.history)
    if outputs:
        values["output"] = outputs[-1][1]
        values["said"] = " ".join(sentences.of_output(output) for _, output in outputs)
        try:
            fields = json.loads(outputs[-1][1])
        except ValueError:
            fields = None
        if isinstance(fields, Mapping):
            values.update(fields)
    try:
        return text.format_map(values)
    except (ValueError, IndexError, AttributeError):
        return text


def _outputs(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Tool and output of those that came after the last message."""
    names = {
        item.get("call_id"): str(item.get("name"))
        for item in history
        if item["type"] == "function_call"
    }
    found: list[tuple[str, str]] = []
    for item in reversed(history):
        if item["type"] == "message":
            break
        if item["type"] == "function_call_output":
            found.insert(0, (names.get(item.get("call_id"), ""), str(item.get("output", ""))))
    return found


def _has(event: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(_look(event, path) == value for path, value in where.items())


def _look(value: Any, path: str) -> Any:
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def put(event: Any, path: str, value: Any) -> None:
    """Set the value at a dotted path; what is missing on the way is made."""
    *way, last = path.split(".")
    for key in way:
        if isinstance(event, list) and key.isdigit() and int(key) < len(event):
            event = event[int(key)]
        elif isinstance(event, dict):
            if not isinstance(event.get(key), dict | list):
                event[key] = {}
            event = event[key]
        else:
            return
    if isinstance(event, dict):
        event[last] = value
    elif isinstance(event, list) and last.isdigit() and int(last) < len(event):
        event[int(last)] = value


def _take(event: Any, path: str) -> None:
    *way, last = path.split(".")
    holder = _look(event, ".".join(way)) if way else event
    if isinstance(holder, dict):
        holder.pop(last, None)
