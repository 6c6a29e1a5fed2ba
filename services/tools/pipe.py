"""Messages between host, fork server and runners: length-prefixed JSON over a socket pair.

Never pickle: what a runner says is data, whatever its tool did to the process.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from voicebus.bus.messages import work

MESSAGE_LIMIT_BYTES = 8 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class BadPipe(ValueError):
    """The other side does not speak the protocol; its process is beyond trust."""


UNREADABLE = (BadPipe, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading may raise when the other side's tool has written over the link or its memory."""


class Down(msgspec.Struct, tag_field="kind", frozen=True, kw_only=True):
    """Host to runner."""


class Run(Down, tag="run", frozen=True, kw_only=True):
    """Call this tool."""

    session_id: str
    call_id: str
    tool: str
    args: dict[str, Any]
    budget_s: float
    attempt: int = 1
    secrets: dict[str, str] = {}
    """What this tool may know and others may not."""


class Stop(Down, tag="stop", frozen=True, kw_only=True):
    """Ask this call to stop."""

    session_id: str
    call_id: str
    reason: str


class Up(msgspec.Struct, tag_field="kind", frozen=True, kw_only=True):
    """Runner to host."""


class Ready(Up, tag="ready", frozen=True, kw_only=True):
    """It can take calls."""


class Begun(Up, tag="begun", frozen=True, kw_only=True):
    """The tool's code begins now."""

    session_id: str
    call_id: str


class Said(Up, tag="said", frozen=True, kw_only=True):
    """Progress."""

    session_id: str
    call_id: str
    text: str


class Done(Up, tag="done", frozen=True, kw_only=True):
    """The call ended inside the runner."""

    session_id: str
    call_id: str
    status: work.Status
    result: msgspec.Raw = msgspec.Raw(b"null")
    message: str = ""
    duration_ms: float = 0.0
    cancel_seen_us: int | None = None
    began: bool = True
    grown_kb: int = 0
    """How much more memory the process holds than when it was ready."""
    children: int = 0
    """How many processes hang on it that its calls have left behind; counted now and then."""


class Orders(msgspec.Struct, tag_field="kind", frozen=True, kw_only=True):
    """Host to fork server."""


class Spawn(Orders, tag="spawn", frozen=True, kw_only=True):
    """Fork a runner; its link, output and dump descriptors come along."""

    number: int
    is_async: bool


class Reap(Orders, tag="reap", frozen=True, kw_only=True):
    """Its group has been cleared away: the process id may be used again."""

    number: int


class News(msgspec.Struct, tag_field="kind", frozen=True, kw_only=True):
    """Fork server to host."""


class Loaded(News, tag="loaded", frozen=True, kw_only=True):
    """The tool modules are imported."""

    tools: list[work.ToolSpec]
    async_tools: list[str]


class Refused(News, tag="refused", frozen=True, kw_only=True):
    """They could not be; `why` is for a person."""

    why: str


class Spawned(News, tag="spawned", frozen=True, kw_only=True):
    """A runner was forked."""

    number: int
    pid: int


class Exited(News, tag="exited", frozen=True, kw_only=True):
    """A runner ended; it is a zombie until Reap."""

    number: int
    pid: int
    exit_code: int | None = None
    signal: int | None = None


DOWN = msgspec.json.Decoder(Run | Stop)
UP = msgspec.json.Decoder(Ready | Begun | Said | Done)
ORDERS = msgspec.json.Decoder(Spawn | Reap)
NEWS = msgspec.json.Decoder(Loaded | Refused | Spawned | Exited)

_encoder = msgspec.json.Encoder()


def pack(message: msgspec.Struct) -> bytes:
    """The bytes to send."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Splitter:
    """Bytes as they come, to message bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete, one after the other. Raises BadPipe for an impossible
        length, after all that came before it: that a call began must not be lost."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MESSAGE_LIMIT_BYTES:
                raise BadPipe(f"a message of {length} bytes, the limit is {MESSAGE_LIMIT_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield body


class Link:
    """The runner's end: blocking sends, reads that never block."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._splitter = Splitter()
        self._sending = threading.Lock()
        self.is_closed = False

    def send(self, message: Up) -> None:
        """Returns when it is in the kernel. Raises OSError when the host is gone.

        From any thread: a long message goes in pieces, between which another must not come.
        """
        with self._sending:
            self.socket.sendall(pack(message))

    def poll(self) -> list[Run | Stop]:
        """What has come; sets `is_closed` when the host is gone."""
        found: list[Run | Stop] = []
        while True:
            try:
                data = self.socket.recv(65536, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return found
            except ConnectionError:
                data = b""
            if not data:
                self.is_closed = True
                return found
            found += [DOWN.decode(body) for body in self._splitter.feed(data)]
