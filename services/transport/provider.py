"""The shell around one provider connection: dial, read, send, close. It decides nothing."""

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import DATA_OPCODES, CloseCode, Frame, Opcode
from websockets.protocol import Event, State

from voicebus.services.descriptors import NONE_LEFT
from voicebus.services.transport.media.address import Address
from voicebus.services.transport.outbox import HangUpNow, Next, WaitUntil, Write, WriteSound
from voicebus.services.transport.wire import Cutter, Text, text_frame

CLOSE_S = 1.5
"""How long a closing handshake may take."""
PING_S = 20.0
REASON_LIMIT = 300
SHORTEST_KEY = 8
"""A shorter one is a placeholder; to take it out would take letters out of words."""
MASKS_AT_ONCE = 1024
_BREACHES = (1002, 1003, 1007, 1009)
"""Codes we close with when a frame breaks the protocol or the limit."""

# At level DEBUG websockets logs the handshake's headers, and with them the key.
_quiet = logging.getLogger("voicebus.transport.provider")
_quiet.setLevel(logging.WARNING)


class Target(NamedTuple):
    """Where and how to dial."""

    address: Address
    headers: dict[str, str]
    key: str | None
    key_source: str
    """The file or variable of the key, for messages."""
    open_timeout_s: float
    max_frame_bytes: int


class Ended(NamedTuple):
    """How a connection ended, or why there was none."""

    code: int | None
    http_status: int | None
    reason: str
    error: str | None = None
    """Our own word for it, where nobody was dialled: `no_key`."""


class Port(NamedTuple):
    """Whom the shell asks and tells. Nothing is called after `ended`."""

    opened: Callable[[], None]
    received: Callable[[str | bytes], None]
    next: Callable[[], Next]
    wrap: Callable[[bytes], bytes]
    wrote: Callable[[Write | WriteSound], None]
    hang_up: Callable[[], None]
    ended: Callable[[Ended], None]


class _Connect(connect):
    """Follows no redirect: the key belongs to the host it was given for."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """The refusal itself."""
        return exc


class _Masks:
    """What clients mask their frames with: from the system's source of chance, many at a time."""

    def __init__(self) -> None:
        self._drawn = b""
        self._at = 0

    def take(self) -> bytes:
        """Four bytes, each but once."""
        if self._at == len(self._drawn):
            self._drawn, self._at = os.urandom(MASKS_AT_ONCE * 4), 0
        mask = self._drawn[self._at : self._at + 4]
        self._at += 4
        return mask


_masks = _Masks()


