"""A WebSocket server that costs next to nothing, so that the generator is not what is measured.

It speaks as much of RFC 6455 as clients of a loopback provider need: text, ping, close, fragments.
"""

import asyncio
import base64
import hashlib
import struct
from collections.abc import Callable
from typing import cast

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING = 1, 2, 8, 9


def encode(payload: bytes, opcode: int = _TEXT) -> bytes:
    """One whole, unmasked frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


class Masked:
    """A client's message that is unmasked only as far as somebody reads it."""

    __slots__ = ("_body", "_mask")

    def __init__(self, body: bytes, mask: bytes) -> None:
        self._body = body
        self._mask = mask

    def __len__(self) -> int:
        return len(self._body)

    def first(self, count: int | None = None) -> bytes:
        """The first bytes, or all."""
        part = self._body if count is None else self._body[:count]
        size = len(part)
        mask = (self._mask * (size // 4 + 1))[:size]
        return (int.from_bytes(part, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


class Peer(asyncio.Protocol):
    """One client's connection. `received` gets each whole message."""

    def __init__(
        self,
        opened: Callable[["Peer"], None],
        received: Callable[["Peer", Masked], None],
        closed: Callable[["Peer"], None],
    ) -> None:
        self._opened, self._received, self._closed = opened, received, closed
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance check: uvloop's transports are no subclass.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_open:
            self._is_open = False
            self._closed(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open and not self._shake():
            return
        while self._take():
            pass

    def send(self, payload: bytes) -> None:
        """One text message."""
        if self._transport is not None and self._is_open:
            self._transport.write(encode(payload))

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _shake(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._transport is None:
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")[1:]
        del self._buffer[: end + 4]
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        key = hashlib.sha1(fields.get(b"sec-websocket-key", b"") + _GUID).digest()
        answer = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + base64.b64encode(key),
        ]
        if b"realtime" in fields.get(b"sec-websocket-protocol", b""):
            answer.append(b"Sec-WebSocket-Protocol: realtime")
        self._transport.write(b"\r\n".join(answer) + b"\r\n\r\n")
        self._is_open = True
        self._opened(self)
        return True

    def _take(self) -> bool:
        """One frame from the buffer, if a whole one is there."""
        data = self._buffer
        if len(data) < 6:
            return False
        first, size, at = data[0], data[1] & 127, 2
        if size == 126:
            size, at = struct.unpack_from("!H", data, 2)[0], 4
        elif size == 127:
            if len(data) < 14:
                return False
            size, at = struct.unpack_from("!Q", data, 2)[0], 10
        if len(data) < at + 4 + size:
            return False
        mask, body = bytes(data[at : at + 4]), bytes(data[at + 4 : at + 4 + size])
        del data[: at + 4 + size]
        opcode = first & 15
        if opcode == _PING and self._transport is not None:
            self._transport.write(encode(Masked(body, mask).first(), 10))
        elif opcode == _CLOSE and self._transport is not None:
            self._transport.write(encode(Masked(body, mask).first(), _CLOSE))
            self._transport.close()
        elif opcode <= _BINARY:
            self._message(Masked(body, mask), is_last=bool(first & 128))
        return True

    def _message(self, part: Masked, *, is_last: bool) -> None:
        if is_last and not self._parts:
            self._received(self, part)
            return
        self._parts.append(part.first())
        if is_last:
            whole, self._parts = b"".join(self._parts), []
            self._received(self, Masked(whole, b"\0\0\0\0"))
