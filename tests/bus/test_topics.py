import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebus.bus import ids, topics
from voicebus.bus.topics import Topic

SID = "s0-" + "0" * 26


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        (topics.event(SID, "interrupted"), f"event/{SID}/interrupted"),
        (topics.audio(SID, "out"), f"audio/{SID}/out"),
        (topics.cancel(SID, "call"), f"cancel/{SID}/call"),
        (topics.raw(SID, "response.done"), f"raw/{SID}/response.done"),
        (topics.system("session", 0, "state"), "system/session/0/state"),
    ],
)
def test_topics_are_written_as_the_protocol_says(topic: bytes, text: str) -> None:
    assert topic == text.encode()


def test_a_topic_can_be_taken_apart() -> None:
    assert topics.parse(topics.event(SID, "head")) == Topic("event", SID, "head")
    assert topics.parse(b"system/toolhost/1/state") == Topic("system", "toolhost", "1/state")


@pytest.mark.parametrize(
    "topic",
    [b"", b"event", b"event/", b"event/x", b"event//x", b"event/x/", b"no/x/y", b"\xff"],
)
def test_what_is_no_topic_is_none(topic: bytes) -> None:
    assert topics.parse(topic) is None


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(topic: bytes) -> None:
    topics.parse(topic)


@pytest.mark.parametrize(
    ("prefix", "owner"),
    [
        (b"", ""),
        (b"audio", ""),
        (b"event/", ""),
        (f"event/{SID}".encode(), ""),  # the beginning of others, too
        (f"event/{SID}/".encode(), SID),
        (f"audio/{SID}/out".encode(), SID),
        (b"elsewhere/s0-x/", ""),
    ],
)
def test_a_subscription_tells_whose_it_is(prefix: bytes, owner: str) -> None:
    assert topics.owner(prefix) == owner


def test_the_prefix_of_one_session_never_covers_another() -> None:
    # s1-… and s11-…: the slash after every element is what keeps them apart.
    tail = ids.ulid()
    subscription = f"event/s1-{tail}/".encode()

    assert topics.event(f"s1-{tail}", "head").startswith(subscription)
    assert not topics.event(f"s1-{tail}x", "head").startswith(subscription)
    assert not topics.event(f"s11-{tail}", "head").startswith(subscription)
