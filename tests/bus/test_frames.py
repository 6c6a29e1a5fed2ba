import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebus.bus.frames import Codec, id_of
from voicebus.bus.messages import link, work
from voicebus.bus.messages.base import HEADER_LIMIT_BYTES, BadMessage
from voicebus.bus.messages.link import Ack, Hello, SendFrame

down: Codec[link.ANY_DOWN] = Codec(link.ANY_DOWN, what="link")
PLANES = [link.ANY_DOWN, link.ANY_UP, work.ANY_TO_DISPATCHER, work.ANY_TO_POOL]


def test_a_header_and_its_payload_come_back_as_they_were_sent() -> None:
    header = SendFrame(session_id="s", n=3, generation=1, after_n=7)

    frames = down.encode(header, b"one", b"two")

    assert down.decode(frames) == (header, [b"one", b"two"])


def test_fields_that_a_newer_peer_adds_are_ignored() -> None:
    header, _ = down.decode([b'{"kind":"ack","sessions":{"s":1},"new":{"x":[1]}}'])

    assert header == Ack(sessions={"s": 1})


def test_fields_that_an_older_peer_lacks_have_their_default() -> None:
    header, _ = down.decode([b'{"kind":"hello","shard":0,"inc":"i","sessions":{}}'])

    assert header == Hello(shard=0, inc="i", sessions={})


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        ([], "without a header frame"),
        ([b""], "link: "),
        ([b"{"], "link: "),
        ([b"[]"], "Expected `object`"),
        ([b'{"kind":"nonsense"}'], "Invalid value 'nonsense'"),
        ([b'{"kind":"ack"}'], "missing required field `sessions`"),
        ([b'{"kind":"ack","sessions":{"s":"x"}}'], r"Expected `int`, got `str` - at `\$.sessions"),
        ([b'{"kind":"ack","sessions":{"\xff":1}}'], "link: "),
        ([b" " * (HEADER_LIMIT_BYTES + 1)], f"the limit is {HEADER_LIMIT_BYTES}"),
        ([b"[" * 100_000], "link: "),
        ([b'{"kind":"ack","sessions":{},"x":' + b"[" * 128 + b"]" * 128 + b"}"], "128 levels"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_the_plane_and_the_reason(
    frames: list[bytes], told: str
) -> None:
    with pytest.raises(BadMessage, match=told):
        down.decode(frames)


@given(st.binary(max_size=200), st.sampled_from(PLANES))
def test_no_bytes_raise_anything_else(raw: bytes, plane: object) -> None:
    codec: Codec[object] = Codec(plane, what="plane")
    try:
        codec.decode([raw])
    except BadMessage:
        return


values = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2**70,
        1e400,
        0.5,
        "",
        "x",
        [],
        [None],
        {},
        {"s": 1},
        {"s": "x"},
        {"s": None},
    ]
)


@given(
    st.sampled_from(["ack", "hello", "dial", "send", "submit", "result", "call", "frame"]),
    st.dictionaries(st.sampled_from(["sessions", "session_id", "n", "args", "data"]), values),
    st.sampled_from(PLANES),
)
def test_no_json_object_raises_anything_else(
    kind: str, fields: dict[str, object], plane: object
) -> None:
    codec: Codec[object] = Codec(plane, what="plane")
    try:
        codec.decode([msgspec.json.encode({"kind": kind, **fields})])
    except BadMessage:
        return


@pytest.mark.parametrize(
    ("raw", "id"),
    [
        (b'{"id":"abcdefgh","command":7}', "abcdefgh"),
        (b'{"id":7}', ""),
        (b'{"id":"' + b"x" * 65 + b'"}', ""),
        (b"[]", ""),
        (b"nonsense", ""),
        (b'"\x9d"', ""),
        (b'{"id":"abcdefgh","x":' + b"[" * 100_000, ""),
    ],
)
def test_the_id_of_a_wrong_command_is_found_where_there_is_one(raw: bytes, id: str) -> None:
    assert id_of([raw]) == id


def test_without_a_frame_there_is_no_id() -> None:
    assert id_of([]) == ""
