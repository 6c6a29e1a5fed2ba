import base64
import json
from typing import Any

import pytest

from voicebus.services.transport.media.openai import OpenAI
from voicebus.services.transport.media.pieces import (
    InputCommitted,
    Malformed,
    SoundDelta,
    SoundDone,
    SpeechStarted,
)

look = OpenAI().look


def frame(**fields: Any) -> str:
    return json.dumps({"event_id": "e1", "output_index": 0, **fields})


@pytest.mark.parametrize("kind", ["response.output_audio.delta", "response.audio.delta"])
def test_sound_is_found_under_its_ga_and_its_beta_name(kind: str) -> None:
    sound = base64.b64encode(b"abcd").decode()
    text = frame(type=kind, response_id="r", item_id="i", content_index=1, delta=sound)

    assert look(text) == SoundDelta("r", "i", 1, b"abcd")


def test_the_type_may_stand_after_the_sound() -> None:
    text = '{"delta":"YWJj","response_id":"r","item_id":"i","type":"response.output_audio.delta"}'

    assert look(text) == SoundDelta("r", "i", 0, b"abc")


@pytest.mark.parametrize("kind", ["response.output_audio.done", "response.audio.done"])
def test_the_end_of_sound_is_found(kind: str) -> None:
    text = frame(type=kind, response_id="r", item_id="i", content_index=0)

    assert look(text) == SoundDone("r", "i", 0)


def test_a_committed_turn_is_found() -> None:
    text = frame(type="input_audio_buffer.committed", previous_item_id=None, item_id="u")

    assert look(text) == InputCommitted()


def test_the_start_of_speech_is_found() -> None:
    text = frame(type="input_audio_buffer.speech_started", audio_start_ms=10, item_id="u")

    assert look(text) == SpeechStarted("u")


@pytest.mark.parametrize(
    "text",
    [
        frame(type="response.output_audio_transcript.delta", delta="hello"),
        frame(type="response.output_audio_transcript.done", transcript="hello"),
        frame(type="response.output_text.delta", delta='"response.output_audio.delta"'),
        frame(type="input_audio_buffer.speech_stopped"),
        frame(type="x", note="buffer.committed"),
        frame(type="session.updated", session={"instructions": 'say "audio.delta" now'}),
        frame(type="x", note="response.output_audio.delta"),
        "",
        "no JSON, but audio.delta",
        "null",
        "[1,2]",
    ],
)
def test_everything_else_is_the_sessions_alone(text: str) -> None:
    assert look(text) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"delta": "not base64!", "response_id": "r", "item_id": "i"},
        {"delta": "YWJ", "response_id": "r", "item_id": "i"},
        {"delta": 7, "response_id": "r", "item_id": "i"},
        {"delta": "YWJj", "item_id": "i"},
        {"delta": "YWJj", "response_id": "r"},
        {"delta": "YWJj", "response_id": "r", "item_id": "i", "content_index": "0"},
    ],
)
def test_sound_that_cannot_be_read_is_malformed(fields: dict[str, Any]) -> None:
    assert isinstance(look(frame(type="response.output_audio.delta", **fields)), Malformed)


def test_the_callers_sound_becomes_an_append_frame() -> None:
    assert json.loads(OpenAI().wrap(b"\x00\x01\x02")) == {
        "type": "input_audio_buffer.append",
        "audio": "AAEC",
    }


def test_the_key_stands_in_the_authorization_header() -> None:
    assert OpenAI().headers("k") == {"Authorization": "Bearer k"}
    assert OpenAI().headers(None) == {}


def test_the_model_is_added_to_the_address() -> None:
    assert (
        OpenAI().address("wss://api.openai.com/v1/realtime", "gpt-realtime").url
        == "wss://api.openai.com/v1/realtime?model=gpt-realtime"
    )
