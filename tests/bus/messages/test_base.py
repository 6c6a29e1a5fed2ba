from typing import get_args

import msgspec
import pytest

from voicebus.bus.messages import commands, events, sound, system
from voicebus.bus.messages.base import (
    HEADER_LIMIT_BYTES,
    BadMessage,
    convert,
    decode_object,
    encode,
    plain,
    wire_name,
)
from voicebus.bus.messages.commands import CommandError, Reply, SendText

MOJENTIC = {
    "session_opened",
    "session_updated",
    "session_closed",
    "user_speech_started",
    "user_speech_stopped",
    "user_transcript_delta",
    "user_transcript",
    "assistant_turn_started",
    "assistant_text_delta",
    "assistant_text",
    "assistant_transcript_delta",
    "assistant_transcript",
    "assistant_turn_completed",
    "tool_call_started",
    "tool_call_args_delta",
    "tool_call_dispatched",
    "tool_call_completed",
    "tool_call_failed",
    "tool_batch_submitted",
    "interrupted",
    "rate_limited",
    "error",
}


def test_a_class_is_named_on_the_wire_in_snake_case() -> None:
    assert wire_name(events.AssistantTurnCompleted) == "assistant_turn_completed"
    assert wire_name(commands.Ping) == "ping"


def test_mojentics_kinds_keep_their_names() -> None:
    assert set(events.EVENTS) >= MOJENTIC
    assert "assistant_audio_delta" in sound.SOUND


def test_every_message_says_what_it_is() -> None:
    for registry in (events.EVENTS, commands.COMMANDS, sound.SOUND, system.SYSTEM):
        for name, kind in registry.items():
            assert kind.__doc__, name


def test_every_error_code_says_whether_a_retry_can_help() -> None:
    assert set(commands.RETRY) == set(get_args(commands.ErrorCode))


def test_a_message_becomes_plain_values_and_typed_again() -> None:
    message = SendText(text="Grüße")

    assert plain(message) == {"text": "Grüße"}
    assert convert(plain(message), SendText, what="send_text") == message


def test_data_of_the_wrong_shape_is_refused_with_the_field() -> None:
    with pytest.raises(BadMessage, match=r"send_text: Expected `str`, got `int` - at `\$.text`"):
        convert({"text": 3}, SendText, what="send_text")
    with pytest.raises(BadMessage, match="missing required field `text`"):
        convert({}, SendText, what="send_text")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "command: not JSON"),
        (b"{", "command: not JSON"),
        (b"\xff\xfe", "command: not JSON"),
        (b'{"a":"\xed\xa0\x80"}', "command: not JSON"),
        (b"3", "expected a JSON object, got int"),
        (b"null", "expected a JSON object, got NoneType"),
        (b"[" * 200_000, "command: "),
        (b'{"a":' * 100_000, "command: "),
        (
            b" " * (HEADER_LIMIT_BYTES + 1),
            f"limit is {HEADER_LIMIT_BYTES}: send large",
        ),
    ],
)
def test_a_frame_that_is_no_json_object_is_refused(raw: bytes, told: str) -> None:
    with pytest.raises(BadMessage, match=told):
        decode_object(raw, what="command")


def test_a_reply_is_either_ok_or_an_error() -> None:
    error = CommandError(code="busy", message="full")

    Reply(id="1", ok=True)
    Reply(id="1", ok=False, error=error)
    with pytest.raises(ValueError, match="either ok or an error"):
        Reply(id="1", ok=True, error=error)
    with pytest.raises(ValueError, match="either ok or an error"):
        Reply(id="1", ok=False)


def test_an_event_carries_its_data_once_encoded_and_as_a_plain_value_alike() -> None:
    data = events.UserTranscript(item_id="i", text="hello")
    whole = encode(events.EventHeader(kind="user_transcript", session_id="s", data=plain(data)))
    spliced = encode(
        events.EventHeader(kind="user_transcript", session_id="s", data=msgspec.Raw(encode(data)))
    )

    assert whole == spliced