class _Connection(ClientConnection):
    """Hands messages on as they come out of the socket, without a queue and a task between.

    Nothing that is done with a message waits, so that there is nothing to hold back.
    """

    def __init__(
        self, *arguments: Any, told: "ProviderSocket", limit_bytes: int, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.failure: Exception | None = None
        """A bug of ours in a handler."""
        self._told = told
        self._cutter = Cutter(limit_bytes)
        self._early: list[tuple[bytes, bool]] | None = []
        """What comes in the same breath as the handshake's answer."""
        self._parts: list[Frame] = []
        self._is_over = False

    @property
    def takes(self) -> bool:
        """Whether a message may be sent now."""
        is_open = self.protocol.state is State.OPEN and not self.transport.is_closing()
        return is_open and not self.paused

    def begin(self) -> None:
        """From now on messages are wanted."""
        early, self._early = self._early or [], None
        for payload, is_text in early:
            self._message(payload, is_text=is_text)

    def send_text(self, payload: bytes) -> None:
        """Send a message now; the library's own way has to be awaited. Only while it `takes`."""
        self.transport.write(text_frame(payload, _masks.take()))

    def data_received(self, data: bytes) -> None:
        """Bytes of the provider's: plain texts are handed on, the rest is the library's."""
        for piece in self._cutter.cut(data):
            if isinstance(piece, Text):
                self._message(piece.payload, is_text=True)
            else:
                super().data_received(piece.data)
                if self.protocol.state is not State.OPEN:
                    self._cutter.give_up()

    def process_event(self, event: Event) -> None:
        """A frame that the library has parsed, or the handshake's answer."""
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self._parts.append(event)
            if event.fin:
                parts, self._parts = self._parts, []
                payload = b"".join(bytes(part.data) for part in parts)
                self._message(payload, is_text=parts[0].opcode is Opcode.TEXT)
            return
        super().process_event(event)

    def resume_writing(self) -> None:
        """The socket takes frames again."""
        super().resume_writing()
        self._told.wake()

    def let_go(self) -> None:
        """After the end: breaks the circles, so that all of it is freed at once. A collector that
        comes now and then lets a hundred ended connections pile up, of 30 KB each."""
        del self._told
        self.protocol.parser.close()

    def _message(self, payload: bytes, *, is_text: bool) -> None:
        if self._early is not None:
            self._early.append((payload, is_text))
            return
        if self._is_over:
            return
        try:
            message = str(payload, "utf-8") if is_text else payload
        except UnicodeDecodeError as error:
            self._give_up(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
            return
        try:
            self._told.received(message)
        except Exception as error:
            self._is_over = True
            self.failure = error
            self.transport.abort()

    def _give_up(self, code: CloseCode, why: str) -> None:
        self._is_over = True
        self.protocol.fail(code, why)
        self.send_data()
        self.loop.call_later(CLOSE_S, self.transport.abort)


class ProviderSocket:
    """One connection of one conversation."""

    def __init__(self, target: Target, port: Port) -> None:
        self._target = target
        self._port = port
        self._connection: _Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_sending = False
        self._is_detached = False
        self._closing: asyncio.Task[None] | None = None
        self._is_running = False
        self._is_stopped = False
        self.task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """There may be something to send: it goes out at once, as far as the socket takes it."""
        connection = self._connection
        if connection is None or self._is_sending:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_sending = True
        try:
            self._send(connection)
        finally:
            self._is_sending = False

    def received(self, message: str | bytes) -> None:
        """A message of the provider's."""
        if not self._is_detached:
            self._port.received(message)

    def close(self) -> None:
        """Stop dialling, or close with 1000; bounded, and told by `ended` like any other end."""
        if self._connection is None:
            self._is_stopped = True
            if self._is_running:  # else it would be cancelled before it can tell
                self.task.cancel()
        elif self._closing is None:
            self._closing = asyncio.create_task(self._close(self._connection))

    def detach(self) -> None:
        """Close, and tell nobody: a newer connection has taken the place."""
        self._is_detached = True
        self.close()

    async def _run(self) -> None:
        self._is_running = True
        stopped = Ended(None, None, "dialling was stopped")
        try:
            ended = stopped if self._is_stopped else await self._talk()
        except asyncio.CancelledError:
            if self._connection is not None:
                self._connection.transport.abort()
            ended = stopped
        if not self._is_detached:
            self._is_detached = True
            self._port.ended(ended)

    async def _talk(self) -> Ended:
        target = self._target
        made = partial(_Connection, told=self, limit_bytes=target.max_frame_bytes)
        try:
            dialled = await _Connect(
                target.address.url,
                create_connection=cast(Any, made),
                additional_headers=target.headers,
                compression=None,
                open_timeout=target.open_timeout_s,
                close_timeout=CLOSE_S,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                max_size=target.max_frame_bytes,
                logger=_quiet,
                proxy=None if target.address.is_loopback else True,
            )
        except Exception as error:
            return _refused(error, target)
        connection = self._connection = cast(_Connection, dialled)
        if not self._is_detached:
            self._port.opened()
        connection.begin()
        self.wake()
        try:
            await connection.wait_closed()
        finally:
            if self._timer is not None:
                self._timer.cancel()
        self._connection = None
        connection.let_go()
        if connection.failure is not None:
            raise connection.failure
        return _closed(connection, connection.protocol.close_exc)

    def _send(self, connection: _Connection) -> None:
        port = self._port
        while not self._is_detached and connection.takes:
            todo = port.next()
            match todo:
                case WriteSound():
                    connection.send_text(port.wrap(todo.sound.samples))
                    port.wrote(todo)
                case Write():
                    connection.send_text(todo.frame)
                    port.wrote(todo)
                case HangUpNow():
                    port.hang_up()
                case WaitUntil(until_s):
                    self._timer = asyncio.get_running_loop().call_at(until_s, self.wake)
                    return
                case None:
                    return

    async def _close(self, connection: ClientConnection) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await connection.close()
        except TimeoutError:
            connection.transport.abort()


def _closed(connection: ClientConnection, closed: ConnectionClosed) -> Ended:
    code = connection.close_code
    if closed.rcvd is not None:
        reason = closed.rcvd.reason
        if closed.sent is not None and not closed.rcvd_then_sent and closed.sent.code != 1000:
            reason = f"closed from here ({closed.sent.code}): {closed.sent.reason}"
        return Ended(code, None, reason)
    if closed.sent is not None and closed.sent.code != 1000:
        # What it did wrong is known, whether or not it had time to answer.
        code = closed.sent.code if closed.sent.code in _BREACHES else code
        return Ended(code, None, f"closed from here ({closed.sent.code}): {closed.sent.reason}")
    return Ended(code, None, "the connection broke without a closing frame")


def _refused(error: Exception, target: Target) -> Ended:
    place = target.address.place
    match error:
        case InvalidStatus():
            status = error.response.status_code
            said = _said(bytes(error.response.body or b""), target.key)
            return Ended(None, status, _status_text(status, said, target))
        case TimeoutError():
            text = (
                f"the provider at {place} did not answer within {target.open_timeout_s:g} s; "
                "check provider_url and the network"
            )
        case InvalidHandshake():
            text = f"what answers at {place} is no WebSocket provider ({error}); check provider_url"
        case OSError() if error.errno in NONE_LEFT:
            text = (
                f"cannot dial the provider at {place}: {error.strerror}: this process may open no "
                "more; raise the limit (ulimit -n, or LimitNOFILE of systemd) or let fewer in"
            )
        case OSError():
            why = error.strerror or str(error)
            text = (
                f"cannot reach the provider at {place}: {why}; check provider_url and the network"
            )
            if target.address.is_loopback:
                text = f"cannot reach the provider at {place}: {why}; is it running there?"
        case _:
            text = f"cannot dial the provider at {place}: {type(error).__name__}: {error}"
    return Ended(None, None, _clean(text, target.key))


def _status_text(status: int, said: str, target: Target) -> str:
    says = f": {said}" if said else ""
    place = target.address.place
    match status:
        case 401 if target.key is None:
            text = (
                f"the provider at {place} wants a key (HTTP 401){says}; "
                f"there is none in {target.key_source}"
            )
        case 401 | 403:
            text = f"the provider refused the key from {target.key_source} (HTTP {status}){says}"
        case 404:
            text = (
                f"{place} has no such model or path (HTTP 404){says}; check model and provider_url"
            )
        case 429:
            text = f"the provider has had too many requests (HTTP 429){says}"
        case _ if 300 <= status < 400:
            text = (
                f"{place} points elsewhere (HTTP {status}); set provider_url to the right address"
            )
        case _:
            text = f"the provider at {place} answered HTTP {status}{says}"
    return text


class _Said(msgspec.Struct):
    message: str = ""


class _Body(msgspec.Struct):
    error: _Said


def _said(body: bytes, key: str | None) -> str:
    """The message in the body of a refusal, shortened."""
    try:
        text = msgspec.json.decode(body, type=_Body).error.message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode("utf-8", "replace")
    return _clean(" ".join(text.split()), key)


def _clean(text: str, key: str | None) -> str:
    """Short enough, and without the key, should anybody have repeated it."""
    if key and len(key) >= SHORTEST_KEY:
        text = text.replace(key, "…")
    return text if len(text) <= REASON_LIMIT else text[:REASON_LIMIT] + "…"
