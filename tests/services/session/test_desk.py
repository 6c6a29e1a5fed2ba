"""Commands: one reply each, the same reply for the same id, clear words for what is wrong."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.messages.commands import Command, Reply
from voicebus.services.session.desk import Desk, Key, Refused, typed
from voicebus.services.session.journal import StoredReply

A = (b"client-a",)
B = (b"client-b",)
ID = "01j00000000000000000000000"


class Table:
    """A desk, and what it has sent."""

    def __init__(self, in_flight: int = 4) -> None:
        self.sent: list[tuple[tuple[bytes, ...], Reply]] = []
        self.now_us = 1_000_000
        self.journal: dict[Key, StoredReply] = {}
        self.desk = Desk(
            lambda route, raw: self.sent.append((route, msgspec.json.decode(raw, type=Reply))),
            lambda: self.now_us,
            lambda key: self.journal.get(key),
            memory_us=600_000_000,
            in_flight=in_flight,
        )

    def ask(self, route: tuple[bytes, ...] = A, **fields: Any) -> Command | None:
        base = {"v": 1, "id": ID, "command": "ping", "data": {}}
        return self.desk.take(route, [encode({**base, **fields})])

    def done(self, session_id: str = "", command_id: str = ID, **reply: Any) -> None:
        key = self.desk.key_of(session_id, command_id)
        assert key is not None
        stored = self.desk.reply(key, **reply)
        assert stored is not None
        self.journal[(stored.session_id, stored.command, stored.id)] = stored
        self.desk.release(stored)

    def refusal(self) -> str:
        (_, reply) = self.sent[-1]
        assert reply.error is not None
        return f"{reply.error.code}: {reply.error.message}"


def test_a_command_is_taken_once_and_answered_once() -> None:
    table = Table()

    assert table.ask() is not None
    table.done(data={"x": 1}, seq=7)

    assert table.sent == [(A, Reply(id=ID, ok=True, seq=7, data={"x": 1}))]


def test_the_same_id_again_gets_the_same_reply_without_being_done_again() -> None:
    table = Table()
    table.ask()
    table.done(seq=7)

    assert table.ask(B) is None

    assert [reply for _, reply in table.sent] == [Reply(id=ID, ok=True, seq=7)] * 2
    assert table.sent[1][0] == B


def test_a_repetition_while_it_waits_is_answered_with_it() -> None:
    table = Table()
    table.ask(A)

    assert table.ask(B) is None
    table.done(seq=7)

    assert [route for route, _ in table.sent] == [A, B]


def test_the_same_id_with_another_body_is_a_conflict() -> None:
    table = Table()
    table.ask(command="send_text", session_id="s0-x", data={"text": "yes"})

    assert table.ask(command="send_text", session_id="s0-x", data={"text": "no"}) is None

    assert table.refusal().startswith("conflict: ")


def test_a_reply_of_a_former_life_is_remembered() -> None:
    first = Table()
    first.ask(command="send_text", session_id="s0-x", data={"text": "yes"})
    key = first.desk.key_of("s0-x", ID)
    assert key is not None
    stored = first.desk.reply(key, seq=3)
    assert stored is not None
    second = Table()
    second.journal[("s0-x", "send_text", ID)] = stored

    assert second.ask(command="send_text", session_id="s0-x", data={"text": "yes"}) is None

    assert second.sent == [(A, Reply(id=ID, ok=True, seq=3))]


def test_what_a_former_life_still_owes_is_waited_for_and_not_done_again() -> None:
    table = Table()
    table.desk.expect("s0-x", "update", ID)

    assert table.ask(command="update", session_id="s0-x", data={"config": {}}) is None
    assert table.sent == []
    table.done("s0-x", seq=9)

    assert table.sent == [(A, Reply(id=ID, ok=True, seq=9))]


def test_one_client_may_have_so_many_commands_in_flight() -> None:
    table = Table(in_flight=1)
    table.ask(id=ID)

    assert table.ask(id=ID[:-1] + "1") is None
    assert table.refusal().startswith("busy: 1 commands of this client")
    assert table.ask(B, id=ID[:-1] + "2") is not None
    table.done()
    assert table.ask(id=ID[:-1] + "3") is not None


def test_a_reply_that_a_former_life_owed_makes_no_room_for_one_command_more() -> None:
    table = Table(in_flight=1)
    table.desk.expect("s0-x", "update", ID)
    table.ask(command="update", session_id="s0-x", data={"config": {}})
    assert table.ask(id=ID[:-1] + "1") is not None

    table.done("s0-x", seq=9)

    assert table.ask(id=ID[:-1] + "2") is None
    assert table.refusal().startswith("busy: 1 commands of this client")


def test_replies_are_forgotten_after_a_while() -> None:
    table = Table()
    table.ask()
    table.done()
    table.now_us += 599_000_000
    table.desk.forget_old(journaled=True)
    assert table.ask() is None

    table.now_us += 2_000_000

    assert table.ask() is not None


@pytest.mark.parametrize(("journaled", "kept_s"), [(True, 60), (False, 600)])
def test_a_reply_stays_in_memory_for_a_minute_or_without_a_journal_for_its_time(
    journaled: bool, kept_s: int
) -> None:
    table = Table()
    table.ask()
    table.done(seq=7)
    table.journal.clear()

    table.now_us += (kept_s - 1) * 1_000_000
    table.desk.forget_old(journaled=journaled)
    assert table.ask() is None
    assert table.sent[-1] == (A, Reply(id=ID, ok=True, seq=7))

    table.now_us += 2_000_000
    table.desk.forget_old(journaled=journaled)
    table.now_us -= 2_000_000  # else it might not count, and still be there
    assert table.ask() is not None


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "without a header frame"),
        ([b"{not json"], "command: "),
        ([b"[1, 2]"], "command: "),
        ([b'{"command":"ping"}'], "missing required field `id`"),
        ([encode({"id": ID, "command": "pnig"})], "unknown command 'pnig' (did you mean ping?)"),
        ([encode({"id": "1", "command": "ping"})], "id must have 8 to 64 characters"),
        ([encode({"v": 2, "id": ID, "command": "ping"})], "protocol version 2"),
        ([b'"' + b"x" * (9 << 20) + b'"'], "the limit is"),
        ([b"[" * 100_000], "command: "),
        ([b'"\xf6"'], "command: "),
        ([b'{"id":"\xf6","command":"ping"}'], "command: not JSON"),
        ([b'{"\xf6":1}'], "command: Object missing required field `id`"),
    ],
)
def test_what_is_no_command_is_refused_with_the_reason(frames: list[bytes], words: str) -> None:
    table = Table()

    assert table.desk.take(A, frames) is None

    assert words in table.refusal()
    assert table.refusal().startswith("bad_request")


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda raw: b'"' + raw + b'"'))
def test_whatever_the_bytes_are_there_is_one_reply(raw: bytes) -> None:
    table = Table()

    table.desk.take(A, [raw])

    assert table.refusal().startswith("bad_request")


def test_a_wrong_field_is_named_with_the_nearest() -> None:
    command = Command(id=ID, command="send_text", session_id="s0-x", data={"txt": "hi"})

    with pytest.raises(BadMessage, match=r"'txt' \(did you mean text\?\)"):
        typed(command)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(BadMessage, match="text"):
        typed(Command(id=ID, command="send_text", session_id="s0-x"))


def test_the_code_says_whether_to_try_again() -> None:
    assert Refused("busy", "x", after_ms=5).error.retry
    assert not Refused("bad_request", "x").error.retry
