"""The conversation machine by plain values; the fixture checks every event it sends."""

import base64
from typing import TYPE_CHECKING, Any

import pytest

from voicebus.services.simulator.steps import (
    AnswerEnded,
    Call,
    Close,
    Feed,
    Listen,
    MessageBegan,
    Plan,
    Say,
    SoundGrew,
    StopAnswering,
    WordsGrew,
)

if TYPE_CHECKING:
    from tests.services.simulator.conftest import Talk

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
BEGIN_OF_A_MESSAGE = [
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
END_OF_A_SPOKEN_MESSAGE = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
]
END = ["response.done", "rate_limits.updated"]


# Opening and configuring


def test_the_first_event_shows_the_defaults_of_the_service(talk: "Talk") -> None:
    [created] = talk.events
    session = created["session"]

    assert created["type"] == "session.created"
    assert session["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }
    assert session["output_modalities"] == ["audio"]
    assert isinstance(talk.effects[-1], Listen)


def test_an_update_changes_what_it_names_and_shows_the_whole_session(talk: "Talk") -> None:
    talk.updates(instructions="Be brief.", tools=[WEATHER])
    [updated] = talk.updates(audio={"input": {"turn_detection": {"threshold": 0.8}}})

    assert updated["session"]["instructions"] == "Be brief."
    assert updated["session"]["tools"] == [WEATHER]
    assert updated["session"]["audio"]["input"]["turn_detection"]["threshold"] == 0.8
    assert updated["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500


def test_explicit_empties_clear(talk: "Talk") -> None:
    talk.updates(instructions="Be brief.", tools=[WEATHER])
    [updated] = talk.updates(instructions="", tools=[], audio={"input": {"turn_detection": None}})

    assert updated["session"]["instructions"] == ""
    assert updated["session"]["tools"] == []
    assert updated["session"]["audio"]["input"]["turn_detection"] is None
    assert talk.effects[-1] == Listen(None, "audio/pcm", 0)


def test_semantic_detection_replaces_the_fields_of_server_detection(talk: "Talk") -> None:
    [updated] = talk.updates(
        audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}}
    )

    assert updated["session"]["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "low",
        "create_response": True,
        "interrupt_response": True,
    }


def test_one_bad_field_refuses_the_whole_update(talk: "Talk") -> None:
    talk.updates(instructions="Be brief.")
    long = {**WEATHER, "description": "x" * 1025}
    error = talk.error(
        "session.update",
        session={"type": "realtime", "instructions": "Be long.", "tools": [WEATHER, long]},
    )
    [updated] = talk.updates()

    assert (error["code"], error["param"]) == (
        "string_above_max_length",
        "session.tools[1].description",
    )
    assert updated["session"]["instructions"] == "Be brief."
    assert updated["session"]["tools"] == []


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({}, "missing_required_parameter", "session.type"),
        ({"type": "realtime", "voice": "alloy"}, "unknown_parameter", "session.voice"),
        (
            {"type": "realtime", "audio": {"output": {"voice": "bob"}}},
            "invalid_value",
            "session.audio.output.voice",
        ),
        (
            {"type": "realtime", "audio": {"input": {"format": {"type": "pcm16"}}}},
            "invalid_value",
            "session.audio.input.format.type",
        ),
        (
            {"type": "realtime", "audio": {"input": {"turn_detection": {"threshold": 2}}}},
            "decimal_above_max_value",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"type": "realtime", "output_modalities": ["text", "audio"]},
            "invalid_value",
            "session.output_modalities",
        ),
        ({"type": "realtime", "instructions": 7}, "invalid_type", "session.instructions"),
        (
            {"type": "realtime", "max_output_tokens": 5000},
            "integer_above_max_value",
            "session.max_output_tokens",
        ),
        (
            {"type": "realtime", "reasoning": {"effort": "low"}},
            "invalid_value",
            "session.reasoning",
        ),
        ({"type": "realtime", "model": "gpt-realtime-2"}, "invalid_value", "session.model"),
        (
            {"type": "realtime", "tools": [{"type": "function"}]},
            "missing_required_parameter",
            "session.tools[0].name",
        ),
        (
            {"type": "realtime", "tools": [WEATHER, WEATHER]},
            "invalid_value",
            "session.tools[1].name",
        ),
        (
            {"type": "realtime", "tool_choice": {"type": "function", "name": "x"}},
            "invalid_value",
            "session.tool_choice",
        ),
        ({"type": "transcription"}, "invalid_parameter", "session.type"),
        ({"type": {}}, "invalid_value", "session.type"),
    ],
)
def test_a_session_that_the_service_refuses_is_refused(
    talk: "Talk", session: dict[str, Any], code: str, param: str
) -> None:
    error = talk.error("session.update", session=session)

    assert (error["code"], error["param"]) == (code, param)


