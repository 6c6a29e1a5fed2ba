"""A shard: the conversations of one session process, and every socket they meet the bus on.

The write path is the heart: inputs are decided at once; flushes and cancels leave at once; the rest
is committed, then published, sent and answered, then acknowledged to those who hold it for us.
"""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import msgspec
import orjson

from voicebus.bus import ids, topics
from voicebus.bus.messages import commands as c
from voicebus.bus.messages import link, work
from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.messages.events import Cancel, Head, Welcome
from voicebus.bus.messages.system import State as RoleState
from voicebus.bus.sockets import Frames, Route, Sent
from voicebus.config.settings import SessionSettings
from voicebus.services.runtime import Runtime
from voicebus.services.session import configuration, views
from voicebus.services.session.attempts import STRIKES, AttemptMark
from voicebus.services.session.conversation import Conversation, Work
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.commands import CORE_COMMANDS
from voicebus.services.session.desk import Desk, Refused, typed
from voicebus.services.session.failpoints import Failpoints
from voicebus.services.session.journal import Journal
from voicebus.services.session.links import TransportLink
from voicebus.services.session.pool import ToolPool
from voicebus.services.session.providers.base import Translator
from voicebus.services.session.providers.vendors import TRANSLATORS
from voicebus.services.session.shelf import SchemaShelf
from voicebus.services.session.writer import Writer

TOOL_WAIT_S = 3.0
"""How long `open` waits for a tool that is named and not there yet."""
ENDED_KEPT_US = 60_000_000
"""An ended conversation stays in memory for a while: its last frames, its replies."""
UPDATABLE = frozenset(configuration.FIELDS) - configuration.FIXED
PAGE_LIMIT = 200


