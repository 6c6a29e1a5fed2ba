"""What a client may configure: checked whole, with the nearest name for what does not exist."""

from typing import Any

import pytest

from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.bus.messages.work import ToolSpec
from voicebus.services.session import configuration
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.core.link import LOCAL_FIELDS
from voicebus.services.session.providers.openai import build_session_update

WEATHER = ToolSpec(name="weather", parameters={"type": "object"})
CATALOGUE = {"weather": WEATHER, "clock": ToolSpec(name="clock", parameters={})}


def test_nothing_given_means_the_defaults() -> None:
    assert configuration.check({}) == configuration.Checked(SessionConfig(), [])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"turn_detection": None}, "none"),
        ({"turn_detection": "semantic_vad"}, "semantic_vad"),
        ({"turn_detection": {"threshold": 0.4}}, ServerVad(threshold=0.4)),
        (
            {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}},
            SemanticVad(eagerness="low"),
        ),
    ],
)
def test_turn_detection_has_several_forms(given: dict[str, Any], expected: object) -> None:
    assert configuration.check(given).config.turn_detection == expected


def test_what_the_client_gave_is_left_as_it_was() -> None:
    given = {"turn_detection": {"threshold": 0.4}, "temperature": 1}

    configuration.check(given)

    assert given == {"turn_detection": {"threshold": 0.4}, "temperature": 1}


def test_an_update_keeps_what_it_does_not_name() -> None:
    base = SessionConfig(voice="ash", turn_detection=ServerVad(threshold=0.4))

    config = configuration.check({"instructions": "new"}, base).config

    assert (config.voice, config.instructions) == ("ash", "new")
    assert config.turn_detection == ServerVad(threshold=0.4)


def test_what_is_ignored_is_warned_of() -> None:
    checked = configuration.check({"temperature": 0.8, "input_audio_transcription": False})

    assert len(checked.warnings) == 2
    assert "temperature" in checked.warnings[0]


def test_a_session_that_only_writes_down_has_no_tools_and_is_told_what_says_nothing_to_it() -> None:
    given = {"session_type": "transcription", "instructions": "Be brief.", "tools": ["weather"]}

    config, (warning,) = configuration.check({**given, "voice": None, "lease_s": 30})

    assert warning.startswith("instructions, tools: ignored")
    assert config.tools == []
    assert configuration.check({"session_type": "transcription"}).warnings == []


@pytest.mark.parametrize("field", sorted(set(configuration.FIELDS) - configuration.FIXED))
def test_what_may_change_says_something_to_a_session_that_only_writes_down_or_is_known_not_to(
    field: str,
) -> None:
    config = SessionConfig(session_type="transcription", provider_extras={"a": 1})
    session = build_session_update(config, [], [field])["session"]

    says_something = len(session) > 1 or field in LOCAL_FIELDS

    assert says_something or field in configuration.ANSWERS
    assert len(session) == 1 or field not in configuration.ANSWERS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"instruction": "x"}, "did you mean instructions?"),
        ({"turn_detection": {"treshold": 1}}, "did you mean threshold?"),
        ({"turn_detection": {"type": "sever_vad"}}, "did you mean server_vad?"),
        ({"turn_detection": {"type": "semantic_vad", "threshold": 1}}, "(semantic_vad) has no"),
        ({"input_audio_transcription": {"modle": "x"}}, "did you mean model?"),
        ({"truncation": {"type": "retention_ratio", "ratio": 1}}, "retention_ratio"),
        (
            {"truncation": {"type": "retention_ratio", "token_limits": {"post": 1}}},
            "config.truncation.token_limits has no 'post'",
        ),
        ({"reasoning": {"efort": "low"}}, "did you mean effort?"),
        ({"prompt": {"id": "p", "verison": "1"}}, "did you mean version?"),
        ({"voice": {"ID": "voice_1"}}, "config.voice has no 'ID'"),
        ({"tracing": {"workflow": "x"}}, "did you mean workflow_name?"),
        ({"tool_choice": {"nmae": "x"}}, "did you mean name?"),
        ({"voice": {}}, 'custom voice is {"id"'),
        ({"prompt": {"version": "1"}}, '"id" of a prompt'),
        ({"reasoning": {"effort": "huge"}}, "use one of minimal, low"),
        ({"truncation": {"type": "some"}}, "use one of retention_ratio"),
        ({"tool_choice": "sometimes"}, '"auto", "none", "required"'),
        ({"tool_choice": {"type": "function"}}, '"auto", "none", "required"'),
        ({"tool_choice": {"type": "mpc", "name": "x"}}, '"auto", "none", "required"'),
        ({"tool_choice": {"type": "mcp", "name": "x"}}, '"auto", "none", "required"'),
        ({"tool_choice": {"type": "mcp", "server_label": "x", "name": 1}}, '"type": "mcp"'),
        ({"tool_choice": {"name": "x", "server_label": "y"}}, '"auto", "none", "required"'),
        ({"tool_choice": ["auto"]}, '"auto", "none", "required"'),
        ({"modalities": []}, '"audio" or "text"'),
        ({"modalities": ["video"]}, "config: "),
        ({"lease_s": 0}, "1 to 86400"),
        ({"speed": 9}, "0.25 to 1.5"),
        ({"max_response_output_tokens": 5000}, '"inf"'),
        ({"max_duration_s": 0}, "must be above 0"),
        ({"max_tokens_total": -1}, "must be above 0"),
        ({"tool_timeout_s": 0}, "must be above 0"),
        ({"approval_timeout_s": 0}, "must be above 0"),
        ({"max_duration_s": 1e305}, "at most 604800"),
        ({"tool_timeout_s": 1e9}, "at most 604800"),
        ({"approval_timeout_s": 1e9}, "at most 604800"),
        ({"turn_detection": {"type": []}}, "has no type []"),
        ({"filler": {"after_ms": 5}}, "use 200 to 60000"),
        ({"filler": {"after": 5}}, "did you mean after_ms?"),
        ({"voice": 3}, "config: "),
        ({"on_interrupt": "maybe"}, "config: "),
        ({"session_type": "translation"}, "config: "),
    ],
)
def test_what_does_not_hold_is_refused_in_words(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadMessage) as refused:
        configuration.check(given)

    assert words in str(refused.value)