def test_the_voice_stays_once_the_assistant_has_spoken(talk: "Talk") -> None:
    talk.writes("Hello")
    talk.asks()
    talk.answers(Plan((Say("Hi"),)))
    error = talk.error(
        "session.update", session={"type": "realtime", "audio": {"output": {"voice": "echo"}}}
    )

    assert error["code"] == "cannot_update_voice"
    assert talk.types(talk.updates(audio={"output": {"voice": "alloy"}})) == ["session.updated"]


# Broken events


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({}, "invalid_event", "type"),
        ([], "invalid_event", None),
        ({"type": "response.cancle"}, "invalid_value", "type"),
        ({"type": 3}, "invalid_value", "type"),
        ({"type": "response.cancel", "id": "x"}, "unknown_parameter", "id"),
        ({"type": "response.cancel", "event_id": "x" * 513}, "string_above_max_length", "event_id"),
        ({"type": "input_audio_buffer.append"}, "missing_required_parameter", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "a&b="}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": 3}, "invalid_type", "audio"),
        ({"type": "conversation.item.create"}, "missing_required_parameter", "item"),
        (
            {"type": "response.create", "response": {"modalities": ["text"]}},
            "unknown_parameter",
            "response.modalities",
        ),
        (
            {"type": "response.create", "response": {"metadata": {"k": "v" * 513}}},
            "string_above_max_length",
            "response.metadata.k",
        ),
        (
            {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0},
            "missing_required_parameter",
            "audio_end_ms",
        ),
        ({"type": "output_audio_buffer.clear"}, "invalid_value", "type"),
    ],
)
def test_a_broken_event_is_an_error_and_nothing_else(
    talk: "Talk", event: Any, code: str, param: str | None
) -> None:
    [answer] = talk.does(talk.conversation.client_says(event))

    assert answer["type"] == "error"
    assert (answer["error"]["code"], answer["error"]["param"]) == (code, param)


def test_fifteen_mebibytes_of_sound_are_taken_and_one_byte_more_is_not(talk: "Talk") -> None:
    talk.updates(audio={"input": {"turn_detection": None}})
    most = 15 * 1024 * 1024
    taken = talk.says("input_audio_buffer.append", audio=base64.b64encode(bytes(most)).decode())
    error = talk.error(
        "input_audio_buffer.append", audio=base64.b64encode(bytes(most + 1)).decode()
    )

    assert taken == []
    assert error["code"] == "string_above_max_length"


# Items


