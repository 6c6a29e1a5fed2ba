"""Numbers: seq without gaps, prev per kind, and both survive the journal."""

import msgspec

from voicebus.bus.messages.events import AssistantText, EventHeader, UserTranscript
from voicebus.services.session.ledger import Ledger

HEADERS = msgspec.json.Decoder(EventHeader)


def said(text: str) -> UserTranscript:
    return UserTranscript(item_id="i", text=text)


def answered(text: str) -> AssistantText:
    return AssistantText(turn_id="r", item_id="i", content_index=0, text=text)


def test_seq_counts_all_events_and_prev_those_of_the_same_kind() -> None:
    ledger = Ledger("s0-x", "inc")

    headers = [
        HEADERS.decode(ledger.event(data, epoch=0, at_us=1, cause=None).header)
        for data in (said("a"), answered("b"), said("c"), said("d"))
    ]

    assert [header.seq for header in headers] == [1, 2, 3, 4]
    assert [header.prev for header in headers] == [0, 0, 1, 3]


def test_a_restored_ledger_goes_on_where_the_last_one_stopped() -> None:
    first = Ledger("s0-x", "inc-1")
    first.event(said("a"), epoch=0, at_us=1, cause=None)
    first.down()
    first.up_n = 7
    second = Ledger("s0-x", "inc-2")

    second.restore(msgspec.json.decode(msgspec.json.encode(first.dump())))

    header = HEADERS.decode(second.event(said("b"), epoch=0, at_us=2, cause="c1").header)
    assert (header.seq, header.prev, header.inc, header.cause) == (2, 1, "inc-2", "c1")
    assert (second.down(), second.up_n) == (2, 7)


def test_the_topic_names_session_and_kind() -> None:
    event = Ledger("s0-x", "inc").event(said("a"), epoch=0, at_us=1, cause=None)

    assert event.topic == b"event/s0-x/user_transcript"
