import json
from typing import Any

import pytest

from voicebus.bus.messages.commands import CommandError, Reply
from voicebus.services.gateway import protocol
from voicebus.services.gateway.protocol import Allowed, Asked, Joining, Opening, Refusal

SID = "s0-01m841rn5twrrk91ye48zemmxe"
ID = "01m841rn5twrrk91ye48zemmxe"
EVERYTHING = Allowed()


def why(found: Any) -> str:
    assert isinstance(found, Refusal)
    return found.error.message


def test_the_first_frame_opens_a_conversation() -> None:
    frame = '{"open": {"instructions": "x"}, "key": "k"}'

    assert protocol.first(frame) == Opening({"instructions": "x"}, "k")


def test_the_first_frame_comes_back_to_one() -> None:
    frame = json.dumps({"attach": {"session_id": SID, "token": "t", "after_seq": 7}})

    assert protocol.first(frame) == Joining(SID, "t", 7)


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ("", "not JSON"),
        ("\ud800", "not JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "expected a JSON object"),
        ("{}", 'expected {"open"'),
        ('{"open": 1}', 'expected {"open"'),
        ('{"open": {}, "attach": {}}', 'expected {"open"'),
        ('{"attach": {"session_id": 1}}', "no session id"),
        ('{"attach": {"session_id": "%s"}}' % SID, "token"),  # noqa: UP031
        ('{"attach": {"session_id": "%s", "token": "t", "after_seq": -1}}' % SID, "after_seq"),  # noqa: UP031
        ('{"attach": {"session_id": "%s", "token": "t", "after_seq": true}}' % SID, "after_seq"),  # noqa: UP031
    ],
)
def test_a_wrong_first_frame_is_told_what_it_should_be_and_closes(frame: str, told: str) -> None:
    found = protocol.first(frame)

    assert told in why(found)
    assert isinstance(found, Refusal)
    assert found.closing == protocol.BAD_FIRST


def test_a_command_is_taken_as_on_the_bus() -> None:
    frame = {"v": 1, "id": ID, "command": "send_text", "session_id": SID, "data": {"text": "hi"}}

    found = protocol.command(json.dumps(frame), SID, EVERYTHING)

    assert found == Asked(ID, "send_text", {"text": "hi"})


@pytest.mark.parametrize(
    ("frame", "code", "told"),
    [
        ({"id": 5, "command": "ping"}, "bad_request", "8 to 64 characters"),
        ({"id": ID, "command": "list"}, "bad_request", "no command 'list'"),
        ({"id": ID, "command": "open"}, "bad_request", "no command 'open'"),
        ({"id": ID, "command": "attach"}, "bad_request", "no command 'attach'"),
        ({"id": ID, "command": "ping", "data": []}, "bad_request", "must be an object"),
        ({"id": ID, "command": "ping", "session_id": "s0-x"}, "not_allowed", "this connection"),
    ],
)
def test_a_command_that_cannot_be_is_refused(frame: Any, code: str, told: str) -> None:
    found = protocol.command(json.dumps(frame), SID, EVERYTHING)

    assert told in why(found)
    assert isinstance(found, Refusal)
    assert found.error.code == code
    assert found.closing is None
    assert found.id == (ID if frame["id"] == ID else None)


def test_commands_and_fields_can_be_narrowed() -> None:
    allowed = Allowed(commands={"send_text", "update"}, fields={"voice"}, fixed={"model": "m"})
    update = {"id": ID, "command": "update", "data": {"config": {"instructions": "x"}}}

    refused = protocol.command(json.dumps({"id": ID, "command": "interrupt"}), SID, allowed)
    assert "may be: send_text, update" in why(refused)
    assert "instructions may not be set here (may be: voice)" in why(
        protocol.command(json.dumps(update), SID, allowed)
    )
    assert "model is the same for every call" in why(
        protocol.configuration({"model": "other"}, allowed)
    )
    assert protocol.configuration({"voice": "v"}, allowed) == {"voice": "v", "model": "m"}


def test_only_the_gateway_numbers_sound() -> None:
    commit = Asked(ID, "commit_audio", {"after_n": 99, "token": "x", "respond": False})

    ping = Asked(ID, "ping", {"after_n": 1})

    def after_sound() -> dict[str, Any]:
        return {"after_n": 3, "token": "ours"}

    assert protocol.performed(commit, after_sound) == {"respond": False, **after_sound()}
    assert protocol.performed(ping, after_sound) == {"after_n": 1}


def test_the_answer_to_the_first_frame_says_what_the_caller_needs_to_come_back() -> None:
    text = protocol.began(
        "opened",
        session_id=SID,
        token="t",
        config={"output_audio_format": "g711_ulaw", "lease_s": 30},
        seq=0,
        warnings=["w"],
        limits={"in_flight": 1},
    )

    assert json.loads(text) == {
        "opened": {
            "session_id": SID,
            "token": "t",
            "seq": 0,
            "lease_s": 30,
            "audio": {
                "input": {"format": "pcm16", "rate_hz": 24_000},
                "output": {"format": "g711_ulaw", "rate_hz": 8_000},
            },
            "limits": {"in_flight": 1},
            "warnings": ["w"],
        }
    }


def test_a_refusal_is_the_reply_where_there_was_an_id_and_an_error_where_not() -> None:
    with_id = json.loads(protocol.refused(protocol.refusal("busy", "full", id=ID, after_ms=5)))
    without = json.loads(protocol.refused(protocol.refusal("bad_request", "no")))

    assert (with_id["id"], with_id["ok"]) == (ID, False)
    assert with_id["error"] == {
        "code": "busy", "message": "full", "retry": True, "after_ms": 5, "who": "gateway",
    }  # fmt: skip
    assert list(without) == ["error"]


def test_replies_go_through_as_they_are() -> None:
    reply = Reply(id=ID, ok=False, error=CommandError(code="gone", message="m"))

    assert json.loads(protocol.answered(reply))["error"]["code"] == "gone"


def test_a_sound_frame_is_length_header_samples() -> None:
    assert protocol.sound(b"{}", b"\1\0") == b"\0\2{}\1\0"


def test_reasons_of_closings_fit_into_a_close_frame() -> None:
    closings = [one for one in vars(protocol).values() if isinstance(one, protocol.Closing)]

    assert len({one.code for one in closings}) == len(closings) > 10
    assert all(len(one.reason.encode()) <= 123 for one in closings)