def test_items_keep_their_ids_and_say_what_they_follow(talk: "Talk") -> None:
    first = talk.writes("one")
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    added, done = talk.says("conversation.item.create", item={**message, "id": "mine"})
    root, _ = talk.says("conversation.item.create", item=message, previous_item_id="root")
    middle, _ = talk.says("conversation.item.create", item=message, previous_item_id=first)

    assert talk.types([added, done]) == ["conversation.item.added", "conversation.item.done"]
    assert added["item"]["id"] == done["item"]["id"] == "mine"
    assert added["previous_item_id"] == first
    assert root["previous_item_id"] is None
    assert middle["previous_item_id"] == first


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        ({"type": "message", "role": "user"}, "missing_required_parameter", "item.content"),
        ({"type": "massage"}, "invalid_value", "item.type"),
        ({"type": ["message"]}, "invalid_value", "item.type"),
        ({"type": "message", "role": "user", "content": [], "id": "x" * 33},
         "string_above_max_length", "item.id"),
        ({"type": "message", "role": "assistant", "content": [{"type": "input_text", "text": "x"}]},
         "invalid_value", "item.content[0].type"),
        ({"type": "message", "role": "assistant", "content": [{"type": "output_audio"}]},
         "invalid_value", "item.content[0].type"),
        ({"type": "message", "role": "user",
          "content": [{"type": "input_image", "image_url": "https://example.com/cat.png"}]},
         "invalid_value", "item.content[0].image_url"),
        ({"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "?"}]},
         "invalid_value", "item.content[0].audio"),
        ({"type": "function_call_output", "call_id": "nobody", "output": "1"},
         "invalid_tool_call_id", "item.call_id"),
        ({"type": "function_call_output", "call_id": "a:b", "output": "1"},
         "invalid_value", "item.call_id"),
        ({"type": "function_call_output", "call_id": "x" * 33, "output": "1"},
         "string_above_max_length", "item.call_id"),
        ({"type": "function_call_output", "call_id": "c", "output": {}},
         "invalid_type", "item.output"),
    ],
)  # fmt: skip
def test_an_item_that_the_service_refuses_is_refused(
    talk: "Talk", item: dict[str, Any], code: str, param: str
) -> None:
    error = talk.error("conversation.item.create", item=item)

    assert (error["code"], error["param"]) == (code, param)


def test_an_item_after_an_unknown_one_or_with_a_known_id_is_refused(talk: "Talk") -> None:
    item_id = talk.writes("one")
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}

    assert (
        talk.error("conversation.item.create", item=message, previous_item_id="nobody")["param"]
        == "previous_item_id"
    )
    assert (
        talk.error("conversation.item.create", item={**message, "id": item_id})["param"]
        == "item.id"
    )


def test_items_are_retrieved_with_their_sound_and_deleted(talk: "Talk") -> None:
    audio = talk.sound(200)
    talk.says(
        "conversation.item.create",
        item={
            "id": "mine",
            "type": "message",
            "role": "user",
            "content": [{"type": "input_audio", "audio": audio}],
        },
    )
    [retrieved] = talk.says("conversation.item.retrieve", item_id="mine")
    deleted = talk.says("conversation.item.delete", item_id="mine")

    assert retrieved["item"]["content"][0]["audio"] == audio
    assert talk.types(deleted) == ["conversation.item.deleted"]
    assert (
        talk.error("conversation.item.retrieve", item_id="mine")["code"]
        == "item_retrieve_invalid_item_id"
    )
    assert (
        talk.error("conversation.item.delete", item_id="mine")["code"]
        == "item_delete_invalid_item_id"
    )


# Responses


def test_a_text_answer_has_the_events_of_the_service_in_their_order(talk: "Talk") -> None:
    talk.writes("Hello")
    talk.asks(output_modalities=["text"], metadata={"mine": "1"})
    events = talk.answers(Plan((Say("Hi there"),)))

    assert talk.types(events) == [
        *BEGIN_OF_A_MESSAGE,
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        *END,
    ]
    response = events[-2]["response"]
    assert response["status"] == "completed"
    assert response["status_details"] is None
    assert response["metadata"] == {"mine": "1"}
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "Hi there"}]
    assert response["usage"]["output_token_details"]["audio_tokens"] == 0
    assert response["usage"]["total_tokens"] == (
        response["usage"]["input_tokens"] + response["usage"]["output_tokens"]
    )


def test_a_spoken_answer_has_transcript_and_sound(talk: "Talk") -> None:
    talk.writes("Hello")
    talk.asks()
    events = talk.answers(Plan((Say("Hi there"),)))

    assert talk.types(events) == [
        *BEGIN_OF_A_MESSAGE,
        *["response.output_audio_transcript.delta", "response.output_audio.delta"] * 2,
        *END_OF_A_SPOKEN_MESSAGE,
        *END,
    ]
    assert events[2]["part"] == {"type": "audio", "transcript": ""}
    assert events[-2]["response"]["output"][0]["content"] == [
        {"type": "output_audio", "transcript": "Hi there"}
    ]
    assert events[-2]["response"]["usage"]["output_token_details"]["audio_tokens"] == 4


