"""One caller's WebSocket: carries frames, and leaves what they mean to `protocol`.

    accepted ──first frame──▶ attached ──leave(closing)──▶ the rest is said ──▶ closed

The session is not the connection's: it ends by `close` alone, or when nobody has come back to it
within its lease.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from voicebus.bus import ids
from voicebus.bus.messages.sound import duration_ms
from voicebus.client import (
    ClientError,
    CommandRefused,
    Lagged,
    RealtimeClient,
    RealtimeSession,
    SessionGone,
)
from voicebus.client.commands import Commander
from voicebus.config.settings import GatewaySettings
from voicebus.services.descriptors import NONE_LEFT
from voicebus.services.gateway import doors, protocol
from voicebus.services.gateway.outbox import Outbox
from voicebus.services.gateway.protocol import Asked, Closing, Joining, Opening, Refusal
from voicebus.services.limits import Bucket
from voicebus.services.runtime import Runtime

SAY_REST_S = 2.0
"""For what still waits when a connection ends."""
NOTICE_S = 1.0
"""A notice of the same kind comes no more often."""
LEAST_FRAME_BYTES = 240
"""What a sound frame counts at least: 5 ms, so that many tiny ones are too much, too."""
FAULTS_PER_S = 20


class House(Protocol):
    """What a connection needs of the gateway it stands in."""

    runtime: Runtime[GatewaySettings]
    client: RealtimeClient
    policy: doors.Policy
    allowed: protocol.Allowed
    secret: bytes
    talking: dict[str, "Connection"]
    """Session -> the connection that holds it here."""


class Connection:
    """Made when a WebSocket comes; `run` returns when it is closed."""

    def __init__(self, house: House, socket: WebSocket) -> None:
        self._house = house
        self._settings = settings = house.runtime.settings
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(sound_bytes=settings.queue_sound_bytes, events=settings.queue_events)
        self._more = asyncio.Event()
        self._said = asyncio.Event()
        self._end: asyncio.Future[Closing | None] = self._loop.create_future()
        self._commands = Bucket(settings.commands_per_s)
        self._sound = Bucket(settings.sound_bytes_per_s)
        self._faults = Bucket(FAULTS_PER_S)
        self._asking: set[asyncio.Task[None]] = set()
        self._line = Commander(house.client.sockets, house.client.endpoints)
        """The caller's own way to the sessions: what it asks fills nobody else's queue."""
        self._noticed_at = -NOTICE_S
        self._lost_ms = 0
        """Of the caller's sound, not told yet."""
        self._lost_before_ms = 0
        self._telling: asyncio.TimerHandle | None = None

    def leave(self, closing: Closing | None) -> None:
        """End it; None when the caller is gone already. The first word counts."""
        if not self._end.done():
            self._end.set_result(closing)

    async def run(self) -> None:
        """Accept it and carry frames until it ends."""
        await self._socket.accept()
        writing = asyncio.create_task(self._guarded(self._write()))
        conversing = asyncio.create_task(self._guarded(self._converse()))
        try:
            closing = await self._end
            if closing is not None and closing is not protocol.TOO_SLOW:
                saying = asyncio.create_task(self._say_rest())
                # Who is gone already hears nothing: then the writing has ended.
                await asyncio.wait(
                    [saying, writing],
                    timeout=SAY_REST_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                saying.cancel()
        finally:
            if self._telling is not None:
                self._telling.cancel()
            tasks = [writing, conversing, *self._asking]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._line.close()
        if closing is not None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
                async with asyncio.timeout(SAY_REST_S):
                    await self._socket.close(closing.code, closing.reason)

    async def _guarded(self, work: Awaitable[Closing | None]) -> None:
        """Whatever goes wrong in one connection ends that one."""
        try:
            self.leave(await work)
        except WebSocketDisconnect:
            self.leave(None)
        except Exception as error:
            if getattr(error, "errno", None) in NONE_LEFT:
                # The state beacon says so; who is here already goes on.
                self._house.runtime.count("connections_without_descriptors")
                self.leave(protocol.FULL)
                return
            self._house.runtime.count("connections_failed")
            self._house.runtime.log.error("connection.failed", exc_info=error)
            self.leave(protocol.INTERNAL)

    # --- out ----------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            frame = self._outbox.take()
            if frame is None:
                self._said.set()
                self._more.clear()
                await self._more.wait()
                continue
            self._said.clear()
            if isinstance(frame, str):
                await self._socket.send_text(frame)
            else:
                await self._socket.send_bytes(frame)

    async def _say_rest(self) -> None:
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self._all_said()

    async def _all_said(self) -> None:
        # What has been taken from the outbox may still be on its way into the socket.
        while len(self._outbox) or not self._said.is_set():
            self._said.clear()
            self._more.set()
            await self._said.wait()

    def _put(self, put: Callable[[], Any]) -> None:
        put()
        if self._outbox.is_too_slow:
            self._house.runtime.count("callers_too_slow")
            self.leave(protocol.TOO_SLOW)
        self._more.set()

    def _say(self, text: str) -> None:
        self._put(lambda: self._outbox.say(text))

    def _refuse(self, why: Refusal) -> Closing:
        self._house.runtime.count("frames_refused")
        self._say(protocol.refused(why))
        if self._faults.take(1, self._loop.time()):
            self._house.runtime.count("floods")
            self.leave(protocol.FLOOD)
        return why.closing or protocol.REFUSED

    # --- the conversation ---------------------------------------------------------------------

    async def _converse(self) -> Closing | None:
        frame = await self._first()
        match frame:
            case Closing():
                return frame
            case Refusal():
                return self._refuse(frame)
            case Opening():
                session = await self._open(frame)
            case Joining():
                session = await self._join(frame)
        if not isinstance(session, RealtimeSession):
            return session
        try:
            return await self._hold(session)
        finally:
            if self._house.talking.get(session.id) is self:
                del self._house.talking[session.id]
            await session.detach()

    async def _first(self) -> Opening | Joining | Refusal | Closing:
        limit_s = self._settings.open_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                message = await self._socket.receive()
        except TimeoutError:
            self._house.runtime.count("first_frames_missing")
            return protocol.TOO_LATE
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        text = message.get("text")
        if text is None:
            return protocol.first("null")  # sound before the conversation
        if len(text) > self._settings.max_message_bytes:
            return self._too_large(len(text), closing=protocol.BAD_FIRST)
        return protocol.first(text)

    async def _open(self, wanted: Opening) -> RealtimeSession | Closing:
        if not doors.is_key(self._house.policy, wanted.key):
            self._house.runtime.count("keys_refused")
            return self._refuse(
                protocol.refusal(
                    "not_allowed",
                    'open: this gateway wants its key beside `open`: {"open": {…}, "key": "…"}',
                    closing=protocol.NOT_ALLOWED,
                )
            )
        if self._house.runtime.is_leaving:
            why = protocol.refusal(
                "draining", "the gateway takes nothing new", closing=protocol.RESTARTING
            )
            return self._refuse(why)
        config = protocol.configuration(wanted.config, self._house.allowed)
        if isinstance(config, Refusal):
            return self._refuse(config)
        try:
            session = await self._house.client.connect(config)
        except ClientError as error:
            return self._refuse(_refusal(error, closing=protocol.REFUSED))
        self._begin("opened", session, config, 0)
        return session

    async def _join(self, wanted: Joining) -> RealtimeSession | Closing:
        house, session_id = self._house, wanted.session_id
        if not doors.is_ticket(house.secret, session_id, wanted.token):
            house.runtime.count("tokens_refused")
            return self._refuse(
                protocol.refusal(
                    "not_allowed",
                    f"attach: the token is not that of session {session_id}; use the one that "
                    "`opened` told, or open a new session",
                    closing=protocol.NOT_ALLOWED,
                )
            )
        self._take_over(session_id)
        try:
            session = await house.client.attach(session_id, from_seq=wanted.after_seq + 1)
        except CommandRefused as error:
            if error.code == "gone":
                return await self._last_words(wanted)
            closing = protocol.GONE if error.code == "no_such_session" else protocol.REFUSED
            return self._refuse(_refusal(error, closing=closing))
        except ClientError as error:
            return self._refuse(_refusal(error, closing=protocol.INTERNAL))
        try:
            state = await session.snapshot()
        except BaseException as error:
            await session.detach()  # else it would keep the lease for nobody
            if not isinstance(error, ClientError):
                raise
            return self._refuse(_refusal(error, closing=protocol.INTERNAL))
        seq = int(state.get("seq") or 0)
        if wanted.after_seq > seq:
            await session.detach()
            return self._refuse(
                protocol.refusal(
                    "bad_request",
                    f"attach: after_seq {wanted.after_seq} is beyond the newest event, {seq}; "
                    "0 has all of them replayed",
                    closing=protocol.BAD_FIRST,
                )
            )
        self._begin("attached", session, state.get("config") or {}, seq)
        return session

    async def _last_words(self, wanted: Joining) -> Closing:
        """The session has ended meanwhile: what the caller missed of it is still there."""
        at, began = wanted.after_seq + 1, False
        while True:
            try:
                page = await self._line.replay(wanted.session_id, at)
            except ClientError as error:
                return self._refuse(_refusal(error, closing=protocol.GONE))
            if not began:
                began = True
                self._tell_began("attached", wanted.session_id, {}, wanted.after_seq, ())
            for raw in page.events:
                text = bytes(raw).decode()
                self._put(lambda text=text: self._outbox.event(text))  # type: ignore[misc]
            await self._all_said()
            if page.next is None:
                return protocol.ENDED
            at = page.next

    def _take_over(self, session_id: str) -> None:
        other = self._house.talking.pop(session_id, None)
        if other is not None:
            other.leave(protocol.TAKEN_OVER)

    def _begin(self, what: str, session: RealtimeSession, config: dict[str, Any], seq: int) -> None:
        self._take_over(session.id)  # whoever came back while this one did
        self._house.talking[session.id] = self
        self._tell_began(what, session.id, config, seq, session.warnings)

    def _tell_began(
        self,
        what: str,
        session_id: str,
        config: dict[str, Any],
        seq: int,
        warnings: tuple[str, ...],
    ) -> None:
        settings = self._settings
        limits = {
            "max_message_bytes": settings.max_message_bytes,
            "commands_per_s": settings.commands_per_s,
            "in_flight": settings.in_flight,
            "sound_bytes_per_s": settings.sound_bytes_per_s,
        }
        self._say(
            protocol.began(
                what,
                session_id=session_id,
                token=doors.ticket(self._house.secret, session_id),
                config=config,
                seq=seq,
                warnings=warnings,
                limits=limits,
            )
        )

    async def _hold(self, session: RealtimeSession) -> Closing | None:
        works = [self._read(session), self._events(session), self._hear(session)]
        tasks = [asyncio.create_task(self._guarded(work)) for work in works]
        try:
            return await asyncio.shield(self._end)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _events(self, session: RealtimeSession) -> Closing:
        try:
            async for event in session.events():
                text = event.raw.decode()
                self._put(lambda text=text: self._outbox.event(text))  # type: ignore[misc]
        except Lagged:
            return protocol.TOO_SLOW
        except SessionGone as error:
            return self._refuse(_refusal(error, closing=protocol.GONE))
        await self._all_said()
        return protocol.ENDED

    async def _hear(self, session: RealtimeSession) -> Closing | None:
        sound = session.audio_output()
        while True:
            try:
                async for heard in sound:
                    dropped_ms = self._outbox.hear(heard)
                    if dropped_ms:
                        self._house.runtime.count("sound_out_dropped_ms", dropped_ms)
                    self._more.set()
            except Lagged:
                continue  # offset_samples shows it
            # The session is over; its last event ends the connection.
            return await asyncio.shield(self._end)

    # --- in -----------------------------------------------------------------------------------

    async def _read(self, session: RealtimeSession) -> Closing | None:
        while not self._end.done():
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return None
            text = message.get("text")
            if text is not None:
                self._command(session, text)
            else:
                await self._speak(session, message.get("bytes") or b"")
        return None

    def _too_large(self, size: int, closing: Closing | None = None) -> Refusal:
        limit = self._settings.max_message_bytes
        return protocol.refusal(
            "bad_request",
            f"a frame of {size} bytes: the limit ([gateway] max_message_bytes) is {limit}",
            closing=closing,
        )

    def _command(self, session: RealtimeSession, text: str) -> None:
        if len(text) > self._settings.max_message_bytes:
            self._refuse(self._too_large(len(text)))
            return
        asked = protocol.command(text, session.id, self._house.allowed)
        if isinstance(asked, Refusal):
            self._refuse(asked)
            return
        wait_s = self._commands.take(1, self._loop.time())
        if wait_s or len(self._asking) >= self._settings.in_flight:
            limit = (
                f"commands_per_s={self._settings.commands_per_s}"
                if wait_s
                else f"in_flight={self._settings.in_flight}"
            )
            self._refuse(
                protocol.refusal(
                    "busy",
                    f"{asked.command}: more commands than [gateway] {limit} allows; wait for the "
                    "replies, and send it again",
                    id=asked.id,
                    after_ms=max(int(wait_s * 1000), 20),
                )
            )
            return
        data = protocol.performed(asked, session.after_sound)
        task = asyncio.create_task(self._ask(session.id, asked, data))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, session_id: str, asked: Asked, data: dict[str, Any]) -> None:
        shard = ids.shard_of(session_id) or 0
        try:
            reply = await self._line.ask(
                shard, asked.command, data, session_id=session_id, id=asked.id
            )
        except ClientError as error:
            self._say(protocol.refused(_refusal(error, id=asked.id)))
        else:
            self._say(protocol.answered(reply))

    async def _speak(self, session: RealtimeSession, samples: bytes) -> None:
        why = protocol.why_no_sound(len(samples), self._settings.max_message_bytes)
        if why is not None:
            self._refuse(why)
            return
        if self._sound.take(max(len(samples), LEAST_FRAME_BYTES), self._loop.time()):
            self._house.runtime.count("sound_in_too_much")
            self._lost_ms += duration_ms(len(samples), session.input_format)
            self._tell_lost(
                f"more sound than [gateway] sound_bytes_per_s={self._settings.sound_bytes_per_s} "
                "allows: send it at the speed of speech"
            )
            return
        try:
            await session.send_audio(samples)
        except ClientError as error:
            self._refuse(protocol.refusal("bad_request", str(error)))
        if session.dropped_ms > self._lost_before_ms:
            self._lost_ms += session.dropped_ms - self._lost_before_ms
            self._lost_before_ms = session.dropped_ms
            self._tell_lost("the transport takes none now; it may be restarting")

    def _tell_lost(self, why: str) -> None:
        """At once, or together with what else is lost until the next notice may come."""
        if self._telling is None:
            at = max(self._loop.time(), self._noticed_at + NOTICE_S)
            self._telling = self._loop.call_at(at, self._notice, why)

    def _notice(self, why: str) -> None:
        self._telling = None
        self._noticed_at = self._loop.time()
        self._say(protocol.audio_dropped("in", self._lost_ms, why))
        self._lost_ms = 0


def _refusal(
    error: ClientError, *, id: str | None = None, closing: Closing | None = None
) -> Refusal:
    """What the session or its silence said, as an answer to the caller."""
    match error:
        case CommandRefused():
            return protocol.refusal(error.code, error.message, id=id, closing=closing)
        case SessionGone():
            return protocol.refusal("gone", str(error), id=id, closing=closing)
        case _:
            return protocol.refusal("timeout", str(error), id=id, closing=closing)
