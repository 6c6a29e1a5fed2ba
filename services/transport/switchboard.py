"""The shell: connects the bus, the providers and the conversations. Deeds are done here."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from voicebus.bus import ids, topics
from voicebus.bus.frames import Codec
from voicebus.bus.messages import link as words
from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.messages.sound import SoundIn, SoundWelcome
from voicebus.bus.sockets import Route, Sent
from voicebus.config import loader
from voicebus.config.settings import TransportSettings
from voicebus.services.pace import Pace
from voicebus.services.runtime import Runtime
from voicebus.services.transport import keys
from voicebus.services.transport.caller import Refused
from voicebus.services.transport.conversation import (
    Arrival,
    CloseSocket,
    Conversation,
    Count,
    Effect,
    Limits,
    Line,
    OpenSocket,
    Record,
    arrive,
)
from voicebus.services.transport.link import Link
from voicebus.services.transport.media.address import BadAddress
from voicebus.services.transport.media.pieces import SoundDelta
from voicebus.services.transport.media.vendors import VENDORS, Media
from voicebus.services.transport.moment import Moment
from voicebus.services.transport.outbox import Next, Write, WriteSound
from voicebus.services.transport.playout import Publish
from voicebus.services.transport.provider import Ended, Port, ProviderSocket, Target
from voicebus.services.transport.refusals import Refusals
from voicebus.services.transport.ring import Budget, Ring

PROTOCOLS = (1,)
RETRY_S = 0.05
ASK_AGAIN_S = 0.1
"""What is asked of a session process is not asked again for each message under way from it."""
DRAIN_S = 2.0
REMEMBERED = 1024
"""Ended sessions whose numbers are kept, so that a repeated order stays without effect."""


class _Call:
    """A conversation, its socket, and what the hot path looks up."""

    def __init__(self, conversation: Conversation, shard: int) -> None:
        self.conversation = conversation
        self.shard = shard
        self.topic = topics.audio(conversation.session_id, "out")
        self.topic_in = topics.audio(conversation.session_id, "in")
        self.is_recorded = False
        """Whether somebody subscribes to the caller's sound: looked up when that may change."""
        self.media: Media = VENDORS["openai"]
        self.socket: ProviderSocket | None = None