def test_a_response_may_hold_a_message_and_two_calls(talk: "Talk") -> None:
    talk.writes("Weather?")
    talk.asks()
    events = talk.answers(
        Plan((Say("Wait"), Call("get_weather", '{"city":"Berlin"}'), Call("get_weather", "{}")))
    )
    one_call = [
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "conversation.item.done",
        "response.output_item.done",
    ]

    assert talk.types(events)[-14:] == [*one_call, *one_call, *END]
    done = next(event for event in events if event["type"].endswith("arguments.done"))
    assert (done["name"], done["arguments"], done["output_index"]) == (
        "get_weather",
        '{"city":"Berlin"}',
        1,
    )
    calls = [item for item in events[-2]["response"]["output"] if item["type"] == "function_call"]
    assert [call["status"] for call in calls] == ["completed", "completed"]
    assert len({call["call_id"] for call in calls}) == 2


def test_an_output_for_a_call_is_part_of_the_next_question(talk: "Talk") -> None:
    talk.writes("Weather?")
    talk.asks()
    talk.answers(Plan((Call("get_weather", "{}", "call_1"),)))
    talk.says(
        "conversation.item.create",
        item={"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    )
    question = talk.asks()

    assert [item["type"] for item in question.history] == [
        "message",
        "function_call",
        "function_call_output",
    ]
    assert question.history[-1]["output"] == "sunny"


def test_a_second_response_of_the_conversation_is_refused_while_one_is_active(
    talk: "Talk",
) -> None:
    response_id = talk.asks().response_id
    error = talk.error("response.create")

    assert error["code"] == "conversation_already_has_active_response"
    assert response_id in error["message"]


def test_responses_out_of_band_run_beside_it_and_leave_no_items(talk: "Talk") -> None:
    talk.asks()
    [created] = talk.says(
        "response.create",
        response={"conversation": "none", "metadata": {"topic": "a"}, "input": []},
    )
    out_of_band = talk.answers(Plan((Say("aside"),)))

    assert created["response"]["conversation_id"] is None
    assert talk.questions[-1].history == []
    assert not [kind for kind in talk.types(out_of_band) if kind.startswith("conversation.")]
    assert out_of_band[-2]["response"]["metadata"] == {"topic": "a"}
    assert talk.error("response.create")["code"] == "conversation_already_has_active_response"


def test_input_replaces_the_history_and_may_refer_to_items(talk: "Talk") -> None:
    first = talk.writes("one")
    talk.writes("two")
    question = talk.asks(
        conversation="none",
        input=[
            {"type": "item_reference", "id": first},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "3"}]},
        ],
    )
    error = talk.error("response.create", response={"input": [{"type": "item_reference",
                                                               "id": "nobody"}]})  # fmt: skip

    assert [item["heard"] for item in question.history] == ["one", "3"]
    assert error["param"] == "response.input[0].id"


def test_a_cancelled_response_closes_everything_as_incomplete(talk: "Talk") -> None:
    talk.writes("Hello")
    response_id = talk.asks().response_id
    talk.step(MessageBegan(response_id, 0))
    talk.step(WordsGrew(response_id, 0, "Once"))
    talk.step(SoundGrew(response_id, 0, bytes(9600)))
    events = talk.says("response.cancel", response_id=response_id)
    late = talk.step(SoundGrew(response_id, 0, bytes(9600)))

    assert talk.types(events) == [*END_OF_A_SPOKEN_MESSAGE, *END]
    assert events[-2]["response"]["status"] == "cancelled"
    assert events[-2]["response"]["status_details"] == {
        "type": "cancelled",
        "reason": "client_cancelled",
    }
    assert events[-2]["response"]["output"][0]["status"] == "incomplete"
    assert late == []
    assert StopAnswering(response_id) in talk.effects


def test_cancelling_when_nothing_is_active_is_a_harmless_error(talk: "Talk") -> None:
    assert talk.error("response.cancel")["code"] == "response_cancel_not_active"
    assert talk.error("response.cancel", response_id="x")["code"] == "response_cancel_not_active"


def test_cancelling_the_default_response_leaves_those_out_of_band(talk: "Talk") -> None:
    aside = talk.asks(conversation="none").response_id
    talk.asks()
    talk.says("response.cancel")

    assert talk.conversation.is_answering(aside)


