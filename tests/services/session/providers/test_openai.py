"""OpenAI's GA dialect: what is asked, checked against OpenAI's types, and what is understood."""

from typing import Any, get_args

import pytest
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter

from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.bus.messages.events import Usage
from voicebus.bus.messages.work import ToolSpec
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.providers.openai import (
    DEFAULT_TRANSCRIPTION,
    QUIET,
    READERS,
    OpenAI,
    build_session_update,
    merge,
)

_client_event: TypeAdapter[Any] = TypeAdapter(RealtimeClientEvent)
PCM = {"type": "audio/pcm", "rate": 24000}
WEATHER = ToolSpec(name="weather", description="The weather", parameters={"type": "object"})


def session(config: SessionConfig, *tools: ToolSpec, only: list[str] | None = None) -> Any:
    return build_session_update(config, tools, only)["session"]


def unknown_fields(value: Any, where: str = "") -> list[str]:
    """Fields that OpenAI's types do not have, at any depth."""
    if isinstance(value, BaseModel):
        found = [f"{where}.{name}" for name in value.model_extra or {}]
        for name in type(value).model_fields:
            found += unknown_fields(getattr(value, name), f"{where}.{name}")
        return found
    if isinstance(value, list):
        return [one for inner in value for one in unknown_fields(inner, where)]
    return []


def assert_valid(frame: dict[str, Any]) -> None:
    event = _client_event.validate_python(frame)

    assert event.type == frame["type"]
    assert unknown_fields(event) == []


# --- session.update ---------------------------------------------------------------------------


def test_the_defaults_are_mojentics_with_transcription_on() -> None:
    assert build_session_update(SessionConfig()) == {
        "type": "session.update",
        "session": {
            "type": "realtime",
            "output_modalities": ["audio"],
            "tools": [],
            "tool_choice": "auto",
            "audio": {
                "input": {
                    "format": PCM,
                    "turn_detection": {"type": "server_vad"},
                    "transcription": DEFAULT_TRANSCRIPTION,
                },
                "output": {"format": PCM},
            },
        },
    }


@pytest.mark.parametrize(
    ("config", "path", "expected"),
    [
        (SessionConfig(modalities=("text",)), "output_modalities", ["text"]),
        (SessionConfig(modalities=("text", "audio")), "output_modalities", ["audio"]),
        (SessionConfig(instructions="Be kind."), "instructions", "Be kind."),
        (SessionConfig(voice="cedar"), "audio.output.voice", "cedar"),
        (SessionConfig(voice={"id": "voice_1"}), "audio.output.voice", {"id": "voice_1"}),
        (SessionConfig(speed=1.2), "audio.output.speed", 1.2),
        (SessionConfig(turn_detection="none"), "audio.input.turn_detection", None),
        (
            SessionConfig(turn_detection=ServerVad(threshold=0.4, idle_timeout_ms=6000)),
            "audio.input.turn_detection",
            {"type": "server_vad", "threshold": 0.4, "idle_timeout_ms": 6000},
        ),
        (
            SessionConfig(turn_detection=SemanticVad(eagerness="high", interrupt_response=False)),
            "audio.input.turn_detection",
            {"type": "semantic_vad", "eagerness": "high", "interrupt_response": False},
        ),
        (
            SessionConfig(turn_detection="semantic_vad"),
            "audio.input.turn_detection",
            {"type": "semantic_vad"},
        ),
        (SessionConfig(input_audio_transcription=False), "audio.input.transcription", None),
        (
            SessionConfig(input_audio_transcription={"model": "any", "language": "de"}),
            "audio.input.transcription",
            {"model": "any", "language": "de"},
        ),
        (
            SessionConfig(noise_reduction="near_field"),
            "audio.input.noise_reduction",
            {"type": "near_field"},
        ),
        (
            SessionConfig(input_audio_format="g711_ulaw"),
            "audio.input.format",
            {"type": "audio/pcmu"},
        ),
        (
            SessionConfig(output_audio_format="g711_alaw"),
            "audio.output.format",
            {"type": "audio/pcma"},
        ),
        (SessionConfig(tool_choice="required"), "tool_choice", "required"),
        (
            SessionConfig(tool_choice={"name": "weather"}),
            "tool_choice",
            {"type": "function", "name": "weather"},
        ),
        (
            SessionConfig(tool_choice={"type": "mcp", "server_label": "docs"}),
            "tool_choice",
            {"type": "mcp", "server_label": "docs"},
        ),
        (SessionConfig(max_response_output_tokens=300), "max_output_tokens", 300),
        (SessionConfig(max_response_output_tokens="inf"), "max_output_tokens", "inf"),
        (SessionConfig(prompt={"id": "pmpt_1"}), "prompt", {"id": "pmpt_1"}),
        (SessionConfig(tracing="auto"), "tracing", "auto"),
        (SessionConfig(truncation="disabled"), "truncation", "disabled"),
        (
            SessionConfig(truncation={"type": "retention_ratio", "retention_ratio": 0.5}),
            "truncation",
            {"type": "retention_ratio", "retention_ratio": 0.5},
        ),
        (SessionConfig(reasoning={"effort": "low"}), "reasoning", {"effort": "low"}),
        (SessionConfig(parallel_tool_calls=False), "parallel_tool_calls", False),
        (
            SessionConfig(include=("item.input_audio_transcription.logprobs",)),
            "include",
            ["item.input_audio_transcription.logprobs"],
        ),
    ],
)
def test_each_option_has_its_place(config: SessionConfig, path: str, expected: Any) -> None:
    value = session(config)
    for key in path.split("."):
        value = value[key]

    assert value == expected
    assert_valid(build_session_update(config))


