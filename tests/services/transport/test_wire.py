"""The wire: cut anywhere, the same messages as the library finds; frames that it can read."""

import base64
import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from voicebus.services.transport.wire import Cutter, Rest, Text, text_frame

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
LIMIT = 70_000
Found = tuple[Opcode, bytes, bool]


def framed(opcode: Opcode, payload: bytes, *, fin: bool = True, mask: bool = False) -> bytes:
    """A frame as the library makes it."""
    return Frame(opcode, payload, fin).serialize(mask=mask)


def cut(stream: bytes, at: list[int] | None = None) -> list[Text | Rest]:
    """All pieces of a stream that comes in these parts."""
    cutter = Cutter(LIMIT)
    edges = [0, *sorted({one % (len(stream) + 1) for one in at or []}), len(stream)]
    pieces: list[Text | Rest] = []
    for start, end in itertools.pairwise(edges):
        pieces += cutter.cut(stream[start:end])
    return pieces


def opened() -> tuple[ClientProtocol, bytes]:
    """The library's side of a connection that waits for the answer, and the right answer."""
    protocol = ClientProtocol(parse_uri("ws://localhost/"), max_size=LIMIT)
    request = protocol.connect()
    protocol.send_request(request)
    protocol.data_to_send()
    key = request.headers["Sec-WebSocket-Key"]
    magic = key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(magic).digest()).decode()
    answer = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    return protocol, answer.encode()


def of_library(protocol: ClientProtocol) -> list[Found]:
    """The frames that the library has found since."""
    found = [one for one in protocol.events_received() if isinstance(one, Frame)]
    return [(one.opcode, bytes(one.data), one.fin) for one in found]


def at_the_server(*sent: bytes) -> list[tuple[Opcode, bytes]]:
    """The frames that a server reads."""
    server = ServerProtocol(max_size=None)
    server.state = State.OPEN
    server.parser = server.parse()
    next(server.parser)
    for data in sent:
        if data:
            server.receive_data(data)
    found = [one for one in server.events_received() if isinstance(one, Frame)]
    return [(one.opcode, bytes(one.data)) for one in found]


plain = st.binary(max_size=300).map(lambda one: [framed(Opcode.TEXT, one)])
long = st.integers(120, 66_000).map(lambda size: [framed(Opcode.TEXT, b"x" * size)])
binary = st.binary(max_size=200).map(lambda one: [framed(Opcode.BINARY, one)])
control = st.tuples(st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125)).map(
    lambda one: [framed(*one)]
)
fragments = st.tuples(
    st.sampled_from([Opcode.TEXT, Opcode.BINARY]),
    st.lists(st.binary(max_size=50), min_size=2, max_size=4),
).map(
    lambda one: [
        framed(one[0] if n == 0 else Opcode.CONT, part, fin=n == len(one[1]) - 1)
        for n, part in enumerate(one[1])
    ]
)
breach = st.sampled_from(
    [
        [framed(Opcode.CONT, b"nothing to go on with")],
        [framed(Opcode.TEXT, b"masked", mask=True)],
        [framed(Opcode.TEXT, b"x" * (LIMIT + 1))],
        [b"\xc1\x01x"],  # a reserved bit
        [b"\x83\x01x"],  # no such opcode
        [framed(Opcode.TEXT, b"open", fin=False), framed(Opcode.TEXT, b"in between")],
        [framed(Opcode.CLOSE, b"\x03\xe8bye")],
    ]
)
streams = st.lists(st.one_of(plain, plain, long, binary, control, fragments), max_size=8)


@given(streams, st.one_of(st.none(), breach), streams, st.lists(st.integers(0, 200_000)))
def test_the_same_messages_come_out_as_the_library_alone_would_find(
    before: list[list[bytes]],
    broken: list[bytes] | None,
    after: list[list[bytes]],
    edges: list[int],
) -> None:
    frames = b"".join(
        frame for group in [*before, *([broken] if broken else []), *after] for frame in group
    )
    alone, answer = opened()
    alone.receive_data(answer + frames)
    expected = of_library(alone)

    helped, answer = opened()
    cutter = Cutter(LIMIT)
    found: list[Found] = []
    stream = answer + frames
    places = [0, *sorted({one % (len(stream) + 1) for one in edges}), len(stream)]
    for start, end in itertools.pairwise(places):
        for piece in cutter.cut(stream[start:end]):
            if isinstance(piece, Text):
                found.append((Opcode.TEXT, piece.payload, True))
                continue
            helped.receive_data(piece.data)
            found += of_library(helped)
            if helped.state is not State.OPEN:
                cutter.give_up()

    assert found == expected
    assert helped.state is alone.state
    # Pongs, and why it was closed.
    assert at_the_server(*helped.data_to_send()) == at_the_server(*alone.data_to_send())


def test_plain_texts_never_reach_the_library() -> None:
    texts = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 65_535, b"e" * 65_536]

    pieces = cut(HEAD + b"".join(framed(Opcode.TEXT, one) for one in texts))

    assert pieces == [Rest(HEAD), *map(Text, texts)]


def test_an_answer_that_comes_byte_by_byte_goes_to_the_library_as_it_comes() -> None:
    stream = HEAD + framed(Opcode.TEXT, b"first")

    pieces = cut(stream, list(range(len(stream))))

    assert b"".join(one.data for one in pieces if isinstance(one, Rest)) == HEAD
    assert pieces[-1] == Text(b"first")


def test_an_answer_without_end_is_kept_nowhere() -> None:
    cutter = Cutter(LIMIT)

    handed = [piece for _ in range(100) for piece in cutter.cut(b"X-More: 1\r\n" * 100)]

    assert sum(len(one.data) for one in handed if isinstance(one, Rest)) == 100 * 1100
    assert len(handed) == 100


def test_a_message_beyond_the_limit_goes_to_the_library_with_all_that_follows() -> None:
    too_long = framed(Opcode.TEXT, b"x" * (LIMIT + 1))[:50]

    pieces = cut(HEAD + too_long + framed(Opcode.TEXT, b"later"))

    assert pieces == [Rest(HEAD), Rest(too_long + framed(Opcode.TEXT, b"later"))]


def test_what_follows_a_close_goes_to_the_library_once_it_is_given_up() -> None:
    cutter = Cutter(LIMIT)
    list(cutter.cut(HEAD))
    pieces = cutter.cut(framed(Opcode.CLOSE, b"") + framed(Opcode.TEXT, b"late"))

    assert next(pieces) == Rest(framed(Opcode.CLOSE, b""))
    cutter.give_up()

    assert list(pieces) == [Rest(framed(Opcode.TEXT, b"late"))]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_a_server_reads_the_frames_that_are_made_here(size: int) -> None:
    frame = text_frame(b"t" * size, b"\x01\x02\x03\x04")

    assert at_the_server(frame) == [(Opcode.TEXT, b"t" * size)]