def test_a_failed_response_says_why_and_has_no_usage(talk: "Talk") -> None:
    talk.asks()
    error = {"type": "tokens", "code": "rate_limit_exceeded", "message": "Try again in 2s"}
    events = talk.answers(Plan(status="failed", error=error))

    assert talk.types(events) == END
    assert events[0]["response"]["status_details"] == {"type": "failed", "error": error}
    assert events[0]["response"]["usage"] is None


def test_too_many_tokens_make_the_response_incomplete(talk: "Talk") -> None:
    talk.asks(output_modalities=["text"], max_output_tokens=3)
    events = talk.answers(Plan((Say("one two three four five six"),)))

    assert events[-2]["response"]["status"] == "incomplete"
    assert events[-2]["response"]["status_details"]["reason"] == "max_output_tokens"


def test_fields_of_a_response_override_the_session_for_this_response_only(talk: "Talk") -> None:
    talk.updates(instructions="Be brief.", tools=[WEATHER])
    first = talk.asks(instructions="Be long.", tools=[], output_modalities=["text"])
    talk.answers(Plan((Say("x"),)))
    second = talk.asks()

    assert (first.instructions, first.tools, first.speaks) == ("Be long.", [], False)
    assert (second.instructions, second.tools, second.speaks) == ("Be brief.", [WEATHER], True)


# Truncation


def test_truncating_cuts_the_sound_and_forgets_the_transcript(talk: "Talk") -> None:
    talk.writes("Hello")
    talk.asks()
    events = talk.answers(Plan((Say("one two three four"),)))
    item_id = events[0]["item"]["id"]
    [truncated] = talk.says(
        "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=150
    )
    [retrieved] = talk.says("conversation.item.retrieve", item_id=item_id)

    assert truncated["audio_end_ms"] == 150
    assert len(base64.b64decode(retrieved["item"]["content"][0]["audio"])) == 150 * 48
    assert "transcript" not in retrieved["item"]["content"][0]
    assert talk.asks().history[-1]["heard"] == ""


@pytest.mark.parametrize(
    ("audio_type", "per_ms"), [("audio/pcm", 48), ("audio/pcmu", 8), ("audio/pcma", 8)]
)
def test_sound_that_is_not_there_cannot_be_truncated(
    talk: "Talk", audio_type: str, per_ms: int
) -> None:
    user_id = talk.writes("Hello")
    talk.updates(audio={"output": {"format": {"type": audio_type}}})
    response_id = talk.asks().response_id
    item_id = talk.step(MessageBegan(response_id, 0))[0]["item"]["id"]
    early = talk.error(
        "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=0
    )
    talk.step(SoundGrew(response_id, 0, bytes(300 * per_ms)))
    too_long = talk.error(
        "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=301
    )
    users = talk.error(
        "conversation.item.truncate", item_id=user_id, content_index=0, audio_end_ms=0
    )
    nobodys = talk.error(
        "conversation.item.truncate", item_id="nobody", content_index=0, audio_end_ms=0
    )
    exact = talk.says(
        "conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=300
    )

    assert early["code"] == users["code"] == "unsupported_content_type"
    assert too_long["code"] == "invalid_value"
    assert too_long["message"] == "Audio content of 300ms is already shorter than 301ms"
    assert nobodys["code"] == "item_truncate_invalid_item_id"
    assert talk.types(exact) == ["conversation.item.truncated"]


# Sound of the caller


def push_to_talk(talk: "Talk", **more: Any) -> None:
    talk.updates(audio={"input": {"turn_detection": None, **more}})


def test_push_to_talk_commits_what_was_appended(talk: "Talk") -> None:
    push_to_talk(talk)
    assert talk.says("input_audio_buffer.append", audio=talk.sound(100)) == []
    events = talk.says("input_audio_buffer.commit")

    assert talk.types(events) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert events[0]["item_id"] == events[1]["item"]["id"]
    assert len(talk.to_hear[-1].sound) == 4800
    assert talk.questions == []
    assert Feed not in [type(effect) for effect in talk.effects]


@pytest.mark.parametrize("length_ms", [0, 99])
def test_less_than_100_ms_cannot_be_committed(talk: "Talk", length_ms: int) -> None:
    push_to_talk(talk)
    talk.says("input_audio_buffer.append", audio=talk.sound(length_ms))

    assert talk.error("input_audio_buffer.commit")["code"] == "input_audio_buffer_commit_empty"