def test_a_mapping_is_checked_as_a_clients_configuration_is() -> None:
    given = {"instructions": "Be kind.", "turn_detection": {"threshold": 0.4}}
    config = SessionConfig(instructions="Be kind.", turn_detection=ServerVad(threshold=0.4))

    assert build_session_update(given) == build_session_update(config)
    for wrong in ({"instruction": "x"}, {"turn_detection": {"treshold": 1}}):
        with pytest.raises(BadMessage, match="did you mean"):
            build_session_update(wrong)


def test_without_tools_they_are_those_that_the_configuration_holds() -> None:
    schema = {"name": "weather", "description": "The weather", "parameters": {"type": "object"}}

    assert build_session_update({"tools": [schema]}) == build_session_update({}, [WEATHER])
    assert build_session_update({"tools": [schema]}, ()) == build_session_update({})
    with pytest.raises(BadMessage, match="names clock"):
        build_session_update({"tools": ["clock"]})


def test_tools_are_functions() -> None:
    assert session(SessionConfig(), WEATHER)["tools"] == [
        {
            "type": "function",
            "name": "weather",
            "description": "The weather",
            "parameters": {"type": "object"},
        }
    ]


def test_extras_are_merged_deeply_and_win() -> None:
    extras = {"audio": {"input": {"noise_reduction": {"type": "far_field"}}}, "tool_choice": "none"}

    value = session(SessionConfig(voice="ash", provider_extras=extras))

    assert value["audio"]["input"]["noise_reduction"] == {"type": "far_field"}
    assert value["audio"]["input"]["format"] == PCM
    assert value["audio"]["output"]["voice"] == "ash"
    assert value["tool_choice"] == "none"


def test_merging_changes_neither_side() -> None:
    base, extra = {"a": {"b": 1}}, {"a": {"c": 2}, "d": [3]}

    assert merge(base, extra) == {"a": {"b": 1, "c": 2}, "d": [3]}
    assert (base, extra) == ({"a": {"b": 1}}, {"a": {"c": 2}, "d": [3]})