class Switchboard:
    """All conversations of one transport."""

    def __init__(self, runtime: Runtime[TransportSettings]) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._log = runtime.log
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, _Call] = {}
        self._remembered: dict[str, tuple[int, int, int]] = {}
        self._budget = Budget(self._settings.ring_total_bytes)
        self._limits = Limits(
            hold_s=self._settings.hold_s,
            max_sound_frame_bytes=self._settings.max_sound_frame_bytes,
            outbox_bytes=self._settings.max_frame_bytes + self._settings.ring_bytes,
        )
        self._refusals = Refusals(runtime.instance, runtime.inc)
        self._downs: Codec[words.ANY_DOWN] = Codec(words.ANY_DOWN, what="link")
        self._sounds: Codec[SoundIn] = Codec(SoundIn, what="sound-in")
        self._handled: dict[int, set[str]] = {}
        self._missing: set[str] = set()
        self._ask_again = Pace(ASK_AGAIN_S)
        self._reset_again = Pace(ASK_AGAIN_S)
        self._is_draining = False
        self._progress = asyncio.Event()
        """Something ended or was acknowledged: the drain looks again."""
        self._ending: set[asyncio.Task[None]] = set()
        endpoints, number = runtime.endpoints, runtime.instance
        self._audio_in = endpoints.audio_in(number)
        self._audio_out = endpoints.audio_out(number)
        self._link_socket = runtime.sockets.router(endpoints.link(number), self._from_session)
        self._link: Link[Conversation] = Link(self._link_socket.send, self._loop.call_later)
        self._publisher = runtime.sockets.publisher(self._audio_out, self._subscribed)
        runtime.sockets.router(
            self._audio_in,
            self._from_caller,
            # What is a little too long is told; what has nothing to do with sound is not read.
            max_frame_bytes=2 * self._settings.max_sound_frame_bytes,
        )

    # --- from the session processes ---------------------------------------------------------

    def _from_session(self, route: Route, frames: Sequence[bytes]) -> None:
        now = self._now()
        try:
            message, payload = self._downs.decode(frames)
        except BadMessage as error:
            self._runtime.refused("link_malformed", "link.malformed", error=str(error))
            return
        if isinstance(message, words.Hello):
            self._hello(route, message, now)
            return
        shard = self._link.heard(route, now.s)
        if shard is None:
            self._runtime.count("link_without_hello")
            if self._reset_again.is_due(route, now.s):
                self._link_socket.send(route, [encode(words.LinkReset())])
            return
        match message:
            case words.Ack():
                self._acknowledged(message, shard)
            case words.Flush():
                call = self._calls.get(message.session_id)
                if call is not None and call.shard == shard:
                    self._perform(call, call.conversation.flush(message, now))
            case _:
                self._ordered(message, payload[0] if len(payload) == 1 else None, shard, now)

    def _hello(self, route: Route, hello: words.Hello, now: Moment) -> None:
        if not set(hello.protocol) & set(PROTOCOLS):
            self._runtime.refused(
                "link_protocol_unknown",
                "shard.refused",
                shard=hello.shard,
                protocol=hello.protocol[:5],
            )
            return
        self._link.hello(route, hello.shard, hello.inc, now.s)
        known = {
            sid: numbers[0]
            for sid, numbers in self._remembered.items()
            if ids.shard_of(sid) == hello.shard
        }
        for conversation in self._link.of_shard(hello.shard):
            known[conversation.session_id] = conversation.down_n
        welcome = words.LinkWelcome(
            transport=self._runtime.instance,
            inc=self._runtime.inc,
            protocol=PROTOCOLS,
            sessions=known,
            audio_in=self._audio_in,
            audio_out=self._audio_out,
        )
        self._link_socket.send(route, [encode(welcome)])
        self._log.info("shard.welcomed", shard=hello.shard, inc=hello.inc, sessions=len(known))
        self._link.owns(hello.sessions, hello.shard, now.s)

    def _acknowledged(self, ack: words.Ack, shard: int) -> None:
        for session_id, n in ack.sessions.items():
            call = self._calls.get(session_id)
            if call is not None and call.shard == shard:
                # This does not claim it: a process acknowledges what it has forgotten, too.
                call.conversation.ring.acknowledge(n)
                self._link.pump(call.conversation)
        self._progress.set()

    def _ordered(
        self, order: words.Numbered, payload: bytes | None, shard: int, now: Moment
    ) -> None:
        session_id = order.session_id
        if ids.shard_of(session_id) != shard:
            self._runtime.refused(
                "link_foreign_sessions", "order.refused", shard=shard, why="another shard's session"
            )
            return
        call = self._calls.get(session_id)
        arrival = arrive(order.n, self._down_n(session_id))
        self._acknowledge(session_id, shard, is_missing=arrival is Arrival.GAP)
        self._link.claim(session_id)
        if arrival is not Arrival.NEXT:
            self._runtime.count(f"link_down_{arrival.value}")
            return
        if call is None:
            call = self._answer(session_id, shard)
        self._perform(call, call.conversation.order(order, payload, now))
        if call.socket is not None:
            call.socket.wake()

    def _answer(self, session_id: str, shard: int) -> _Call:
        """A conversation for a session that has none, or had one."""
        down_n, up_n, generation = self._remembered.get(session_id, (0, 0, 0))
        self._remembered.pop(session_id, None)
        conversation = Conversation(
            session_id,
            self._runtime.inc,
            Ring(self._settings.ring_bytes, self._budget, up_n),
            self._limits,
            down_n,
            generation,
        )
        call = self._calls[session_id] = _Call(conversation, shard)
        call.is_recorded = self._publisher.wanted(call.topic_in)
        self._link.add(conversation, shard)
        return call

    def _acknowledge(self, session_id: str, shard: int, *, is_missing: bool) -> None:
        """One acknowledgement per loop turn, for all sessions of a shard."""
        if not self._handled:
            self._loop.call_soon(self._send_acknowledgements)
        self._handled.setdefault(shard, set()).add(session_id)
        if is_missing and self._ask_again.is_due(session_id, self._loop.time()):
            self._missing.add(session_id)

    def _send_acknowledgements(self) -> None:
        handled, self._handled = self._handled, {}
        missing, self._missing = self._missing, set()
        for shard, sessions in handled.items():
            ack = words.DownAck(
                sessions={one: self._down_n(one) for one in sessions},
                missing=sorted(missing & sessions),
            )
            if self._link.to_shard(shard, [encode(ack)]) is Sent.FULL:
                self._loop.call_later(RETRY_S, self._acknowledge_again, shard, sessions, missing)

    def _acknowledge_again(self, shard: int, sessions: set[str], missing: set[str]) -> None:
        for session_id in sessions:
            self._acknowledge(session_id, shard, is_missing=False)
        self._missing |= missing & sessions

    def _down_n(self, session_id: str) -> int:
        call = self._calls.get(session_id)
        if call is not None:
            return call.conversation.down_n
        return self._remembered.get(session_id, (0, 0, 0))[0]

    # --- from callers and listeners ---------------------------------------------------------

    def _from_caller(self, route: Route, frames: Sequence[bytes]) -> None:
        now = self._now()
        try:
            header, payload = self._sounds.decode(frames)
        except BadMessage as error:
            self._refuse("bad_header", f"{error}; see docs/protocol.md for the header", now)
            return
        if len(payload) != 1:
            self._refuse(
                "bad_frames",
                f"a sound message is [header, samples]; after the header came {len(payload)} "
                "frames, there must be 1",
                now,
            )
            return
        call = self._calls.get(header.session_id)
        if call is None:
            self._refuse(
                "unknown_session",
                f"session {header.session_id[:40]!r} has no conversation on this transport; "
                "open or attach says where it is",
                now,
            )
            return
        heard = call.conversation.speak(header, payload[0], now, is_recorded=call.is_recorded)
        if isinstance(heard, Refused):
            self._refuse(heard.reason, heard.text, now)
            return
        self._perform(call, heard)
        if call.socket is not None:
            call.socket.wake()

    def _refuse(self, reason: str, text: str, now: Moment) -> None:
        self._runtime.count(f"sound_refused_{reason}")
        told = self._refusals.note(reason, text, now)
        if told is not None:
            self._runtime.publish_system("refused", encode(told))

    def _subscribed(self, topic: bytes) -> None:
        welcome = SoundWelcome(session_id=topics.owner(topic), inc=self._runtime.inc)
        self._publisher.publish(topic, [encode(welcome)])
        for call in self._calls.values():
            call.is_recorded = call.is_recorded or call.topic_in.startswith(topic)
            if topic == topics.ALL_SOUND:
                continue  # a recorder: the sound is still held for a player
            if call.conversation.playout.is_holding and call.topic.startswith(topic):
                self._perform(call, call.conversation.listened(self._now()))

    def _is_played(self, topic: bytes) -> bool:
        """Whether anybody but a recorder subscribes to it."""
        known = self._publisher.topics
        if topics.ALL_SOUND not in known:
            return self._publisher.wanted(topic)
        return any(topic.startswith(one) for one in known if one != topics.ALL_SOUND)

    # --- deeds ------------------------------------------------------------------------------

    def _perform(self, call: _Call, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Publish(header, payload):
                    frames = [header] if payload is None else [header, payload]
                    self._publisher.publish(call.topic, frames)
                case Record(header, payload):
                    self._publisher.publish(call.topic_in, [header, payload])
                case Count(what, by):
                    self._runtime.count(what, by)
                case CloseSocket(generation):
                    self._close(call, generation)
                case OpenSocket(order):
                    self._open(call, order)
        self._link.pump(call.conversation)

    def _open(self, call: _Call, order: words.Dial) -> None:
        target = self._target(call, order)
        if isinstance(target, str):
            self._ended(call, order.generation, Ended(None, None, target))
            return
        if isinstance(target, keys.NoKey):
            self._ended(call, order.generation, Ended(None, None, target.text, "no_key"))
            return
        socket = call.socket = ProviderSocket(target, self._port(call, order.generation))
        self._ending.add(socket.task)
        socket.task.add_done_callback(self._over)

    def _close(self, call: _Call, generation: int) -> None:
        if call.socket is None:
            return
        if call.conversation.generation == generation:
            call.socket.close()
        else:
            # A newer one takes over: the old end has been told already.
            call.socket.detach()
            call.socket = None

    def _over(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        self._progress.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._runtime.fail(error)

    def _target(self, call: _Call, order: words.Dial) -> Target | keys.NoKey | str:
        """Where to dial, or why not."""
        if self._is_draining:
            return "this transport is stopping"
        media = VENDORS.get(order.vendor)
        if media is None:
            return f"no vendor {order.vendor!r}; known: {', '.join(sorted(VENDORS))}"
        call.media = media
        settings = self._settings
        try:
            address = media.address(settings.provider_url, order.model)
        except BadAddress as error:
            return str(error)
        found = keys.read(settings.provider_key_file, loader.current_environment())
        key = None if isinstance(found, keys.NoKey) else found
        if isinstance(found, keys.NoKey):
            if not address.is_loopback:
                return found
        elif not address.is_secure and not address.is_loopback:
            self._log.warning("provider.key_in_clear", place=address.place)
        return Target(
            address=address,
            headers=media.headers(key),
            key=key,
            key_source=settings.provider_key_file or keys.VARIABLE,
            open_timeout_s=settings.connect_timeout_s,
            max_frame_bytes=settings.max_frame_bytes,
        )

    def _port(self, call: _Call, generation: int) -> Port:
        conversation = call.conversation

        def wrap(samples: bytes) -> bytes:
            return call.media.wrap(samples)

        return Port(
            opened=lambda: self._opened(call),
            received=self._receiver(call),
            next=lambda: self._next(conversation),
            wrap=wrap,
            wrote=lambda write: self._wrote(call, write),
            hang_up=lambda: self._perform(call, conversation.hang_up()),
            ended=lambda ended: self._ended(call, generation, ended),
        )

    def _opened(self, call: _Call) -> None:
        conversation = call.conversation
        self._log.info(
            "provider.opened",
            session=conversation.session_id,
            generation=conversation.generation,
        )
        self._perform(call, conversation.opened(self._now()))

    def _receiver(self, call: _Call) -> Callable[[str | bytes], None]:
        """The hot path: one call per frame of the provider's."""
        conversation, topic, publisher = call.conversation, call.topic, self._publisher
        look = call.media.look

        def received(message: str | bytes) -> None:
            now = self._now()
            if isinstance(message, bytes):
                self._runtime.count("provider_binary_frames")
                return
            piece = look(message)
            if isinstance(piece, SoundDelta):
                # Nearly always it is subscribed as such: no need to try all prefixes.
                listened = topic in publisher.topics or self._is_played(topic)
                self._perform(call, conversation.sound(piece, now, listened=listened))
            elif piece is not None:
                listened = self._is_played(topic)
                payload = message.encode()
                self._perform(call, conversation.marked(piece, payload, now, listened=listened))
            else:
                if not message.startswith("{") or not message.rstrip().endswith("}"):
                    # Only a glance: a full check is the session's, which parses it anyway.
                    self._runtime.count("provider_frames_not_json")
                self._perform(call, conversation.frame(message.encode(), now))

        return received

    def _next(self, conversation: Conversation) -> Next:
        return conversation.outbox.next(self._loop.time())

    def _wrote(self, call: _Call, write: Write | WriteSound) -> None:
        if isinstance(write, WriteSound):
            call.conversation.caller.wrote(write.sound)
        else:
            self._perform(call, call.conversation.wrote(write, self._now()))

    def _ended(self, call: _Call, generation: int, ended: Ended) -> None:
        conversation = call.conversation
        if generation != conversation.generation:
            return
        call.socket = None
        self._log.info(
            "provider.closed",
            session=conversation.session_id,
            generation=generation,
            code=ended.code,
            http_status=ended.http_status,
            reason=ended.reason,
        )
        self._perform(
            call,
            conversation.closed(
                self._now(),
                code=ended.code,
                http_status=ended.http_status,
                reason=ended.reason,
                error=ended.error,
            ),
        )

    # --- time -------------------------------------------------------------------------------

    async def keep_house(self) -> None:
        """Look after what nobody reports: orphans, losses, ended conversations."""
        every_s = min(1.0, self._settings.orphan_s / 4)
        while True:
            await asyncio.sleep(every_s)
            self._tick(self._now())

    def _tick(self, now: Moment) -> None:
        for conversation in self._link.orphans(now.s, self._settings.orphan_s):
            self._orphaned(conversation)
        resent = self._link.resend_lost(now.s)
        if resent:
            self._runtime.count("link_resends", resent)
        for call in list(self._calls.values()):
            conversation = call.conversation
            call.is_recorded = self._publisher.wanted(call.topic_in)
            self._perform(call, conversation.tick(now))
            if conversation.is_hung_up and conversation.line is Line.IDLE and not conversation.ring:
                self._retire(conversation)

    def _orphaned(self, conversation: Conversation) -> None:
        call = self._calls.pop(conversation.session_id)
        self._link.remove(conversation.session_id)
        self._runtime.count("orphans")
        self._log.warning("conversation.orphaned", session=conversation.session_id)
        if call.socket is not None:
            call.socket.detach()
        conversation.ring.clear()

    def _retire(self, conversation: Conversation) -> None:
        del self._calls[conversation.session_id]
        self._link.remove(conversation.session_id)
        self._remembered[conversation.session_id] = (
            conversation.down_n,
            conversation.ring.last_n,
            conversation.generation,
        )
        while len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    async def drain(self) -> None:
        """Close all providers' sockets and tell their sessions; bounded."""
        self._is_draining = True
        for call in self._calls.values():
            self._perform(call, call.conversation.hang_up())
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._ending or not self._link.is_settled():
                    self._progress.clear()
                    self._link.probe([encode(words.DownAck(sessions={}))])
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_S):
                            await self._progress.wait()
        except TimeoutError:
            self._log.warning("drain.cut_short", connections=len(self._ending))

    def _now(self) -> Moment:
        return Moment(self._loop.time(), time.time_ns() // 1000)