def test_cleared_sound_is_gone(talk: "Talk") -> None:
    push_to_talk(talk)
    talk.says("input_audio_buffer.append", audio=talk.sound(200))

    assert talk.types(talk.says("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert talk.error("input_audio_buffer.commit")["code"] == "input_audio_buffer_commit_empty"


def test_speech_is_committed_and_answered_on_the_stream_clock(talk: "Talk") -> None:
    talk.says("input_audio_buffer.append", audio=talk.sound(3000))
    began = talk.does(talk.conversation.speech_began(1000))
    ended = talk.does(talk.conversation.speech_ended(2500))

    assert began[0]["audio_start_ms"] == 700
    assert ended[0]["audio_end_ms"] == 2500
    assert talk.types(began + ended) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert began[0]["item_id"] == ended[1]["item_id"] == ended[2]["item"]["id"]
    assert len(talk.to_hear[0].sound) == 1800 * 48


def test_the_answer_waits_until_the_words_are_heard(talk: "Talk") -> None:
    talk.updates(audio={"input": {"transcription": {"model": "gpt-4o-transcribe"}}})
    talk.says("input_audio_buffer.append", audio=talk.sound(2000))
    talk.does(talk.conversation.speech_began(500))
    talk.does(talk.conversation.speech_ended(1500))
    asked_before = len(talk.questions)
    events = talk.does(talk.conversation.heard(talk.to_hear[0].item_id, "hello you"))

    kind = "conversation.item.input_audio_transcription"
    assert asked_before == 0
    assert talk.types(events) == [f"{kind}.delta", f"{kind}.delta", f"{kind}.completed"]
    assert events[-1]["transcript"] == "hello you"
    assert events[-1]["usage"]["type"] == "tokens"
    assert talk.questions[0].history[-1]["heard"] == "hello you"


def test_without_transcription_the_words_are_heard_in_silence(talk: "Talk") -> None:
    push_to_talk(talk)
    talk.says("input_audio_buffer.append", audio=talk.sound(200))
    talk.says("input_audio_buffer.commit")
    talk.says("response.create")
    events = talk.does(talk.conversation.heard(talk.to_hear[0].item_id, "hello"))

    assert events == []
    assert talk.questions[0].history[-1]["heard"] == "hello"


def test_what_cannot_be_understood_is_told_and_answered(talk: "Talk") -> None:
    push_to_talk(talk, transcription={"model": "whisper-1"})
    talk.says("input_audio_buffer.append", audio=talk.sound(200))
    talk.says("input_audio_buffer.commit")
    talk.says("response.create")
    [failed] = talk.does(talk.conversation.heard(talk.to_hear[0].item_id, None))

    assert failed["type"] == "conversation.item.input_audio_transcription.failed"
    assert failed["error"]["code"] == "audio_unintelligible"
    assert len(talk.questions) == 1


def test_speech_interrupts_the_answer(talk: "Talk") -> None:
    response_id = talk.asks().response_id
    talk.step(MessageBegan(response_id, 0))
    talk.says("input_audio_buffer.append", audio=talk.sound(1000))
    events = talk.does(talk.conversation.speech_began(500))

    assert talk.types(events) == [
        "input_audio_buffer.speech_started",
        *END_OF_A_SPOKEN_MESSAGE,
        *END,
    ]
    assert events[-2]["response"]["status_details"] == {
        "type": "cancelled",
        "reason": "turn_detected",
    }


def test_the_flags_of_turn_detection_are_honoured(talk: "Talk") -> None:
    talk.updates(
        audio={"input": {"turn_detection": {"create_response": False, "interrupt_response": False}}}
    )
    response_id = talk.asks().response_id
    talk.says("input_audio_buffer.append", audio=talk.sound(2000))
    began = talk.does(talk.conversation.speech_began(500))
    ended = talk.does(talk.conversation.speech_ended(1500))

    assert talk.types(began) == ["input_audio_buffer.speech_started"]
    assert "response.created" not in talk.types(ended)
    assert talk.conversation.is_answering(response_id)


def test_speech_over_an_answer_that_goes_on_gets_none_of_its_own(talk: "Talk") -> None:
    talk.updates(audio={"input": {"turn_detection": {"interrupt_response": False}}})
    talk.asks()
    talk.says("input_audio_buffer.append", audio=talk.sound(2000))
    talk.does(talk.conversation.speech_began(500))
    ended = talk.does(talk.conversation.speech_ended(1500))

    assert ended[-1]["type"] == "error"
    assert ended[-1]["error"]["code"] == "conversation_already_has_active_response"


def test_under_detection_only_speech_can_be_committed(talk: "Talk") -> None:
    talk.says("input_audio_buffer.append", audio=talk.sound(2000))
    quiet = talk.error("input_audio_buffer.commit")
    talk.does(talk.conversation.speech_began(1000))
    events = talk.says("input_audio_buffer.commit")

    assert quiet["code"] == "input_audio_buffer_commit_empty"
    assert "input_audio_buffer.committed" in talk.types(events)
    assert len(talk.to_hear[0].sound) == 1300 * 48


def test_hours_of_silence_are_not_kept_and_the_clock_goes_on(talk: "Talk") -> None:
    for _ in range(30):
        talk.says("input_audio_buffer.append", audio=talk.sound(2000))
    [began] = talk.does(talk.conversation.speech_began(59_000))
    talk.does(talk.conversation.speech_ended(59_800))

    assert began["audio_start_ms"] == 58_700
    assert len(talk.to_hear[0].sound) == 1100 * 48


def test_g711_counts_eight_bytes_a_millisecond(talk: "Talk") -> None:
    talk.updates(audio={"input": {"format": {"type": "audio/pcmu"}}})
    talk.says("input_audio_buffer.append", audio=talk.sound(2000, "audio/pcmu"))
    talk.does(talk.conversation.speech_began(1000))
    talk.does(talk.conversation.speech_ended(1500))

    assert len(talk.to_hear[0].sound) == 800 * 8
    assert talk.to_hear[0].audio_type == "audio/pcmu"


def test_silence_after_an_answer_may_ask_for_another(talk: "Talk") -> None:
    talk.updates(audio={"input": {"turn_detection": {"idle_timeout_ms": 5000}}})
    talk.says("input_audio_buffer.append", audio=talk.sound(1000))
    response_id = talk.asks().response_id
    talk.step(MessageBegan(response_id, 0))
    talk.step(SoundGrew(response_id, 0, bytes(2000 * 48)))
    talk.step(AnswerEnded(response_id), at_s=10.0)
    deadline_s = talk.conversation.idle_deadline_s()
    early = talk.does(talk.conversation.clock(16.9))
    late = talk.does(talk.conversation.clock(17.0))

    assert deadline_s == 17.0
    assert early == []
    assert talk.types(late) == [
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]


# Other kinds of sessions, and the end


def test_a_transcription_session_gives_no_responses(transcription_talk: "Talk") -> None:
    talk = transcription_talk
    [updated] = talk.says(
        "session.update",
        session={
            "type": "transcription",
            "audio": {"input": {"transcription": {"model": "whisper-1"}}},
        },
    )
    talk.says("input_audio_buffer.append", audio=talk.sound(2000))
    talk.does(talk.conversation.speech_began(500))
    ended = talk.does(talk.conversation.speech_ended(1500))
    heard = talk.does(talk.conversation.heard(talk.to_hear[0].item_id, "hello"))

    assert updated["session"]["type"] == "transcription"
    assert "response.created" not in talk.types(ended)
    assert heard[-1]["transcript"] == "hello"
    assert talk.error("response.create")["param"] == "type"


def test_an_expired_session_is_told_and_hung_up(talk: "Talk") -> None:
    [event] = talk.does(talk.conversation.expire())

    assert event["error"]["code"] == "session_expired"
    assert talk.effects[-1] == Close(1001, "session_expired")


def test_the_check_of_events_finds_what_is_missing_and_what_is_unknown(talk: "Talk") -> None:
    created = talk.events[0]

    with pytest.raises(ValueError, match="event_id"):
        talk.check({"type": "session.created", "session": created["session"]})
    with pytest.raises(AssertionError, match="surprise"):
        talk.check({**created, "surprise": 1})
