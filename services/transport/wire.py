"""WebSocket frames (RFC 6455) on the hot path: whole plain texts are cut out and made here. Pure.

The library parses a frame in a stack of generators and makes one in a chain of objects: a third of
what a 20 ms frame of sound cost the transport. Nearly all frames are alike, though: a whole text
message, unfragmented, without reserved bits. Those are handled here, and everything else (control
frames, fragments, whatever breaks the rules) is the library's, which gets it frame by frame, so
that it is always between two frames when a plain one is kept from it.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without a compiled wheel
    from websockets.utils import apply_mask

_WHOLE_TEXT = 0x81
_CONTROL = 0x08
_FIN = 0x80
_OPCODE = 0x0F
_MASKED = 0x80
_MASKED_BYTE = b"\x80"
_LONG, _LONGER = 126, 127
_END_OF_HEAD = b"\r\n\r\n"


class Text(NamedTuple):
    """The payload of a whole text message; whether it is UTF-8 has not been looked at."""

    payload: bytes


class Rest(NamedTuple):
    """Bytes for the library: the handshake's answer, another kind of frame, or all that follows."""

    data: bytes


class Cutter:
    """One connection's bytes as they come from the server, in pieces of any size."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes`: a longer message is the library's, which refuses it."""
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        """The beginning of a frame."""
        self._needs = 0
        """Bytes of it that must be there before there is anything to do."""
        self._head_tail: bytes | None = b""
        """The end of what came of the handshake's answer; None: that is over."""
        self._is_fragmented = False
        self._is_given_up = False

    def give_up(self) -> None:
        """From now on everything is the library's: the connection is ending."""
        self._is_given_up = True

    def cut(self, data: bytes) -> Iterator[Text | Rest]:
        """The pieces that are complete with this. Handle each before asking for the next."""
        at = 0
        if self._head_tail is not None:
            seen = self._head_tail + data
            end = seen.find(_END_OF_HEAD)
            if end < 0:
                self._head_tail = seen[1 - len(_END_OF_HEAD) :]
                yield Rest(data)
                return
            at = end + len(_END_OF_HEAD) - len(self._head_tail)
            self._head_tail = None
            yield Rest(data[:at])
        elif self._kept:
            self._kept += data
            if len(self._kept) < self._needs:
                return
            data = bytes(self._kept)
            self._kept.clear()
        size = len(data)
        while at < size and not self._is_given_up:
            start, end = _measure(data, at)
            if data[at + 1 : at + 2] >= _MASKED_BYTE or end - start > self._limit_bytes:
                self.give_up()  # a breach, for which the library closes the connection
            elif end > size:
                self._needs = end - at
                self._kept += data[at:]
                return
            else:
                first = data[at]
                if first == _WHOLE_TEXT and not self._is_fragmented:
                    yield Text(data[start:end])
                else:
                    if not first & _CONTROL:
                        self._is_fragmented = not first & _FIN
                    yield Rest(data[at:end])
                at = end
        if at < size:
            yield Rest(data[at:])


def _measure(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the frame at `at` begins and ends, as far as its head is there."""
    have = len(data) - at
    length = data[at + 1] & ~_MASKED if have > 1 else 0
    if length < _LONG:
        return at + 2, at + 2 + length
    if length == _LONG:
        return at + 4, at + 4 + (int.from_bytes(data[at + 2 : at + 4], "big") if have >= 4 else 0)
    return at + 10, at + 10 + (int.from_bytes(data[at + 2 : at + 10], "big") if have >= 10 else 0)


def text_frame(payload: bytes, mask: bytes) -> bytes:
    """A client's frame with a whole text message; `mask`: four bytes that nobody can foretell."""
    length = len(payload)
    if length < _LONG:
        head = struct.pack("!BB", _WHOLE_TEXT, _MASKED | length)
    elif length < 65536:
        head = struct.pack("!BBH", _WHOLE_TEXT, _MASKED | _LONG, length)
    else:
        head = struct.pack("!BBQ", _WHOLE_TEXT, _MASKED | _LONGER, length)
    return b"".join((head, mask, apply_mask(payload, mask)))
