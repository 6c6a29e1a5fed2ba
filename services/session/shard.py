"""A shard: the conversations of one session process, and the order in which things are done.

The write path is the heart: inputs are decided at once; flushes and cancels leave at once; the rest
is committed, then published, sent and answered, then acknowledged to those who hold it for us.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec

from voicebus.bus.messages import link, work
from voicebus.bus.messages.system import ProcessReport
from voicebus.bus.messages.system import State as RoleState
from voicebus.bus.sockets import Frames
from voicebus.config.settings import SessionSettings
from voicebus.services.runtime import Runtime
from voicebus.services.session import faults, uplink
from voicebus.services.session.attempts import STRIKES, AttemptMark
from voicebus.services.session.audience import Audience
from voicebus.services.session.clock import Clock, timer_s
from voicebus.services.session.conversation import Conversation, Work
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.recovery import may_leave_transport
from voicebus.services.session.failpoints import Failpoints
from voicebus.services.session.homes import Homes
from voicebus.services.session.journal import Journal
from voicebus.services.session.links import TransportLink
from voicebus.services.session.pool import ToolPool
from voicebus.services.session.providers.vendors import TRANSLATORS
from voicebus.services.session.reception import Reception
from voicebus.services.session.writer import SLOW_S, Writer

ENDED_KEPT_US = 60_000_000
"""An ended conversation stays in memory for a while: its last frames, its replies."""
KNOWN_AFTER_S = 0.7
"""When the last process died while it decided, this one may be about to decide the same. By then
the health listener has heard it and takes its silence for what it is, not for a slow start: it
connects again at least every half second."""
GRANT_S = 0.5
"""So long a reply waits for the transport to know the token in it."""
REDECIDED_S = 1.0
"""Where a process has died with a journal that it could not write: so long what the transport has
kept is decided again, before the connection is left of which nobody knows the rest."""
MOVE_EVERY_S = 0.1
MOVE_TOGETHER = 10
"""So many conversations at once leave a transport that is being stopped: each dials."""


class Shard:
    """Everything here runs on the loop; only the journal's writer has a thread."""

    def __init__(self, runtime: Runtime[SessionSettings]) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._log = runtime.log
        self._number = runtime.instance
        self.conversations: dict[str, Conversation] = {}
        self._dirty: dict[str, Conversation] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._recovered_calls = False
        self._has_stopped = False
        self.journal_lost = False
        self.journal_slow = False
        self._clock = Clock()
        endpoints = runtime.endpoints
        sockets = runtime.sockets
        self.journal = Journal(Path(runtime.cell.data).absolute() / f"session-{self._number}.db")
        self._attempt = AttemptMark(self.journal.path.with_suffix(".attempt"))
        self._is_known = not self._attempt.left_behind
        """Whether the health listener has had time to hear of us, where that matters."""
        self._fail = Failpoints(self._settings.failpoint)
        self._writer = Writer(
            self.journal,
            self._collect,
            self._committed,
            self._written,
            self._stand_alone,
            self._journal_slow,
        )
        self._reception = Reception(runtime, self)
        self._desk = self._reception.desk
        self._recover()
        self._audience = Audience(
            sockets,
            endpoints,
            self._number,
            runtime.inc,
            conversations=self.conversations.values,
            now_us=self.now_us,
        )
        self.links = {
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
        self.pool = ToolPool(
            sockets,
            endpoints,
            self._number,
            runtime.inc,
            changed=self._catalogue_changed,
            received=self._from_pool,
        )
        self._role_incs: dict[tuple[str, int], str] = {}
        self._homes = Homes(len(self.links), self._number, time.monotonic())
        self._emptying: dict[int, asyncio.Task[None]] = {}
        self._tidying: asyncio.Task[None] | None = None
        watched = [("dispatcher", 0), ("health", 0), *(("transport", n) for n in self.links)]
        sockets.subscriber(
            [endpoints.state(role, n) for role, n in watched], [b"system/"], self._role_spoke
        )
        for transport in self.links.values():
            if self._attempt.left_behind:
                transport.hello_in(KNOWN_AFTER_S)
            else:
                transport.hello()
        self.pool.follow()
        # Commands last: whoever gets an answer finds everything else in place.
        self._reception.bind()

    # --- time ---------------------------------------------------------------------------------

    def now_us(self) -> int:
        """Unix microseconds that never run backwards, and do not jump with the wall clock."""
        return self._clock.now_us()

    def _arm(self, conversation: Conversation) -> None:
        """One timer per conversation, set to what its state asks for."""
        old = self._timers.pop(conversation.session_id, None)
        if old is not None:
            old.cancel()
        if self._has_stopped or not self._is_known:
            return
        # What it would say is in the journal: each successor would ask it the same.
        self._attempt.begin(conversation.session_id)
        due_us = conversation.deadline()
        self._attempt.clear()
        if due_us is None:
            return
        self._timers[conversation.session_id] = asyncio.get_running_loop().call_later(
            timer_s(due_us, self.now_us()), self._time_passed, conversation
        )

    def _known(self) -> None:
        """The health listener has heard of us: from here on deadlines are looked at."""
        self._is_known = True
        for conversation in self.conversations.values():
            self._arm(conversation)

    def _time_passed(self, conversation: Conversation) -> None:
        self._timers.pop(conversation.session_id, None)
        if conversation.ended_us is None:
            self.feed(conversation, i.TimePassed(now_us=self.now_us()))

    async def every_second(self) -> None:
        """Heads, signs of life, and forgetting."""
        ticks = 0
        while True:
            await asyncio.sleep(1.0)
            ticks += 1
            if jumped_s := self._clock.follow():
                self._log.warning("clock.jumped", seconds=round(jumped_s, 1))
            now_us = self.now_us()
            for conversation in tuple(self.conversations.values()):
                ended_us = conversation.ended_us
                if ended_us is not None and now_us - ended_us > ENDED_KEPT_US:
                    self._forget(conversation)
                else:
                    # Also of the ended: whoever was too slow for the last events must learn of it.
                    self._audience.head(conversation)
            for transport in self.links.values():
                transport.send(link.Ack(sessions={}))
                if self._homes.is_gone(transport.transport, time.monotonic()):
                    self._without(transport.transport)
            # Costs nothing while the dispatcher knows us; else somebody else has said to be us.
            self.pool.follow()
            self._send_lost_again(time.monotonic())
            self._desk.forget_old(journaled=not self.journal_lost)
            self._writer.retry()
            if ticks % 10 == 0 and self._tidying is None:
                # Not awaited: to write the file anew takes long, and our signs of life go on.
                self._tidying = asyncio.get_running_loop().create_task(self._tidy(now_us))
                self._tidying.add_done_callback(self._tidied)

    async def _tidy(self, now_us: int) -> None:
        await self._writer.tidy(
            now_us - int(self._settings.retention_days * 86_400 * 1_000_000),
            now_us - int(self._settings.reply_memory_s * 1_000_000),
            is_quiet=all(one.ended_us is not None for one in self.conversations.values()),
        )

    def _tidied(self, task: asyncio.Task[None]) -> None:
        self._tidying = None
        self._fail_with(task)

    def _forget(self, conversation: Conversation) -> None:
        self.conversations.pop(conversation.session_id, None)
        self._reception.forget(conversation.session_id)
        self._homes.forget(conversation.session_id)
        timer = self._timers.pop(conversation.session_id, None)
        if timer is not None:
            timer.cancel()

    # --- the write path -----------------------------------------------------------------------

    def feed(self, conversation: Conversation, event: i.AnyInput) -> None:
        if self._has_stopped:
            return  # it is acknowledged to nobody: the next process gets it again
        self._attempt.begin(conversation.session_id)
        immediate = conversation.feed(event, event.now_us)
        self._attempt.clear()
        self._fail.reached("decided")
        for flush in immediate.flushes:
            self.links[conversation.state.transport].send(
                link.Flush(
                    session_id=conversation.session_id,
                    responses=list(flush.responses),
                    why=flush.why,
                )
            )
        for broadcast in immediate.broadcasts:
            self._audience.cancel(conversation.session_id, broadcast, event.now_us)
        if immediate.flushes or immediate.broadcasts:
            self._fail.told()
        self._dirtied(conversation)

    def _dirtied(self, conversation: Conversation) -> None:
        if self._has_stopped:
            return
        self._dirty[conversation.session_id] = conversation
        self._writer.wake()

    def _stand_alone(self) -> None:
        for conversation in self.conversations.values():
            conversation.stand_alone()
            self._dirtied(conversation)

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
            conversation = self.conversations.get(done.commit.session_id)
            for event in done.events:
                self._audience.publish(event)
                if conversation is not None:
                    conversation.published(event)
        self._fail.reached("published")
        for done in batch:
            self._send(done, safe)
        self._fail.reached("sent")
        for done in batch:
            conversation = self.conversations.get(done.commit.session_id)
            for reply in done.commit.replies:
                if conversation is not None and conversation.hold(reply, done):
                    # A transport that says nothing holds up the sound, not the reply.
                    later = asyncio.get_running_loop().call_later
                    later(GRANT_S, self._desk.release, reply)
                else:
                    self._desk.release(reply)
            for reply in done.passing:
                self._desk.release(reply, remember=False)
        self._fail.reached("answered")
        if safe:
            self._acknowledge(batch)
        self._fail.reached("acknowledged")
        for done in batch:
            conversation = self.conversations.get(done.commit.session_id)
            if conversation is not None:
                self._arm(conversation)
                if conversation.ended_us is not None and done.commit.ended_us is not None:
                    self._audience.head(conversation)
        if self.journal_lost == safe:
            self.journal_lost = not safe
            self._journal_changed()
            if self.journal_lost:
                self._tell_journal_lost()

    def _written(self, task: asyncio.Task[None]) -> None:
        """Where a bug has lost what was to be written, nothing may be written after it: the next
        process gets it again from those who hold it for us."""
        self._fail_with(task)
        if not task.cancelled() and task.exception() is not None:
            self._has_stopped = True
            self._dirty.clear()

    def _send(self, done: Work, safe: bool) -> None:
        """Frames to the transport, calls to the pool."""
        session_id = done.commit.session_id
        conversation = self.conversations.get(session_id)
        if done.farewell is not None:
            left, hang_up = done.farewell
            if left in self.links:
                self.links[left].send_raw(hang_up, None)
        if conversation is not None and conversation.line == done.line:
            # None for one that ended as it was found, on a transport that this cell has no more.
            transport = self.links.get(conversation.state.transport)
            for n, header, payload in done.down:
                conversation.committed_down = max(conversation.committed_down, n)
                if transport is not None:
                    transport.send_raw(header, payload)
                self._fail.sent(payload)
                if payload is not None:
                    self._audience.raw(session_id, "down", payload)
        for message in done.pool:
            # The pool tells an outcome again until it may forget it.
            if safe or not isinstance(message, work.OutcomeAck):
                self.pool.send(message)

    def _acknowledge(self, batch: list[Work]) -> None:
        """What is journaled may be forgotten by those who hold it for us."""
        acks: dict[int, dict[str, int]] = {}
        for done in batch:
            session_id = done.commit.session_id
            conversation = self.conversations.get(session_id)
            if conversation is not None and conversation.line == done.line:
                conversation.journaled_up = done.acknowledge
                acks.setdefault(conversation.state.transport, {})[session_id] = done.acknowledge
        for transport, sessions in acks.items():
            if transport in self.links:
                self.links[transport].send(link.Ack(sessions=sessions))

    def _journal_changed(self) -> None:
        if self._reception.draining:
            return  # it says that it is being stopped
        if self.journal_lost and not self.journal.is_there():
            self._runtime.failing(
                f"the journal {self.journal.path} was deleted or replaced: new sessions are "
                "refused, live ones go on and cannot be kept; put it back, or: voicebus down, "
                "then voicebus up"
            )
        elif self.journal_lost:
            self._runtime.failing(
                f"the journal {self.journal.path} cannot be written: new sessions are refused, "
                "live ones go on; free the disk or make it writable"
            )
        elif self.journal_slow:
            self._runtime.failing(
                f"the disk is slow: the journal {self.journal.path} has taken more than "
                f"{SLOW_S:g} s for a commit; sound and interrupts go on, events and replies wait"
            )
        else:
            self._runtime.ready()

    def _journal_slow(self, is_slow: bool) -> None:
        self.journal_slow = is_slow
        self._journal_changed()

    def _tell_journal_lost(self) -> None:
        """Live conversations go on, and their clients know what a restart would cost."""
        now_us = self.now_us()
        for conversation in self.conversations.values():
            if conversation.ended_us is None:
                conversation.tell_journal_lost(now_us)
                self._dirtied(conversation)

    # --- the transport ------------------------------------------------------------------------

    def _heads_up(self, transport: int) -> dict[str, int]:
        """What a Hello says of its conversations."""
        return {
            session_id: conversation.greeted()
            for session_id, conversation in self.conversations.items()
            if conversation.state.transport == transport
        }

    def _from_transport(self, transport: int, message: link.ANY_UP, payload: Frames) -> None:
        if self._has_stopped:
            return  # nothing is decided on it, so that no number may move
        match message:
            case link.LinkWelcome():
                self._welcomed(transport, message)
            case link.DownAck():
                for session_id, n in message.sessions.items():
                    conversation = self.conversations.get(session_id)
                    if conversation is not None and conversation.state.transport == transport:
                        self._acknowledged(conversation, n)
                        if session_id in message.missing:
                            self._send_again(conversation)
            case link.LinkReset():
                pass  # answered by the link itself
            case _:
                self._numbered(transport, message, payload)

    def _welcomed(self, transport: int, message: link.LinkWelcome) -> None:
        """Send again what it has not; give up what it has forgotten. What it has and our Hello did
        not name it ends by itself."""
        self._homes.welcomed(transport, message.inc, message.sessions, time.monotonic())
        for conversation in tuple(self.conversations.values()):
            if conversation.state.transport != transport:
                continue
            n = message.sessions.get(conversation.session_id)
            if n is not None:
                if unknown := conversation.welcomed(n):
                    self._log.warning(
                        "session.orders_unknown",
                        session_id=conversation.session_id,
                        orders=unknown,
                    )
                    asyncio.get_running_loop().call_later(
                        REDECIDED_S, self._redecided, conversation, conversation.line, n, unknown
                    )
                self._acknowledged(conversation, n)
            elif conversation.reached_transport:
                conversation.forgotten()
                if conversation.ended_us is None:
                    lost = i.TransportLost(
                        now_us=self.now_us(), unattended_s=conversation.unattended_s
                    )
                    self.feed(conversation, lost)
                continue
            conversation.unattended_s = 0.0  # its transport has kept the line
            self._send_again(conversation)

    def _redecided(self, conversation: Conversation, line: int, n: int, unknown: int) -> None:
        """Leave a connection of which nobody knows all that was ordered. What was ordered since
        and taken for that is asked for again on the next one."""
        if conversation.line != line or self._has_stopped:
            return
        conversation.go_on_behind(n, unknown)
        if conversation.ended_us is None:
            self.feed(conversation, i.TransportLost(now_us=self.now_us(), orders_unknown=unknown))
        else:
            self._dirtied(conversation)

    def _acknowledged(self, conversation: Conversation, n: int) -> None:
        for reply in conversation.acknowledged(n):
            self._desk.release(reply)

    def _send_again(self, conversation: Conversation) -> None:
        """What is committed and the transport has not done."""
        for n, (header, body) in sorted(conversation.outbox.items()):
            if n <= conversation.committed_down:
                self.links[conversation.state.transport].send_raw(header, body)

    def _send_lost_again(self, now_s: float) -> None:
        """A transport that was frozen is disconnected and comes back without a word: what was under
        way to it is lost. It does no order twice."""
        for conversation in self.conversations.values():
            is_there = self._homes.is_heard(conversation.state.transport, now_s)
            if conversation.is_stuck(now_s, is_there=is_there):
                self._runtime.count("link_resends")
                self._send_again(conversation)

    def _numbered(self, transport: int, message: link.Event, payload: Frames) -> None:
        conversation = self.conversations.get(message.session_id)
        if conversation is None or conversation.state.transport != transport:
            # Ended and forgotten here, or elsewhere by now: the transport need not keep it either.
            self.links[transport].send(link.Ack(sessions={message.session_id: message.n}))
            return
        ledger = conversation.ledger
        if message.n <= ledger.up_n:
            safe = {message.session_id: conversation.journaled_up}
            self.links[transport].send(link.Ack(sessions=safe))
            return
        if message.n != ledger.up_n + 1:
            # Something before it was lost at a full queue: ask for it from there.
            self._runtime.count("link_gaps")
            self.links[transport].hello()
            return
        ledger.up_n = message.n
        now_us = self.now_us()
        if conversation.ended_us is not None:
            pass  # nothing follows the end, and what it was set aside for comes here once more
        elif isinstance(message, link.ProviderFrame):
            raw = bytes(payload[0]) if payload else b""
            for event in self._read(conversation, raw, now_us):
                self.feed(conversation, event)
        else:
            said = uplink.from_transport(message, now_us)
            if said is not None:
                self.feed(conversation, said)
        self._dirtied(conversation)

    def _read(self, conversation: Conversation, raw: bytes, now_us: int) -> list[i.AnyInput]:
        """For the audience and for the core. It may be what ends this process, each time anew: the
        transport tells it again until it is acknowledged."""
        self._attempt.begin(conversation.session_id)
        self._audience.raw(conversation.session_id, "up", raw)
        found = self._translated(conversation, raw, now_us)
        self._attempt.clear()
        return found

    def _translated(self, conversation: Conversation, raw: bytes, now_us: int) -> list[i.AnyInput]:
        """A provider's frame in our words. Whatever it is, it never ends a session."""
        try:
            return uplink.from_provider(conversation.translator, raw, now_us)
        except uplink.Unknown:
            self._runtime.count("provider_frames_unknown")
            return []
        except Exception as error:
            self._runtime.refused(
                "provider_frames_malformed",
                "provider.frame_malformed",
                session_id=conversation.session_id,
                why=type(error).__name__,
            )
            return []

    # --- another transport --------------------------------------------------------------------

    def least_loaded(self) -> TransportLink:
        """The transport for a new conversation."""
        return self.links[self._homes.choose(self._load(), time.monotonic())]

    def _load(self) -> dict[int, int]:
        load: dict[int, int] = {}
        for conversation in self.conversations.values():
            # One that is being opened is on none yet.
            if conversation.ended_us is None and conversation.state.phase != "new":
                number = conversation.state.transport
                load[number] = load.get(number, 0) + 1
        return load

    def _on(self, transport: int) -> list[Conversation]:
        """The conversations that it carries."""
        return [
            one
            for one in self.conversations.values()
            if one.ended_us is None and one.state.transport == transport
        ]

    def _elsewhere(self, conversation: Conversation) -> TransportLink | None:
        found = self._homes.elsewhere(
            conversation.state.transport,
            conversation.session_id,
            self._load(),
            time.monotonic(),
        )
        return None if found is None else self.links[found]

    def _move(
        self,
        conversation: Conversation,
        to: TransportLink,
        why: type[i.TransportLost] | type[i.TransportLeft],
    ) -> None:
        self._homes.left(conversation.state.transport, conversation.session_id)
        self._log.info(
            "session.moved",
            session_id=conversation.session_id,
            from_transport=conversation.state.transport,
            to_transport=to.transport,
        )
        conversation.leave_transport()
        home: dict[str, Any] = {
            "transport": to.transport,
            "audio_in": to.audio_in,
            "audio_out": to.audio_out,
        }
        if why is i.TransportLost:
            home["unattended_s"] = conversation.unattended_s
        self.feed(conversation, why(now_us=self.now_us(), **home))

    def _without(self, transport: int) -> None:
        """It is gone for all we know. Where there is no other one, we wait for its successor."""
        for conversation in self._on(transport):
            to = self._elsewhere(conversation)
            if to is not None:
                self._move(conversation, to, i.TransportLost)

    def _transport_spoke(self, state: RoleState) -> None:
        self._homes.spoke(state, time.monotonic())
        number = state.instance
        if self._homes.is_leaving(number) and number not in self._emptying:
            task = asyncio.get_running_loop().create_task(self._empty(number))
            self._emptying[number] = task
            task.add_done_callback(lambda task: self._emptied(number, task))

    async def _empty(self, transport: int) -> None:
        """It is being stopped: its conversations leave it, each in a silence of its own."""
        while self._homes.is_leaving(transport):
            moved = 0
            for conversation in self._on(transport):
                state = conversation.state
                is_ready = state.phase == "ready" and may_leave_transport(state, self.now_us())
                if state.phase == "lost" or is_ready:
                    to = self._elsewhere(conversation)
                    if to is not None:
                        self._move(conversation, to, i.TransportLeft)
                        moved += 1
                if moved == MOVE_TOGETHER:
                    break
            await asyncio.sleep(MOVE_EVERY_S)

    def _emptied(self, transport: int, task: asyncio.Task[None]) -> None:
        del self._emptying[transport]
        self._fail_with(task)

    def _fail_with(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._runtime.fail(error)

    def _process_reported(self, raw: bytes) -> None:
        """The health listener knows of a death before the next one is there."""
        try:
            report = msgspec.json.decode(raw, type=ProcessReport)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        role, _, number = report.process.rpartition("-")
        is_ours = report.what == "died" and role == "transport" and number.isdigit()
        if is_ours and self._homes.died(int(number), report.pid):
            self._without(int(number))

    # --- the tool pool ------------------------------------------------------------------------

    def _catalogue_changed(self, restarted: bool) -> None:
        if restarted or self._recovered_calls:
            self._recovered_calls = False
            for conversation in self.conversations.values():
                for message in conversation.open_pool_calls(self.now_us()):
                    self.pool.send(message)
        self._reception.catalogue_changed()

    def _from_pool(self, message: work.ANY_FROM_DISPATCHER) -> None:
        if isinstance(message, work.ToolCatalogue):
            return  # the pool's own end has read it
        conversation = self.conversations.get(message.session_id)
        if conversation is not None:
            self.feed(conversation, uplink.from_pool(message, self.now_us()))
        elif isinstance(message, work.Outcome):
            # Ended and forgotten here: the dispatcher need not keep it either.
            ack = work.OutcomeAck(session_id=message.session_id, call_id=message.call_id)
            self.pool.send(ack)

    def _role_spoke(self, frames: list[bytes]) -> None:
        """A restarted transport or dispatcher is told who we are before anything else is sent."""
        if self._has_stopped:
            return
        if frames[0].startswith(b"system/health/"):
            if frames[0].endswith(b"/process") and len(frames) > 1:
                self._process_reported(frames[1])
            return
        try:
            state = msgspec.json.decode(frames[1], type=RoleState)
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
            return
        role = (state.role, state.instance)
        if state.role == "transport":
            self._transport_spoke(state)
        if self._role_incs.get(role) == state.inc:
            return
        first = role not in self._role_incs
        self._role_incs[role] = state.inc
        if first:
            return
        self._log.info("role.restarted", role=state.role, number=state.instance)
        if state.role == "dispatcher":
            self.pool.follow()
        elif state.role == "transport" and state.instance in self.links:
            self.links[state.instance].hello()

    # --- life ---------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Fold what the journal knows. A conversation that cannot be folded is set aside alone."""
        live = self.journal.live()
        self._clock.not_before(max((stored.last_us for stored in live), default=0))
        now_us = self.now_us()
        suspect = self._attempt.left_behind
        for stored in live:
            conversation = Conversation(
                stored.session_id,
                TRANSLATORS["openai"],
                self._runtime.inc,
                self._settings.ring_events,
                stored.created_us,
            )
            self.conversations[stored.session_id] = conversation
            if stored.session_id == suspect:
                strikes = self.journal.strike(suspect, stored.last_input())
                if strikes >= STRIKES:
                    self._log.error("session.set_aside", session_id=suspect, deaths=strikes)
                    conversation.set_aside(stored, now_us)
                    self._dirty[stored.session_id] = conversation
                    continue
            self._attempt.begin(stored.session_id)
            try:
                foreign = conversation.recover(stored)
                if conversation.state.phase == "closed":
                    # Else nothing ends it: it has no deadlines any more, and tells nobody.
                    raise ValueError("today's code ends it, the code that decided it went on")
                conversation.translator = TRANSLATORS[conversation.state.vendor or "openai"]
                ended_us = conversation.state.lease_until_us or now_us
                conversation.feed(i.TalkerSeen(now_us=now_us), now_us)
                conversation.unattended_s = max(0.0, (now_us - ended_us) / 1_000_000)
                if foreign:
                    conversation.tell_snapshot_required(now_us)
            except Exception as error:
                self._log.error(
                    "session.not_recovered", session_id=stored.session_id, **faults.told(error)
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
        for conversation in tuple(self.conversations.values()):
            # A cell that was started with fewer transports than before.
            if conversation.ended_us is None and conversation.state.transport not in self.links:
                self._move(conversation, self.least_loaded(), i.TransportLost)
        if not self._is_known:
            asyncio.get_running_loop().call_later(KNOWN_AFTER_S, self._known)
        self._writer.wake()

    async def stop(self) -> None:
        """TERM: refuse new sessions, write snapshots, leave the rest to the next process."""
        self._reception.draining = True
        for conversation in self.conversations.values():
            if conversation.ended_us is None and not self._has_stopped:
                conversation.take_snapshot()
                self._dirtied(conversation)
        # What comes from here on is the next process's: a busy shard never comes to an end of it.
        self._has_stopped = True
        for task in (*self._emptying.values(), self._tidying):
            if task is not None:
                task.cancel()
        await self._writer.drain()
        for conversation in self.conversations.values():
            for _, reply in conversation.held:
                self._desk.release(reply)
        for timer in self._timers.values():
            timer.cancel()
        self.journal.close()
        self._attempt.close()