@pytest.mark.parametrize(
    ("config", "only", "expected"),
    [
        (SessionConfig(), ["instructions"], {"instructions": ""}),
        (SessionConfig(instructions="new"), ["instructions"], {"instructions": "new"}),
        (SessionConfig(), ["tools"], {"tools": []}),
        (
            SessionConfig(turn_detection="none"),
            ["turn_detection"],
            {"audio": {"input": {"turn_detection": None}}},
        ),
        (
            SessionConfig(),
            ["noise_reduction", "speed"],
            {"audio": {"input": {"noise_reduction": None}, "output": {"speed": 1.0}}},
        ),
        (SessionConfig(), ["tracing", "prompt"], {"prompt": None, "tracing": None}),
        (SessionConfig(), ["max_response_output_tokens"], {"max_output_tokens": "inf"}),
        (SessionConfig(), ["include"], {"include": []}),
        (SessionConfig(provider_extras={"x": 1}), ["provider_extras"], {"x": 1}),
        (SessionConfig(provider_extras={"x": 1}), ["voice"], {}),
        (SessionConfig(), ["on_interrupt"], {}),
    ],
)
def test_an_update_sends_what_it_names_and_clears_what_is_unset(
    config: SessionConfig, only: list[str], expected: dict[str, Any]
) -> None:
    assert session(config, only=only) == {"type": "realtime", **expected}


def test_a_transcription_session_holds_nothing_of_answers() -> None:
    config = SessionConfig(
        session_type="transcription",
        instructions="never sent",
        voice="ash",
        turn_detection=ServerVad(create_response=True, interrupt_response=True, threshold=0.3),
        noise_reduction="far_field",
    )

    frame = build_session_update(config, [WEATHER])

    assert frame["session"] == {
        "type": "transcription",
        "audio": {
            "input": {
                "format": PCM,
                "turn_detection": {"type": "server_vad", "threshold": 0.3},
                "transcription": DEFAULT_TRANSCRIPTION,
                "noise_reduction": {"type": "far_field"},
            }
        },
    }
    assert_valid(frame)


# --- requests ---------------------------------------------------------------------------------