class Shard:
    """Everything here runs on the loop; only the journal's writer has a thread."""

    def __init__(self, runtime: Runtime[SessionSettings]) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._log = runtime.log
        self._number = runtime.instance
        self._conversations: dict[str, Conversation] = {}
        self._dirty: dict[str, Conversation] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._opening: dict[str, tuple[c.Command, asyncio.TimerHandle]] = {}
        self._waited: set[str] = set()
        """Opens that have waited for their tools long enough."""
        self._recovered_calls = False
        self._journal_lost = False
        self._touched_us: dict[str, int] = {}
        self._last_us = 0
        self._draining = False
        endpoints = runtime.endpoints
        sockets = runtime.sockets
        self._journal = Journal(Path(runtime.cell.data).absolute() / f"session-{self._number}.db")
        self._attempt = AttemptMark(self._journal.path.with_suffix(".attempt"))
        self._fail = Failpoints(self._settings.failpoint)
        self._writer = Writer(self._journal, self._collect, self._committed)
        self._desk = Desk(
            self._send_reply,
            self._now_us,
            memory_us=int(self._settings.reply_memory_s * 1_000_000),
            in_flight=self._settings.in_flight,
        )
        self._schemas = SchemaShelf(self._desk)
        self._recover()
        self._events = sockets.publisher(endpoints.events(self._number), self._subscribed)
        self._links = {
            n: TransportLink(
                sockets,
                endpoints,
                n,
                self._number,
                runtime.inc,
                heads=self._heads_up,
                received=self._from_transport,
            )
            for n in range(runtime.cell.transports)
        }
        self._pool = ToolPool(
            sockets,
            endpoints,
            self._number,
            runtime.inc,
            changed=self._catalogue_changed,
            received=self._from_pool,
        )
        self._role_incs: dict[tuple[str, int], str] = {}
        watched = [("dispatcher", 0), *(("transport", n) for n in self._links)]
        sockets.subscriber(
            [endpoints.state(role, n) for role, n in watched], [b"system/"], self._role_spoke
        )
        for transport in self._links.values():
            transport.hello()
        self._pool.follow()
        # Commands last: whoever gets an answer finds everything else in place.
        self._commands = sockets.router(endpoints.commands(self._number), self._commanded)

    # --- time ---------------------------------------------------------------------------------

    def _now_us(self) -> int:
        """Unix microseconds that never run backwards: a clock set back must not undo a deadline."""
        self._last_us = max(self._last_us + 1, time.time_ns() // 1000)
        return self._last_us

    def _arm(self, conversation: Conversation) -> None:
        """One timer per conversation, set to what its state asks for."""
        old = self._timers.pop(conversation.session_id, None)
        if old is not None:
            old.cancel()
        due_us = conversation.deadline()
        if due_us is None:
            return
        delay_s = max(0.0, (due_us - self._now_us()) / 1_000_000)
        self._timers[conversation.session_id] = asyncio.get_running_loop().call_later(
            delay_s, self._time_passed, conversation
        )

    def _time_passed(self, conversation: Conversation) -> None:
        self._timers.pop(conversation.session_id, None)
        if conversation.ended_us is None:
            self._feed(conversation, i.TimePassed(now_us=self._now_us()))

    async def every_second(self) -> None:
        """Heads, signs of life, and forgetting."""
        ticks = 0
        while True:
            await asyncio.sleep(1.0)
            ticks += 1
            now_us = self._now_us()
            for conversation in tuple(self._conversations.values()):
                if conversation.ended_us is None:
                    self._publish_head(conversation, now_us)
                elif now_us - conversation.ended_us > ENDED_KEPT_US:
                    self._forget(conversation)
            for transport in self._links.values():
                transport.send(link.Ack(sessions={}))
            self._desk.forget_old()
            self._writer.retry()
            if ticks % 10 == 0:
                retention_us = int(self._settings.retention_days * 86_400 * 1_000_000)
                memory_us = int(self._settings.reply_memory_s * 1_000_000)
                await self._writer.tidy(now_us - retention_us, now_us - memory_us)

    def _forget(self, conversation: Conversation) -> None:
        self._conversations.pop(conversation.session_id, None)
        self._touched_us.pop(conversation.session_id, None)
        timer = self._timers.pop(conversation.session_id, None)
        if timer is not None:
            timer.cancel()

    # --- the write path -----------------------------------------------------------------------

    def _feed(self, conversation: Conversation, event: i.AnyInput) -> None:
        self._attempt.begin(conversation.session_id)
        immediate = conversation.feed(event, event.now_us)
        self._attempt.clear()
        self._fail.reached("decided")
        for flush in immediate.flushes:
            self._links[conversation.state.transport].send(
                link.Flush(
                    session_id=conversation.session_id,
                    responses=list(flush.responses),
                    why=flush.why,
                )
            )
        for broadcast in immediate.broadcasts:
            cancel = Cancel(
                session_id=conversation.session_id,
                epoch=broadcast.epoch,
                call_ids=list(broadcast.call_ids),
                reason=broadcast.reason,
                at_us=event.now_us,
            )
            self._events.publish(
                topics.cancel(conversation.session_id, broadcast.what), [encode(cancel)]
            )
        self._dirtied(conversation)

    def _dirtied(self, conversation: Conversation) -> None:
        self._dirty[conversation.session_id] = conversation
        self._writer.wake()

    def _collect(self) -> list[Work]:
        """Everything decided since the last batch, with its replies made out."""
        batch = []
        for conversation in self._dirty.values():
            done = conversation.take_work()
            for answer, seq in zip(done.answers, done.answered_at, strict=True):
                self._make_out(conversation.session_id, answer, seq, done)
            batch.append(done)
        self._dirty.clear()
        return batch

    def _make_out(
        self, session_id: str, answer: fx.Answer | fx.Refuse, seq: int | None, done: Work
    ) -> None:
        key = self._desk.key_of(session_id, answer.command_id)
        if key is None:
            return
        match answer:
            case fx.Answer(data=data):
                reply = self._desk.reply(key, data, seq=seq)
            case fx.Refuse(error=error):
                reply = self._desk.reply(key, error=error)
                if error.retry and reply is not None:
                    done.passing.append(reply)
                    return
        if reply is not None:
            done.commit.replies.append(reply)

    def _committed(self, batch: list[Work], safe: bool) -> None:
        """The journal has it (or cannot take it): publish, send, answer, acknowledge."""
        self._fail.reached("committed")
        for done in batch:
            conversation = self._conversations.get(done.commit.session_id)
            for event in done.events:
                self._events.publish(event.topic, [event.header])
                if conversation is not None:
                    conversation.published(event)
        self._fail.reached("published")
        for done in batch:
            self._send(done)
        self._fail.reached("sent")
        for done in batch:
            for reply in done.commit.replies:
                self._desk.release(reply)
            for reply in done.passing:
                self._desk.release(reply, remember=False)
        self._fail.reached("answered")
        if safe:
            self._acknowledge(batch)
        self._fail.reached("acknowledged")
        for done in batch:
            conversation = self._conversations.get(done.commit.session_id)
            if conversation is not None:
                self._arm(conversation)
                if conversation.ended_us is not None and done.commit.ended_us is not None:
                    self._publish_head(conversation, conversation.ended_us)
        if self._journal_lost == safe:
            self._journal_lost = not safe
            self._journal_changed()
            if self._journal_lost:
                self._tell_journal_lost()

    def _send(self, done: Work) -> None:
        """Frames to the transport, calls to the pool."""
        session_id = done.commit.session_id
        conversation = self._conversations.get(session_id)
        if conversation is not None:
            transport = self._links[conversation.state.transport]
            for n, header, payload in done.down:
                conversation.committed_down = n
                transport.send_raw(header, payload)
                self._publish_raw(session_id, "down", payload)
        for message in done.pool:
            self._pool.send(message)

    def _acknowledge(self, batch: list[Work]) -> None:
        """What is journaled may be forgotten by those who hold it for us."""
        acks: dict[int, dict[str, int]] = {}
        for done in batch:
            session_id = done.commit.session_id
            conversation = self._conversations.get(session_id)
            if conversation is not None:
                conversation.journaled_up = done.acknowledge
                acks.setdefault(conversation.state.transport, {})[session_id] = done.acknowledge
        for transport, sessions in acks.items():
            self._links[transport].send(link.Ack(sessions=sessions))

    def _journal_changed(self) -> None:
        if self._journal_lost:
            self._runtime.failing(
                f"the journal {self._journal.path} cannot be written: new sessions are refused, "
                "live ones go on; free the disk or make it writable"
            )
        else:
            self._runtime.ready()

    def _tell_journal_lost(self) -> None:
        """Live conversations go on, and their clients know what a restart would cost."""
        now_us = self._now_us()
        for conversation in self._conversations.values():
            if conversation.ended_us is None:
                conversation.tell_journal_lost(now_us)
                self._dirtied(conversation)

    # --- the transport ------------------------------------------------------------------------

    def _heads_up(self, transport: int) -> dict[str, int]:
        return {
            session_id: conversation.journaled_up
            for session_id, conversation in self._conversations.items()
            if conversation.state.transport == transport
        }

    def _from_transport(self, transport: int, message: link.ANY_UP, payload: Frames) -> None:
        match message:
            case link.LinkWelcome():
                self._welcomed(transport, message)
            case link.DownAck():
                for session_id, n in message.sessions.items():
                    conversation = self._conversations.get(session_id)
                    if conversation is not None:
                        conversation.acknowledged(n)
                        if session_id in message.missing:
                            self._send_again(conversation)
            case link.LinkReset():
                pass  # answered by the link itself
            case _:
                self._numbered(transport, message, payload)

    def _welcomed(self, transport: int, message: link.LinkWelcome) -> None:
        """Send again what it has not; give up what it has forgotten; end what we do not know."""
        for conversation in tuple(self._conversations.values()):
            if conversation.state.transport != transport:
                continue
            n = message.sessions.get(conversation.session_id)
            if n is not None:
                conversation.acknowledged(n)
            elif conversation.reached_transport:
                conversation.forgotten()
                if conversation.ended_us is None:
                    self._feed(conversation, i.TransportLost(now_us=self._now_us()))
                continue
            self._send_again(conversation)

    def _send_again(self, conversation: Conversation) -> None:
        """What is committed and the transport has not done."""
        for n, (header, body) in sorted(conversation.outbox.items()):
            if n <= conversation.committed_down:
                self._links[conversation.state.transport].send_raw(header, body)

    def _numbered(self, transport: int, message: link.Event, payload: Frames) -> None:
        conversation = self._conversations.get(message.session_id)
        if conversation is None:
            # Ended and forgotten here: the transport need not keep it either.
            self._links[transport].send(link.Ack(sessions={message.session_id: message.n}))
            return
        ledger = conversation.ledger
        if message.n <= ledger.up_n:
            safe = {message.session_id: conversation.journaled_up}
            self._links[transport].send(link.Ack(sessions=safe))
            return
        if message.n != ledger.up_n + 1:
            # Something before it was lost at a full queue: ask for it from there.
            self._runtime.count("link_gaps")
            self._links[transport].hello()
            return
        ledger.up_n = message.n
        for event in self._inputs_of(conversation, message, payload):
            self._feed(conversation, event)
        self._dirtied(conversation)

    def _inputs_of(
        self, conversation: Conversation, message: link.Event, payload: Frames
    ) -> list[i.AnyInput]:
        now_us = self._now_us()
        match message:
            case link.SoundPassed(published=False):
                return []
            case link.SoundPassed():
                return [
                    i.SoundPublished(
                        now_us=now_us,
                        response_id=message.turn_id,
                        item_id=message.item_id,
                        content_index=message.content_index,
                        samples=message.samples,
                    )
                ]
            case link.ProviderFrame():
                raw = bytes(payload[0]) if payload else b""
                self._publish_raw(conversation.session_id, "up", raw)
                return self._translated(conversation, raw, now_us)
            case link.ProviderOpened():
                return [i.ProviderConnected(now_us=now_us, generation=message.generation)]
            case link.ProviderClosed():
                return [
                    i.ProviderDisconnected(
                        now_us=now_us,
                        generation=message.generation,
                        code=message.code,
                        http_status=message.http_status,
                        reason=message.reason,
                        by_us=message.by_us,
                        events_lost=message.events_lost,
                    )
                ]
            case link.Flushed():
                return [i.SoundFlushed(now_us=now_us, responses=message.responses)]
            case link.SoundHeldDropped():
                return [
                    i.SoundLost(
                        now_us=now_us,
                        direction=message.direction,
                        dropped_ms=message.dropped_ms,
                        why=message.why,
                    )
                ]
            case link.TalkerAlive():
                return [i.TalkerSeen(now_us=now_us)]
            case _:
                return []

    def _translated(self, conversation: Conversation, raw: bytes, now_us: int) -> list[i.AnyInput]:
        """A provider's frame in our words. Whatever it is, it never ends a session."""
        try:
            frame = orjson.loads(raw)
            if not isinstance(frame, dict):
                raise TypeError(f"a JSON {type(frame).__name__}, not an object")
            found = conversation.translator.read(frame, now_us)
        except Exception as error:
            self._runtime.count("provider_frames_malformed")
            self._log.warning(
                "provider.frame_malformed",
                session_id=conversation.session_id,
                why=type(error).__name__,
            )
            return []
        if not found:
            self._runtime.count("provider_frames_unknown")
        return found

    # --- the tool pool ------------------------------------------------------------------------

    def _catalogue_changed(self, restarted: bool) -> None:
        if restarted or self._recovered_calls:
            self._recovered_calls = False
            for conversation in self._conversations.values():
                for message in conversation.open_pool_calls(self._now_us()):
                    self._pool.send(message)
        for command, timer in tuple(self._opening.values()):
            timer.cancel()
            self._opening.pop(command.id, None)
            self._guard(command, self._open, command, typed(command))

    def _from_pool(self, message: work.ANY_FROM_DISPATCHER) -> None:
        match message:
            case work.ToolCatalogue():
                return
            case work.CallStarted() | work.CallProgress() | work.Outcome():
                conversation = self._conversations.get(message.session_id)
        if conversation is None:
            if isinstance(message, work.Outcome):
                self._pool.send(
                    work.OutcomeAck(session_id=message.session_id, call_id=message.call_id)
                )
            return
        now_us = self._now_us()
        match message:
            case work.CallStarted():
                self._feed(conversation, i.ToolBegan(now_us=now_us, call_id=message.call_id))
            case work.CallProgress():
                said = i.ToolSaid(now_us=now_us, call_id=message.call_id, text=message.text)
                self._feed(conversation, said)
            case work.Outcome():
                self._feed(
                    conversation,
                    i.ToolEnded(
                        now_us=now_us,
                        call_id=message.call_id,
                        status=message.status,
                        result=message.result,
                        failure=message.failure,
                        duration_ms=message.duration_ms,
                    ),
                )

    def _role_spoke(self, frames: list[bytes]) -> None:
        """A restarted transport or dispatcher is told who we are before anything else is sent."""
        try:
            state = msgspec.json.decode(frames[1], type=RoleState)
        except (msgspec.DecodeError, IndexError):
            return
        role = (state.role, state.instance)
        if self._role_incs.get(role) == state.inc:
            return
        first = role not in self._role_incs
        self._role_incs[role] = state.inc
        if first:
            return
        self._log.info("role.restarted", role=state.role, number=state.instance)
        if state.role == "dispatcher":
            self._pool.follow()
        elif state.role == "transport" and state.instance in self._links:
            self._links[state.instance].hello()

    # --- subscribers --------------------------------------------------------------------------

    def _subscribed(self, topic: bytes) -> None:
        """Welcome on the very string subscribed: whoever reads it knows that its filter works."""
        now_us = self._now_us()
        heads = {
            session_id: conversation.head
            for session_id, conversation in self._conversations.items()
            if _covers(topic, f"event/{session_id}/".encode())
        }
        owner = topics.parse(topic + b"?")
        session_id = owner.owner if owner else ""
        header = encode(
            {
                "v": 1,
                "kind": "welcome",
                "session_id": session_id,
                "inc": self._runtime.inc,
                "at_us": now_us,
                "data": Welcome(heads=heads),
            }
        )
        self._events.publish(topic, [header])

    def _publish_head(self, conversation: Conversation, now_us: int) -> None:
        ledger = conversation.ledger
        state = "open" if conversation.ended_us is None else "closed"
        head = Head(seq=conversation.head, topics=conversation.heads, state=state)
        self._events.publish(
            topics.event(conversation.session_id, "head"),
            [ledger.unnumbered(head, epoch=conversation.state.epoch, at_us=now_us)],
        )

    def _publish_raw(self, session_id: str, direction: str, frame: bytes | None) -> None:
        """The provider's frames, as they are, while somebody listens."""
        if frame is None or not any(
            topic.startswith(b"raw") or not topic for topic in self._events.topics
        ):
            return
        kind = "unknown"
        with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
            kind = str(orjson.loads(frame).get("type", kind))
        header = {
            "v": 1,
            "kind": kind,
            "session_id": session_id,
            "dir": direction,
            "at_us": self._now_us(),
        }
        self._events.publish(topics.raw(session_id, kind), [encode(header), frame])

    # --- commands -----------------------------------------------------------------------------

    def _send_reply(self, route: Route, reply: bytes) -> None:
        if self._commands.send(route, [reply]) is not Sent.OK:
            self._runtime.count("replies_undeliverable")

    def _commanded(self, route: Route, frames: Frames) -> None:
        command = self._desk.take(route, frames)
        if command is not None:
            self._guard(command, self._perform, command)

    def _guard(self, command: c.Command, perform: Any, *arguments: Any) -> None:
        """Whatever is wrong with a command becomes its reply."""
        try:
            perform(*arguments)
        except Refused as refused:
            self._desk.refuse(command, refused.error)
        except BadMessage as error:
            self._desk.refuse(command, Refused("bad_request", str(error)).error)

    def _perform(self, command: c.Command) -> None:
        data = typed(command)
        match data:
            case c.Open():
                self._open(command, data)
            case c.List():
                sessions = [
                    views.summary(one)
                    for one in self._conversations.values()
                    if one.ended_us is None
                ]
                self._desk.answer(command, {"sessions": sessions})
            case c.Catalogue():
                tools = [msgspec.to_builtins(tool) for tool in self._pool.catalogue.values()]
                self._desk.answer(command, {"tools": tools})
            case c.Ping() if command.session_id is None:
                self._desk.answer(command, {"inc": self._runtime.inc, "shard": self._number})
            case c.Replay():
                self._replay(command, data)
            case c.Schema():
                self._schemas.answer(command, data)
            case _:
                self._in_session(command, data)

    def _in_session(self, command: c.Command, data: Any) -> None:
        conversation = self._found(command)
        if conversation.ended_us is not None and not isinstance(data, c.Snapshot):
            raise Refused("gone", f"session {conversation.session_id} has ended")
        now_us = self._now_us()
        match data:
            case c.Ping():
                self._touch(conversation, now_us)
                self._desk.answer(command, {"inc": self._runtime.inc, "shard": self._number})
            case c.Snapshot():
                self._desk.answer(command, views.snapshot(conversation))
            case c.Attach():
                self._attach(command, data, conversation)
            case c.Update():
                self._update(command, data, conversation)
            case _ if command.command in CORE_COMMANDS:
                self._feed(
                    conversation,
                    i.Commanded(
                        now_us=now_us,
                        command_id=command.id,
                        command=command.command,
                        data=command.data,
                    ),
                )
            case _:
                raise Refused("unsupported", f"{command.command} is not supported yet")

    def _found(self, command: c.Command) -> Conversation:
        session_id = command.session_id
        if session_id is None:
            raise Refused("bad_request", f"{command.command} needs a session_id")
        shard = ids.shard_of(session_id)
        if shard is None:
            raise Refused(
                "bad_request", f"{session_id!r} is no session id (s<shard>-<26 characters>)"
            )
        if shard != self._number:
            raise Refused("moved", f"session {session_id} lives at session-{shard}")
        conversation = self._conversations.get(session_id)
        if conversation is None:
            if self._journal.last_seq(session_id) is not None:
                raise Refused("gone", f"session {session_id} has ended; replay still answers")
            raise Refused("no_such_session", f"there is no session {session_id} here")
        return conversation

    def _touch(self, conversation: Conversation, now_us: int) -> None:
        """Pings renew the lease; one in a while is enough."""
        last_us = self._touched_us.get(conversation.session_id, 0)
        if now_us - last_us > conversation.state.config.lease_s * 250_000:
            self._touched_us[conversation.session_id] = now_us
            self._feed(conversation, i.TalkerSeen(now_us=now_us))

    def _open(self, command: c.Command, data: c.Open) -> None:
        if self._draining:
            raise Refused("draining", f"session-{self._number} is being stopped", after_ms=1000)
        if self._journal_lost:
            raise Refused("busy", "the journal cannot be written", after_ms=2000)
        live = sum(1 for one in self._conversations.values() if one.ended_us is None)
        if live >= self._settings.max_sessions:
            raise Refused(
                "busy",
                f"session-{self._number} holds {live} sessions, its limit (max_sessions) is "
                f"{self._settings.max_sessions}",
                after_ms=1000,
            )
        config, warnings = configuration.check(data.config)
        translator = TRANSLATORS.get(config.provider)
        if translator is None:
            known = ", ".join(TRANSLATORS)
            raise Refused("unsupported", f"no provider {config.provider!r} (known: {known})")
        cannot = configuration.unsupported(config, translator.capabilities)
        if cannot is not None:
            raise Refused("unsupported", cannot)
        tools = configuration.resolve(config.tools, self._pool.catalogue)
        wait_for = (
            ", ".join(tools.missing)
            if tools.missing
            else "the catalogue"
            if not self._pool.known and config.tools == "*"
            else ""
        )
        waited = command.id in self._waited
        if wait_for and not waited:
            timer = asyncio.get_running_loop().call_later(TOOL_WAIT_S, self._wait_over, command)
            self._opening[command.id] = (command, timer)
            return
        self._waited.discard(command.id)
        if tools.missing:
            known = ", ".join(sorted(self._pool.catalogue)) or "none"
            raise Refused(
                "tool_unavailable",
                f"no worker offers {wait_for} (there are: {known}); see voicebus status",
                after_ms=1000,
            )
        if not self._pool.known:
            warnings.append("no tool pool answers: this session has no tools")
        self._begin(command, config, warnings, tools, translator)

    def _wait_over(self, command: c.Command) -> None:
        self._opening.pop(command.id, None)
        self._waited.add(command.id)
        self._guard(command, self._open, command, typed(command))

    def _begin(
        self,
        command: c.Command,
        config: c.SessionConfig,
        warnings: list[str],
        tools: configuration.Tools,
        translator: Translator,
    ) -> None:
        now_us = self._now_us()
        session_id = ids.session_id(self._number)
        conversation = Conversation(
            session_id, translator, self._runtime.inc, self._settings.ring_events, now_us
        )
        self._conversations[session_id] = conversation
        transport = self._least_loaded()
        token = ids.token()
        opened = self._opened(session_id, token, transport, warnings)
        self._desk.began(command.id, session_id)
        self._feed(
            conversation,
            i.SessionRequested(
                now_us=now_us,
                command_id=command.id,
                session_id=session_id,
                config=config,
                tools=tools.specs,
                client_tools=tools.client,
                transport=transport.transport,
                token=token,
                vendor=translator.name,
                model=config.model or self._settings.model or translator.default_model,
                opened=msgspec.to_builtins(opened),
                longest_session_s=translator.capabilities.longest_session_s,
                capabilities=translator.capabilities,
            ),
        )

    def _least_loaded(self) -> TransportLink:
        load = dict.fromkeys(self._links, 0)
        for conversation in self._conversations.values():
            if conversation.ended_us is None:
                load[conversation.state.transport] += 1
        return self._links[min(load, key=lambda n: load[n])]

    def _opened(
        self, session_id: str, token: str, transport: TransportLink, warnings: list[str]
    ) -> c.Opened:
        return c.Opened(
            session_id=session_id,
            token=token,
            transport=f"transport-{transport.transport}",
            audio_in=transport.audio_in,
            audio_out=transport.audio_out,
            events=self._runtime.endpoints.events(self._number),
            commands=self._runtime.endpoints.commands(self._number),
            warnings=warnings,
        )

    def _attach(self, command: c.Command, data: c.Attach, conversation: Conversation) -> None:
        token = ids.token()
        transport = self._links[conversation.state.transport]
        opened = self._opened(conversation.session_id, token, transport, [])
        self._feed(
            conversation,
            i.Attached(
                now_us=self._now_us(),
                command_id=command.id,
                token=token,
                talk="talk" in data.rights,
                opened=msgspec.to_builtins(opened),
            ),
        )

    def _update(self, command: c.Command, data: c.Update, conversation: Conversation) -> None:
        fixed = sorted(set(data.config) & configuration.FIXED)
        if fixed:
            raise Refused(
                "unsupported",
                f"{', '.join(fixed)} cannot change while a session is open "
                f"(can: {', '.join(sorted(UPDATABLE))})",
            )
        config, _ = configuration.check(data.config, conversation.state.config)
        tools = configuration.resolve(config.tools, self._pool.catalogue)
        if "tools" in data.config and tools.missing:
            raise Refused("tool_unavailable", f"no worker offers {', '.join(tools.missing)}")
        self._feed(
            conversation,
            i.UpdateRequested(
                now_us=self._now_us(),
                command_id=command.id,
                config=config,
                fields=[field for field in data.config if field != "temperature"],
                tools=tools.specs,
                client_tools=tools.client,
            ),
        )

    def _replay(self, command: c.Command, data: c.Replay) -> None:
        if command.session_id is None:
            raise Refused("bad_request", "replay needs a session_id")
        if not 1 <= data.limit <= PAGE_LIMIT:
            raise Refused("bad_request", f"limit={data.limit}: use 1 to {PAGE_LIMIT}")
        if data.from_seq < 1:
            raise Refused("bad_request", f"from={data.from_seq}: events count from 1")
        conversation = self._conversations.get(command.session_id)
        last = (
            conversation.head
            if conversation is not None
            else self._journal.last_seq(command.session_id)
        )
        if last is None:
            self._found(command)
            raise Refused("no_such_session", f"there is no session {command.session_id}")
        until = min(last, data.to_seq if data.to_seq is not None else last)
        page = self._page(conversation, command.session_id, data.from_seq, until, data.limit)
        following = data.from_seq + len(page)
        self._desk.answer(
            command,
            c.Replayed(
                events=[msgspec.Raw(header) for header in page],
                next=following if following <= until and page else None,
            ),
        )

    def _page(
        self, conversation: Conversation | None, session_id: str, first: int, last: int, limit: int
    ) -> list[bytes]:
        """From memory what is in memory and committed, else from the journal."""
        if first > last:
            return []
        ring = conversation.ring if conversation is not None else ()
        if ring and ring[0][0] <= first:
            return [header for seq, header in ring if first <= seq <= last][:limit]
        page = self._journal.events(session_id, first, last, limit)
        if not page:
            raise Refused("gone", f"the events from {first} on are not kept any more")
        return page

    # --- life ---------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Fold what the journal knows. A conversation that cannot be folded is set aside alone."""
        now_us = self._now_us()
        self._desk.remember(
            self._journal.replies(now_us - int(self._settings.reply_memory_s * 1_000_000))
        )
        suspect = self._attempt.left_behind
        strikes = self._journal.strike(suspect) if suspect else 0
        for stored in self._journal.live():
            conversation = Conversation(
                stored.session_id,
                TRANSLATORS["openai"],
                self._runtime.inc,
                self._settings.ring_events,
                stored.created_us,
            )
            self._conversations[stored.session_id] = conversation
            if stored.session_id == suspect and strikes >= STRIKES:
                self._log.error("session.set_aside", session_id=suspect, deaths=strikes)
                conversation.set_aside(stored, now_us)
                self._dirty[stored.session_id] = conversation
                continue
            self._attempt.begin(stored.session_id)
            try:
                foreign = conversation.recover(stored)
                conversation.translator = TRANSLATORS[conversation.state.vendor or "openai"]
                conversation.feed(i.TalkerSeen(now_us=now_us), now_us)
                if foreign:
                    conversation.tell_snapshot_required(now_us)
            except Exception as error:
                self._log.error(
                    "session.not_recovered", session_id=stored.session_id, exc_info=error
                )
                conversation.set_aside(stored, now_us)
            self._attempt.clear()
            for name, command_id in conversation.waiting_commands():
                self._desk.expect(stored.session_id, name, command_id)
            self._dirty[stored.session_id] = conversation
            self._recovered_calls = True
        if self._dirty:
            self._log.info("session.recovered", conversations=len(self._dirty))

    def begin(self) -> None:
        """The loop runs: write what recovery decided."""
        self._writer.wake()

    async def stop(self) -> None:
        """TERM: refuse new sessions, write snapshots, leave the rest to the next process."""
        self._draining = True
        for conversation in self._conversations.values():
            if conversation.ended_us is None:
                conversation.take_snapshot()
                self._dirtied(conversation)
        for timer in self._timers.values():
            timer.cancel()
        await self._writer.drain()
        self._journal.close()
        self._attempt.close()


def _covers(topic: bytes, prefix: bytes) -> bool:
    """Whether a subscription can match anything under this prefix."""
    return prefix.startswith(topic) or topic.startswith(prefix)
