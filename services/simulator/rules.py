"""What the simulated model answers: a few readable rules instead of a mind."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from voicebus.services.simulator import sentences, tool_choice
from voicebus.services.simulator.steps import Call, Plan, Question, Say

STORY = (
    "Once upon a time there was a small lighthouse on a rocky island. "
    "Every evening the old keeper climbed the stairs and lit the lamp. "
    "The ships saw the light from far away and found their way home. "
    "One winter night the wind was so strong that the windows broke. "
    "The lamp went out, and the sea was dark. "
    "But the keeper had a daughter, and the daughter had a drum. "
    "She went out into the storm and beat the drum until the morning came. "
    "The sailors heard the drum, and they steered by the sound. "
    "Not one ship was lost that night. "
    "In the spring the sailors came back with glass for the windows, and with oil for the lamp. "
    "They brought bread and apples and a silver bell. "
    "Since then the bell has hung beside the lamp, and it is rung whenever the fog is thick. "
    "And if the wind is right, you can hear it from the shore."
)
GREETING = "Hello. How can I help you?"
STOPPED = "All right, I will stop."


def answer(question: Question) -> Plan:
    """The answer to a question; the same question always gets the same answer."""
    tools = _functions(question)
    forced = _forced(question.tool_choice, tools)
    outputs = _fresh_outputs(question.history)
    text = last_request(question.history)
    if forced is not None:
        return Plan((Call(str(forced["name"]), tool_choice.arguments(text or "", forced)),))
    if question.tool_choice == "required" and tools:
        calls = tool_choice.chosen(text or "", tools)
        if not calls:
            calls = [
                tool_choice.Chosen(
                    str(tools[0]["name"]), tool_choice.arguments(text or "", tools[0])
                )
            ]
        return Plan(tuple(Call(call.name, call.arguments) for call in calls))
    if outputs:
        return Plan((Say(" ".join(sentences.of_output(output) for output in outputs)),))
    if text is None:
        return Plan((Say(_told_to_say(question.instructions) or GREETING),))
    return _reply(text, tools)


def _reply(text: str, tools: Sequence[Mapping[str, Any]]) -> Plan:
    lower = re.sub(r"[^a-z' ]+", " ", text.lower())
    if not lower.strip():
        return Plan((Say("I am sorry, I did not understand that. Please say it again."),))
    if re.fullmatch(r"\s*(please )?(stop|be quiet|wait|enough)( (it|now|please|that))*\s*", lower):
        return Plan((Say(STOPPED),))
    if found := re.match(
        r"\s*(?:please )?(?:say|repeat)\b(?: after me)?:?\s+(.+)", text, re.I | re.S
    ):
        return Plan((Say(found[1].strip()),))
    parts: list[Say | Call] = []
    if re.search(r"\bstory\b|\btale\b", lower):
        parts.append(Say(STORY))
    parts += [
        Call(call.name, call.arguments) for call in tool_choice.chosen(lower_words(text), tools)
    ]
    if parts:
        return Plan(tuple(parts))
    if re.match(r"\s*(hello|hi|hey|good (morning|evening|day))\b", lower):
        return Plan((Say(GREETING),))
    if re.search(r"\bcount to (ten|10)\b", text.lower()):
        return Plan((Say("One, two, three, four, five, six, seven, eight, nine, ten."),))
    if re.search(r"\bthank(s| you)\b", lower):
        return Plan((Say("You are welcome."),))
    if re.search(r"\bgood ?bye\b", lower):
        return Plan((Say("Goodbye. It was nice to talk to you."),))
    if re.search(r"\bwho are you\b|\byour name\b", lower):
        return Plan((Say("I am the simulator. I answer by simple rules."),))
    return Plan((Say(f"You said: {text.strip().rstrip('.!?')}. I have no answer to that."),))


def lower_words(text: str) -> str:
    """The text without the marks at its end; its case is kept, as it may tell names."""
    return text.strip().rstrip(".!?")


def _functions(question: Question) -> list[Mapping[str, Any]]:
    if question.tool_choice == "none":
        return []
    return [tool for tool in question.tools if tool.get("type", "function") == "function"]


def _forced(choice: Any, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return next((tool for tool in tools if tool.get("name") == choice.get("name")), None)
    return None


def _fresh_outputs(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Outputs that came after the last thing a user or the assistant said."""
    outputs: list[str] = []
    for item in reversed(history):
        if item["type"] == "function_call_output":
            outputs.insert(0, str(item.get("output", "")))
        elif item["type"] == "message":
            break
    return outputs


def last_request(history: Sequence[Mapping[str, Any]]) -> str | None:
    """What the user said or wrote last; None if nothing."""
    for item in reversed(history):
        if item["type"] == "message" and item["role"] == "user":
            return str(item.get("heard", ""))
    return None


def _told_to_say(instructions: str) -> str | None:
    found = re.search(r"\bsay\s+[\"'“](.+?)[\"'”]", instructions, re.IGNORECASE)
    return found[1] if found else None
