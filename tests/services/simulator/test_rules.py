"""What the rules answer, from questions as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from voicebus.services.simulator import rules, tool_choice
from voicebus.services.simulator.steps import Call, Question, Say


def tool(name: str, description: str = "", **parameters: Any) -> dict[str, Any]:
    """A function tool; parameters without a default are required."""
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": parameters,
            "required": [key for key, schema in parameters.items() if "default" not in schema],
        },
    }


TEXT = {"type": "string"}
TOOLS = [
    tool("get_weather", "Looks up the weather in a city.", city=TEXT),
    tool("current_time", "The time of day."),
    tool("search_archive", "Searches the archive, slowly.", query=TEXT),
    tool("burn_cpu", "Keeps a core busy.", seconds={"type": "number"}),
    tool("crash", "Crashes the interpreter."),
]


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "heard": text}


def question(
    *history: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] = TOOLS, choice: Any = "auto"
) -> Question:
    return Question("r", history, tools, choice, "Be kind.", True, "audio/pcm")


def said(*history: Mapping[str, Any], **more: Any) -> str:
    """The words of an answer that is one message."""
    [part] = rules.answer(question(*history, **more)).parts
    assert isinstance(part, Say)
    return part.text


def called(text: str, tools: Sequence[Mapping[str, Any]] = TOOLS) -> list[tuple[str, Any]]:
    """Names and arguments of the calls that a request gets."""
    parts = rules.answer(question(user(text), tools=tools)).parts
    return [(part.name, part.arguments) for part in parts if isinstance(part, Call)]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("What is the weather in Berlin?", [("get_weather", {"city": "Berlin"})]),
        ("what's the temperature in new york", [("get_weather", {"city": "New York"})]),
        ("what time is it", [("current_time", {})]),
        (
            "what is the weather in paris and what time is it",
            [("get_weather", {"city": "Paris"}), ("current_time", {})],
        ),
        (
            "What is the weather in Berlin and in Rome?",
            [("get_weather", {"city": "Berlin"}), ("get_weather", {"city": "Rome"})],
        ),
        ("Search the archive for old maps.", [("search_archive", {"query": "old maps"})]),
        ("burn the processor for twenty five seconds", [("burn_cpu", {"seconds": 25})]),
        ("crash the tool", [("crash", {})]),
        ("How is the weather in Ouagadougou?", [("get_weather", {"city": "Ouagadougou"})]),
        ("tell me a joke", []),
        ("how are you", []),
        ("what is your name", []),
    ],
)
def test_a_request_calls_the_tools_that_fit(text: str, calls: list[tuple[str, Any]]) -> None:
    assert called(text) == calls


def test_tools_of_other_people_are_found_by_their_words() -> None:
    dice = tool("rollDice", "Rolls dice.", count={"type": "integer"}, sides={"type": "integer"})
    light = tool("set_light", "Switches a light.", room={"enum": ["kitchen", "hall"]},
                 on={"type": "boolean"})  # fmt: skip
    tools = [dice, light]

    assert called("roll two dice with six sides", tools) == [("rollDice", {"count": 2, "sides": 6})]
    assert called("Light in the hall, please", tools) == [
        ("set_light", {"room": "hall", "on": True})
    ]


def test_a_name_that_follows_at_is_what_a_required_text_gets() -> None:
    book = tool(
        "book_table", "Book a table at a restaurant.", restaurant=TEXT, people={"type": "integer"}
    )

    assert called("Book a table for two people at Luigi", [book]) == [
        ("book_table", {"restaurant": "Luigi", "people": 2})
    ]
    assert called("Book a table for four at Chez Marie, please.", [book]) == [
        ("book_table", {"restaurant": "Chez Marie", "people": 4})
    ]
    assert called("book a table", [book]) == [
        ("book_table", {"restaurant": "book a table", "people": 1})
    ]


def test_optional_parameters_are_left_out_unless_they_were_said() -> None:
    unit = {"enum": ["celsius", "fahrenheit"], "default": "celsius"}
    tools = [tool("get_weather", "", city=TEXT, unit=unit)]

    assert called("weather in Rome", tools) == [("get_weather", {"city": "Rome"})]
    assert called("weather in Rome in fahrenheit", tools) == [
        ("get_weather", {"city": "Rome", "unit": "fahrenheit"})
    ]


def test_a_long_story_and_a_search_are_one_answer() -> None:
    parts = rules.answer(question(user("tell me a long story and search the archive"))).parts

    assert parts[0] == Say(rules.STORY)
    assert isinstance(parts[1], Call)
    assert parts[1].name == "search_archive"


def test_without_a_fitting_tool_the_rest_of_a_request_is_still_answered() -> None:
    assert said(user("tell me a long story and search the archive"), tools=[]) == rules.STORY


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            '{"city": "Berlin", "temperature_c": 21, "sky": "sunny"}',
            "It is twenty one degrees and sunny in Berlin.",
        ),
        ('{"error": "no such city"}', "I am sorry, that did not work. No such city."),
        (
            '{"error": {"code": "crashed", "message": "the tool crashed with signal 11"}}',
            "I am sorry, that did not work. The tool crashed with signal eleven.",
        ),
        ('{"time": "14:05"}', "It is fourteen oh five."),
        ('["a", "b"]', "I found two results: a and b."),
        ('["a", []]', "I found two results: a and nothing."),
        ("42.5", "The answer is forty two point five."),
        ("null", "That is done."),
        ("", "That is done."),
        ("{}", "That is done."),
        ('{"city": null}', "That is done."),
        ("the door is open", "The door is open."),
        ('{"took_ms": 1200, "found": true}', "The took is one thousand two hundred milliseconds. "
         "The found is yes."),
    ],
)  # fmt: skip
def test_an_output_is_said_in_words(output: str, words: str) -> None:
    call = {"type": "function_call", "name": "x", "call_id": "c"}
    result = {"type": "function_call_output", "call_id": "c", "output": output}

    assert said(user("What is the weather?"), call, result) == words


def test_outputs_of_several_calls_are_said_in_their_order() -> None:
    results = [
        {"type": "function_call_output", "call_id": "c", "output": output}
        for output in ('{"city": "Rome", "temperature_c": 30}', '{"city": "Oslo", "sky": "grey"}')
    ]

    assert said(user("x"), *results) == "It is thirty degrees in Rome. It is grey in Oslo."


def test_an_output_that_had_its_answer_is_not_said_again() -> None:
    result = {"type": "function_call_output", "call_id": "c", "output": "1"}
    answer = {"type": "message", "role": "assistant", "heard": "The answer is one."}

    assert said(result, answer, user("thank you")) == "You are welcome."


def test_the_choice_of_tools_is_honoured() -> None:
    weather = user("What is the weather in Berlin?")
    named = {"type": "function", "name": "crash"}
    forced = rules.answer(question(weather, choice=named)).parts
    required = rules.answer(question(user("hm"), choice="required")).parts

    assert "no answer" in said(weather, choice="none")
    assert forced == (Call("crash", {}),)
    assert [type(part) for part in required] == [Call]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stop please", rules.STOPPED),
        ("Hello", rules.GREETING),
        ("Say: the sky is blue", "the sky is blue"),
        ("", "I am sorry, I did not understand that. Please say it again."),
        ("Do horses fly?", "You said: Do horses fly. I have no answer to that."),
    ],
)
def test_small_talk_is_answered(text: str, words: str) -> None:
    assert said(user(text)) == words


def test_without_a_question_the_assistant_greets_or_says_what_it_was_told_to() -> None:
    told = Question("r", (), (), "auto", "Please say 'good morning'.", True, "audio/pcm")

    assert said() == rules.GREETING
    assert rules.answer(told).parts == (Say("good morning"),)


def test_schemas_that_are_odd_do_no_harm() -> None:
    odd = {"type": "function", "name": "odd_tool", "parameters": {"properties": {"a": True}}}

    assert called("use the odd tool", [odd, {"type": "function", "name": "bare_tool"}]) == [
        ("odd_tool", {})
    ]
    assert tool_choice.best("anything", []) is None