REQUESTS: list[fx.Request] = [
    fx.Configure(SessionConfig(), (WEATHER,)),
    fx.AddUserText("Hello"),
    fx.AddContext("Something happened."),
    fx.AddItem(
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    ),
    fx.AddMessage("assistant", "What was heard.", "item_1"),
    fx.AddMessage("user", "What was said.", "x" * 40),
    fx.AddCall("call_1", "weather", "{}", "item_2"),
    fx.AddOutput("call_1", "{}"),
    fx.DeleteItem("item_1"),
    fx.TruncateItem("item_1", 0, 1500),
    fx.CommitInput(),
    fx.ClearInput(),
    fx.CreateResponse("7", {}),
    fx.CreateResponse("8", {"conversation": "none", "metadata": {"a": "b"}}, "none"),
    fx.CancelResponse("resp_1"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_every_request_is_a_valid_frame_with_its_id(request_: fx.Request) -> None:
    frame = OpenAI().write("vb_1_9", request_)

    assert frame["event_id"] == "vb_1_9"
    assert_valid(frame)


def test_every_request_there_is_has_a_frame() -> None:
    assert {type(one) for one in REQUESTS} == set(fx.Request.__subclasses__())


def test_a_request_nobody_knows_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="no frame for Request"):
        OpenAI().write("e", fx.Request())


def test_a_response_is_tagged_beside_the_clients_own_metadata() -> None:
    frame = OpenAI().write("e", fx.CreateResponse("8", {"metadata": {"a": "b"}}, "auto"))

    assert frame["response"] == {"metadata": {"a": "b", "voicebus": "8"}, "tool_choice": "auto"}


def test_ids_that_are_too_long_are_left_to_the_provider() -> None:
    frame = OpenAI().write("e", fx.AddMessage("user", "x", "i" * 33))

    assert "id" not in frame["item"]


# --- frames -----------------------------------------------------------------------------------


def read(**frame: Any) -> list[i.AnyInput]:
    return OpenAI().read(frame, 5)


def error(**fields: Any) -> i.ProviderRefused:
    (found,) = read(type="error", error=fields)
    assert isinstance(found, i.ProviderRefused)
    return found


@pytest.mark.parametrize(
    ("fields", "meaning"),
    [
        ({"code": "response_cancel_not_active"}, "benign"),
        ({"code": "input_audio_buffer_commit_empty"}, "benign"),
        ({"code": "item_truncate_invalid_item_id"}, "benign"),
        ({"code": "item_delete_invalid_item_id"}, "benign"),
        ({"code": "unsupported_content_type"}, "benign"),
        ({"code": "invalid_value", "message": "Audio of 1ms is already shorter"}, "other"),
        ({"code": "invalid_value", "message": "no active response, they said"}, "other"),
        ({"code": "conversation_already_has_active_response"}, "already_active"),
        ({"code": "insufficient_quota"}, "fatal"),
        ({"code": None, "type": "insufficient_quota"}, "fatal"),
        ({"code": "invalid_api_key"}, "fatal"),
        ({"code": "model_not_found"}, "fatal"),
        ({"code": "invalid_model", "param": "session.model"}, "fatal"),
        ({"code": "model_not_found", "param": "session.audio.input.transcription.model"}, "other"),
        ({"code": "beta_api_shape_disabled"}, "fatal"),
        ({"code": "session_expired"}, "expired"),
        ({"type": "server_error"}, "other"),
        ({}, "other"),
    ],
)
def test_errors_are_told_apart_by_their_codes(fields: dict[str, Any], meaning: str) -> None:
    assert error(**fields).meaning == meaning


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({"code": "x", "param": "session.tools[3].description"}, "configuration"),
        ({"code": "cannot_update_voice"}, "configuration"),
        ({"code": "x", "param": "response.voice"}, "response"),
        ({"code": "bad_response_create"}, "response"),
        ({"code": "x"}, None),
        ({"message": "Invalid response.create, or session.update"}, None),
    ],
)
def test_errors_without_a_name_tell_by_code_or_place_what_they_refuse(
    fields: dict[str, Any], about: str | None
) -> None:
    assert error(**fields).about == about


def test_an_error_keeps_what_helps_to_find_it() -> None:
    found = error(type="t", code="c", message="m", param="p", event_id="vb_1_2")

    assert (found.code, found.message, found.event_id) == ("c", "m", "vb_1_2")
    assert found.details == {"type": "t", "param": "p"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Please try again in 1.5s.", 1500),
        ("Please try again in 20ms.", 20),
        ("please try again in 900s", 60_000),
        ("try again in a while", None),
        ("try again in xs", None),
        ("Please try again in 1m12.5s.", 60_000),
        ("try again in 2m.", 60_000),
        ("try again in 7m", 60_000),
        ("try again in 2ms", 2),
        ("try again in infs", None),
        ("try again in 1e999s", None),
        ("try again in " + "9" * 400 + "s", None),
        ("nothing of the kind", None),
    ],
)
def test_the_hint_when_to_retry_is_read(message: str, expected: int | None) -> None:
    response = {
        "id": "r",
        "status": "failed",
        "status_details": {"error": {"code": "rate_limit_exceeded", "message": message}},
    }
    (found,) = read(type="response.done", response=response)

    assert isinstance(found, i.ResponseDone)
    assert found.rate_limited
    assert found.retry_after_ms == expected


def test_a_response_that_failed_for_good_is_marked() -> None:
    details = {"type": "failed", "error": {"type": "insufficient_quota"}}
    (found,) = read(
        type="response.done", response={"id": "r", "status": "failed", "status_details": details}
    )

    assert isinstance(found, i.ResponseDone)
    assert found.fatal