def test_every_option_is_taken() -> None:
    given: dict[str, Any] = {
        "voice": {"id": "voice_123"},
        "input_audio_transcription": {"model": "any-model", "language": "de", "prompt": "names"},
        "tool_choice": {"type": "function", "name": "weather"},
        "max_response_output_tokens": "inf",
        "noise_reduction": "far_field",
        "speed": 1.25,
        "prompt": {"id": "pmpt_1", "version": "2", "variables": {"city": "Berlin"}},
        "tracing": {"workflow_name": "support", "metadata": {"a": 1}},
        "truncation": {
            "type": "retention_ratio",
            "retention_ratio": 0.8,
            "token_limits": {"post_instructions": 8000},
        },
        "reasoning": {"effort": "low"},
        "parallel_tool_calls": False,
        "include": ["item.input_audio_transcription.logprobs"],
        "provider_extras": {"anything": {"at": "all"}},
        "session_type": "realtime",
    }

    config = configuration.check(given).config

    assert config.prompt == given["prompt"]
    assert config.provider_extras == given["provider_extras"]


# --- what a provider can do -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "can", "words"),
    [
        (
            {"session_type": "transcription"},
            Capabilities(transcription_sessions=False),
            "session_type",
        ),
        ({"turn_detection": None}, Capabilities(manual_commit=False), "turn_detection"),
        ({}, Capabilities(server_turn_detection=False), 'use turn_detection "none"'),
        (
            {"turn_detection": {"type": "semantic_vad"}},
            Capabilities(semantic_turn_detection=False),
            "use server_vad",
        ),
        (
            {"turn_detection": "semantic_vad"},
            Capabilities(semantic_turn_detection=False),
            "use server_vad",
        ),
        ({"modalities": ["text"]}, Capabilities(text=False), "answers only in speech"),
    ],
)
def test_what_a_provider_cannot_do_is_said_before_it_is_dialled(
    given: dict[str, Any], can: Capabilities, words: str
) -> None:
    config = configuration.check(given).config

    assert words in (configuration.unsupported(config, can) or "")
    assert configuration.unsupported(config, Capabilities()) is None


# --- tools ------------------------------------------------------------------------------------


def test_a_star_means_the_whole_catalogue() -> None:
    tools = configuration.resolve("*", CATALOGUE)

    assert [spec.name for spec in tools.specs] == ["weather", "clock"]
    assert (tools.client, tools.missing) == ([], [])


def test_names_are_found_and_missing_ones_told() -> None:
    tools = configuration.resolve(["clock", "teapot"], CATALOGUE)

    assert [spec.name for spec in tools.specs] == ["clock"]
    assert tools.missing == ["teapot"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_whole_schema_is_the_clients_own_tool(wrapped: bool) -> None:
    schema: dict[str, Any] = {
        "name": "beep",
        "description": "Beeps.",
        "parameters": {"type": "object"},
        "timeout_s": 3,
        "approval": True,
    }
    given = {"type": "function", "function": schema} if wrapped else {"type": "function", **schema}

    tools = configuration.resolve([given, "weather"], CATALOGUE)

    assert tools.client == ["beep"]
    (beep, weather) = tools.specs
    assert (beep.on_interrupt, beep.timeout_s, beep.approval) == ("finish", 3.0, True)
    assert weather == WEATHER


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, "needs a name"),
        ({"name": "x" * 65}, "1 to 64"),
        ({"function": 3}, "needs a name"),
        ({"name": "x", "parameters": []}, "JSON Schema object"),
        ({"name": "x", "paramters": {}}, "did you mean parameters?"),
        ({"name": "x", "timeout_s": 0}, "above 0"),
        ({"name": "x", "timeout_s": "long"}, "config.tools: 'x'"),
        ({"name": "x", "on_interrupt": "explode"}, "config.tools: 'x'"),
    ],
)
def test_a_malformed_schema_is_refused_in_words(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(BadMessage) as refused:
        configuration.resolve([schema], CATALOGUE)

    assert words in str(refused.value)


def test_a_tool_named_twice_is_refused() -> None:
    with pytest.raises(BadMessage, match="twice"):
        configuration.resolve(["weather", {"name": "weather"}], CATALOGUE)