@pytest.mark.parametrize(
    ("response", "out_of_band"),
    [
        ({"id": "r", "conversation_id": None}, True),
        ({"id": "r", "conversation_id": "c"}, False),
        ({"id": "r"}, False),
    ],
)
def test_a_response_without_a_conversation_is_out_of_band(
    response: dict[str, Any], out_of_band: bool
) -> None:
    (found,) = read(type="response.created", response=response)

    assert isinstance(found, i.ResponseStarted)
    assert found.out_of_band is out_of_band


def test_usage_is_counted_with_the_providers_breakdown() -> None:
    usage = {
        "input_tokens": 5,
        "output_tokens": 2,
        "total_tokens": 7,
        "input_token_details": {"cached_tokens": 1},
        "output_token_details": None,
    }
    (found,) = read(
        type="response.done", response={"id": "r", "status": "completed", "usage": usage}
    )

    assert isinstance(found, i.ResponseDone)
    assert found.usage == Usage(
        prompt_tokens=5,
        completion_tokens=2,
        total_tokens=7,
        extras={"input_token_details": {"cached_tokens": 1}},
    )


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"type": None},
        {"type": ["error"]},
        {"type": "response.created"},
        {"type": "response.created", "response": []},
        {"type": "response.output_text.delta", "delta": "x"},
        {"type": "response.done", "response": {"status": "completed"}},
        {"type": "conversation.item.deleted", "item_id": ""},
        {"type": "conversation.item.input_audio_transcription.completed", "transcript": "x"},
        {"type": "input_audio_buffer.committed"},
        {"type": "conversation.item.retrieved", "item": {}},
        {"type": "something.from.the.future", "x": [1]},
    ],
)
def test_what_cannot_be_placed_means_nothing(frame: dict[str, Any]) -> None:
    assert OpenAI().read(frame, 1) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}], "a b"),
        ([{"type": "output_audio", "transcript": "said"}], "said"),
        ([{"type": "audio", "transcript": None}, "no part", {"type": "new"}], None),
    ],
)
def test_the_words_of_an_item_are_found_in_its_parts(content: list[Any], text: str | None) -> None:
    item = {"id": "i", "type": "message", "role": "user", "content": content}
    (found,) = read(type="conversation.item.created", item=item)

    assert isinstance(found, i.ItemAdded)
    assert found.item.text == text
    assert found.done


def test_numbers_that_are_none_are_nothing() -> None:
    (found,) = read(type="input_audio_buffer.speech_started", audio_start_ms=1e300)

    assert isinstance(found, i.SpeechStarted)
    assert found.at_ms == 0


def test_a_speech_at_the_very_beginning_is_at_zero() -> None:
    (found,) = read(type="input_audio_buffer.speech_started", audio_start_ms=0)

    assert isinstance(found, i.SpeechStarted)
    assert found.at_ms == 0


def test_every_kind_of_frame_is_read_or_known_to_decide_nothing() -> None:
    kinds = {
        get_args(one.model_fields["type"].annotation)[0]
        for one in get_args(get_args(RealtimeServerEvent)[0])
    }

    assert len(kinds) > 40
    assert kinds - READERS.keys() - QUIET == set()
    assert not READERS.keys() & QUIET


def test_a_confirmation_keeps_its_id_where_the_provider_gives_one() -> None:
    frame = {"type": "session.updated", "session": {"voice": "cedar"}}

    (named,) = OpenAI().read({**frame, "event_id": "event-1"}, 1)
    (bare,) = OpenAI().read(frame, 1)

    assert isinstance(named, i.ProviderSessionUpdated)
    assert isinstance(bare, i.ProviderSessionUpdated)
    assert (named.event_id, bare.event_id) == ("event-1", None)


def test_a_refusal_for_a_rate_limit_says_when_to_try_again() -> None:
    limited = error(code="rate_limit_exceeded", message="Please try again in 1.5s.")
    other = error(code="invalid_value", message="Please try again in 1.5s.")

    assert (limited.rate_limited, limited.retry_after_ms) == (True, 1500)
    assert (other.rate_limited, other.retry_after_ms) == (False, None)
