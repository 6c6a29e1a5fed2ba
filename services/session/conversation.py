"""The shell of one conversation: feeds the core, numbers its decisions, keeps the unsettled."""

from collections import deque
from typing import Any

import msgspec
import structlog

from voicebus.bus.messages import link as up
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.commands import RETRY, CommandError
from voicebus.bus.messages.events import Error, SessionClosed, SessionResumed
from voicebus.bus.messages.work import CancelCalls, OutcomeAck, SubmitCall, ToDispatcher
from voicebus.bus.version import VERSION
from voicebus.services.patience import Patience
from voicebus.services.session import faults
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.state import Call, State
from voicebus.services.session.core.step import deadline, step
from voicebus.services.session.journal import Commit, Stored, StoredReply
from voicebus.services.session.ledger import Ledger, Numbered
from voicebus.services.session.providers.base import Translator

log = structlog.get_logger("session")

_inputs: msgspec.json.Decoder[i.AnyInput] = msgspec.json.Decoder(i.AnyInput)
_states: msgspec.json.Decoder[State] = msgspec.json.Decoder(State)
ENDS_INPUT: dict[type[fx.Request], up.EndsInput] = {
    fx.CommitInput: "commit",
    fx.ClearInput: "clear",
}
"""What becomes of the sound before it: the transport need not read a vendor's frames for that."""
SNAPSHOT_INPUTS = 200
"""A snapshot is taken at a turn boundary when so many inputs would have to be folded, or as many
as the conversation has items: a snapshot writes all of them, so that each input pays for one."""


class Work(msgspec.Struct):
    """What came of a conversation's inputs since the last commit."""

    commit: Commit
    events: list[Numbered] = []
    answers: list[fx.Answer | fx.Refuse] = []
    answered_at: list[int | None] = []
    """Per answer the seq that proves it."""
    granted: dict[str, int] = {}
    """Commands that gave a token, and the frame down with which the transport knows it."""
    passing: list[StoredReply] = []
    """Replies that are not remembered: a repetition is looked at anew."""
    down: list[tuple[int, bytes, bytes | None]] = []
    pool: list[ToDispatcher] = []
    acknowledge: int = 0
    """The transport may forget its events up to here."""
    line: int = 0
    """Which of the conversation's lines these numbers count on."""
    farewell: tuple[int, bytes] | None = None
    """For the transport that the conversation has left: hang up."""


class Immediate(msgspec.Struct, frozen=True):
    """What cannot wait for the commit."""

    flushes: list[fx.Flush]
    broadcasts: list[fx.Broadcast]


class Conversation:
    """One session. Owned by the shard's loop; nothing in it waits."""

    def __init__(
        self, session_id: str, translator: Translator, inc: str, ring: int, created_us: int
    ) -> None:
        self.session_id = session_id
        self.translator = translator
        self.state = State(session_id=session_id)
        self.ledger = Ledger(session_id, inc)
        self.created_us = created_us
        self.ended_us: int | None = None
        self.inputs = 0
        self.snapshot_at = 0
        self.ring: deque[tuple[int, bytes]] = deque(maxlen=ring)
        self.outbox: dict[int, tuple[bytes, bytes | None]] = {}
        """Frames down that the transport has not acknowledged."""
        self.delivered = 0
        self.reached_transport = False
        self.head = 0
        """The last event that was published: what is decided and not committed nobody may see."""
        self.heads: dict[str, int] = {}
        """The same per kind."""
        self.committed_down = 0
        """The last frame down that may be sent: the journal has it."""
        self.journaled_up = 0
        """The last event of the transport's that is safe here."""
        self._greeted_down = 0
        """The last frame down that was sent when its transport was greeted: if it has done more by
        then, a process before this one has sent it."""
        self._patience = Patience()
        self.line = 0
        """Counts the transports' starts that this conversation has been on: numbers of an earlier
        one mean nothing now."""
        self.held: deque[tuple[int, StoredReply]] = deque()
        """Replies with a token that the transport does not know yet, and its frame down."""
        self.unattended_s = 0.0
        """How long its talker's lease had been over when this process found it in the journal;
        0 as soon as anybody renews that."""
        self.work = self._fresh()
        self._broken: Exception | None = None
        """Why its deadline cannot be told."""

    # --- deciding -----------------------------------------------------------------------------

    def feed(self, event: i.AnyInput, now_us: int) -> Immediate:
        """Decide, and collect what follows. Whatever raises ends this conversation only: the core,
        the translator that writes its frames, or a value that has no JSON."""
        try:
            if self._broken is not None:
                raise self._broken
            state, effects = step(self.state, event)
            if state.lease_until_us != self.state.lease_until_us:
                self.unattended_s = 0.0
            body = encode(event)
            self.state = state
            self.inputs += 1
            self.work.commit.inputs.append((self.inputs, body))
            immediate = self._collect(effects, now_us)
            if isinstance(event, i.SessionRequested | i.Attached):
                self.work.granted[event.command_id] = self.ledger.down_n
            return immediate
        except Exception as error:
            log.error("core.failed", session_id=self.session_id, **faults.told(error))
            command_id = getattr(event, "command_id", None)
            message = f"an internal error while handling {type(event).__name__}"
            return self.give_up(f"{message}; this conversation was ended", now_us, command_id)

    def _collect(self, effects: list[fx.Effect], now_us: int) -> Immediate:
        immediate = Immediate([], [])
        for effect in effects:
            match effect:
                case fx.Publish(data, cause):
                    self._publish(data, cause, now_us)
                case fx.Ask(event_id, request, after_n, token):
                    frame = self.translator.write(event_id, request)
                    self._down(
                        up.SendFrame(
                            session_id=self.session_id,
                            n=self.ledger.down(),
                            generation=self.state.generation,
                            after_n=after_n,
                            token=token,
                            ends_input=ENDS_INPUT.get(type(request)),
                        ),
                        encode(frame),
                    )
                case fx.Flush():
                    immediate.flushes.append(effect)
                case fx.Broadcast():
                    immediate.broadcasts.append(effect)
                case fx.Answer() | fx.Refuse():
                    proven = isinstance(effect, fx.Answer) and effect.proven
                    self.work.answers.append(effect)
                    self.work.answered_at.append(self.ledger.seq if proven else None)
                case fx.Submit(call_id, tool, args, epoch, budget_ms, background):
                    self.work.pool.append(
                        SubmitCall(
                            session_id=self.session_id,
                            call_id=call_id,
                            tool=tool,
                            args=args,
                            epoch=epoch,
                            budget_ms=budget_ms,
                            background=background,
                        )
                    )
                case fx.Defer(call_ids):
                    for call_id in call_ids:
                        again = self._submitted_again(self.state.calls[call_id], now_us)
                        self.work.pool.append(again)
                case fx.CancelCalls(call_ids, epoch, reason):
                    self.work.pool.append(
                        CancelCalls(
                            session_id=self.session_id,
                            call_ids=list(call_ids),
                            epoch=epoch,
                            reason=reason,
                        )
                    )
                case fx.ForgetOutcome(call_id):
                    self.work.pool.append(OutcomeAck(session_id=self.session_id, call_id=call_id))
                case fx.TurnBoundary():
                    since = self.inputs - self.snapshot_at
                    if since >= max(SNAPSHOT_INPUTS, len(self.state.order)):
                        self.take_snapshot()
                case fx.End():
                    self.ended_us = now_us
                case fx.Dial() | fx.Release() | fx.Grant() | fx.HangUp():
                    self._down(self._numbered(effect), None)
                case _:
                    raise TypeError(f"nobody does {type(effect).__name__}")
        return immediate

    def _numbered(self, effect: fx.Dial | fx.Release | fx.Grant | fx.HangUp) -> up.ANY_DOWN:
        where: Any = {
            "session_id": self.session_id,
            "n": self.ledger.down(),
            "generation": self.state.generation,
        }
        config = self.state.config
        match effect:
            case fx.Dial(generation, vendor, model, flush_on_speech):
                where["generation"] = generation
                return up.Dial(
                    **where,
                    vendor=vendor,
                    model=model,
                    input_format=config.input_audio_format,
                    output_format=config.output_audio_format,
                    flush_on_speech=flush_on_speech,
                    headless=config.headless,
                )
            case fx.Release(flush_on_speech, keep_input):
                return up.ReleaseSound(
                    **where, flush_on_speech=flush_on_speech, keep_input=keep_input
                )
            case fx.Grant(token, talk, commanded_n):
                return up.GrantToken(**where, token=token, talk=talk, commanded_n=commanded_n)
            case fx.HangUp(after_n, token):
                return up.HangUp(**where, after_n=after_n, token=token)

    def _publish(self, data: Any, cause: str | None, now_us: int) -> None:
        event = self.ledger.event(data, epoch=self.state.epoch, at_us=now_us, cause=cause)
        self.work.events.append(event)
        self.work.commit.events.append((event.seq, event.header))
        self.ring.append((event.seq, event.header))

    def _down(self, header: up.ANY_DOWN, payload: bytes | None) -> None:
        raw = encode(header)
        n = self.ledger.down_n
        self.outbox[n] = (raw, payload)
        self.work.down.append((n, raw, payload))
        self.work.commit.outbox.append((n, raw, payload))

    def tell_journal_lost(self, now_us: int) -> None:
        """The journal cannot be written: a restart now would lose what is said from here on."""
        message = "the journal cannot be written; if this session's process dies now, it is lost"
        self._publish(Error(code="journal_lost", error=message, recoverable=True), None, now_us)

    def waiting_commands(self) -> list[tuple[str, str]]:
        """Command and id of those that the core has taken and not yet answered."""
        updates = (self.state.update, *self.state.updates)
        return [
            *((early.command, early.command_id) for early in self.state.early),
            *(("update", update.command_id) for update in updates if update is not None),
        ]

    def give_up(self, message: str, now_us: int, command_id: str | None = None) -> Immediate:
        """End this conversation because of a bug, and say so to everybody who waits for it."""
        calls = tuple(call.call_id for call in self.state.calls.values() if call.phase != "ended")
        self._refuse_waiting(message, command_id)
        self._publish(Error(code="internal", error=message, recoverable=False), None, now_us)
        self._publish(SessionClosed(reason="error", code="internal", message=message), None, now_us)
        self.state = msgspec.structs.replace(self.state, phase="closed")
        immediate = self._collect([fx.HangUp(), fx.End()], now_us)
        if calls:
            immediate.broadcasts.append(fx.Broadcast("close", self.state.epoch, calls, message))
        return immediate

    def _refuse_waiting(self, message: str, command_id: str | None) -> None:
        """Nobody else will answer these: the command being done, and those the core has kept."""
        answered = {answer.command_id for answer in self.work.answers}
        waiting = [command_id, *(waiting for _, waiting in self.waiting_commands())]
        for one in dict.fromkeys(waiting):
            if one is not None and one not in answered:
                error = CommandError(code="internal", message=message, retry=RETRY["internal"])
                self.work.answers.append(fx.Refuse(one, error))
                self.work.answered_at.append(None)

    # --- numbers and memory -------------------------------------------------------------------

    def published(self, event: Numbered) -> None:
        """It is on the bus."""
        self.head = event.seq
        self.heads[event.kind] = event.seq

    def acknowledged(self, n: int) -> list[StoredReply]:
        """The transport has done the frames down up to `n`. Returns the replies that waited for
        it."""
        self.reached_transport = True
        for old in [known for known in self.outbox if known <= n]:
            del self.outbox[old]
        self.delivered = max(self.delivered, n)
        due: list[StoredReply] = []
        while self.held and self.held[0][0] <= n:
            due.append(self.held.popleft()[1])
        return due

    def greeted(self) -> int:
        """Its transport is greeted. Returns the last event of that which is safe here."""
        self._greeted_down = self.committed_down
        return self.journaled_up

    def welcomed(self, n: int) -> int:
        """The transport had done the frames down up to `n`. Returns how many of those nobody knows:
        they are of a process that died with a journal which it could not write. It takes whatever
        is sent under their numbers for theirs, until `go_on_behind`."""
        unknown = max(0, n - self._greeted_down)
        self._greeted_down = max(self._greeted_down, n)
        self.committed_down = max(self.committed_down, n)
        return unknown

    def go_on_behind(self, n: int, orders_unknown: int) -> None:
        """Frames down are numbered behind `n`. One that has ended hangs up again: the transport may
        have taken the first time for something else."""
        self.ledger.down_n = max(self.ledger.down_n, n)
        if self.ended_us is not None:
            # As many of them may have been to dial; a hang-up of an older connection is refused.
            generation = self.state.generation + orders_unknown
            self.state = msgspec.structs.replace(self.state, generation=generation)
            self._collect([fx.HangUp()], self.ended_us)

    def is_stuck(self, now_s: float, *, is_there: bool) -> bool:
        """Whether what was sent down is to be sent again, as perhaps lost on the way."""
        oldest = next(iter(self.outbox), 0)
        sent = oldest if oldest <= self.committed_down else 0
        return self._patience.is_over(sent, now_s, is_there=is_there)

    def hold(self, reply: StoredReply, done: Work) -> bool:
        """Keep a reply back until the transport knows the token in it. Returns whether it must."""
        n = done.granted.get(reply.id, 0)
        if n <= self.delivered or self.line != done.line:
            return False
        self.held.append((n, reply))
        return True

    def forgotten(self) -> None:
        """The transport was restarted: both sides of the link count from 1 again."""
        self.outbox.clear()
        self.held.clear()
        self.delivered = self.committed_down = self.journaled_up = 0
        self._greeted_down = 0
        self.reached_transport = False
        self.ledger.down_n = self.ledger.up_n = 0
        self.line += 1
        self.work.down.clear()
        self.work.commit.outbox.clear()
        self.work.commit.forget_outbox = True

    def leave_transport(self) -> None:
        """Another transport takes over: this one, if it lives, is to hang up and forget."""
        hang_up = up.HangUp(
            session_id=self.session_id,
            n=self.committed_down + 1,
            generation=self.state.generation,
        )
        self.forgotten()
        self.work.farewell = (self.state.transport, encode(hang_up))

    def take_snapshot(self) -> None:
        """Recovery begins here instead of at the first input."""
        self.snapshot_at = self.inputs
        self.work.commit.snapshot = (self.inputs, VERSION, encode(self.state))

    def stand_alone(self) -> None:
        """The journal lacks what led here: state, and frames that are still on their way, are
        written as they are."""
        if self.ended_us is None:
            self.take_snapshot()
        self.work.commit.forget_outbox = True
        self.work.commit.outbox = [(n, *frame) for n, frame in self.outbox.items()]

    def take_work(self) -> Work:
        """What is to be committed now; collecting begins anew."""
        work, self.work = self.work, self._fresh()
        where = {"transport": self.state.transport, "generation": self.state.generation}
        work.commit.ledger = encode({**self.ledger.dump(), **where})
        work.commit.ended_us = self.ended_us
        work.commit.delivered = self.delivered
        work.acknowledge = self.ledger.up_n
        work.line = self.line
        return work

    def _fresh(self) -> Work:
        return Work(Commit(self.session_id, self.created_us))

    def deadline(self) -> int | None:
        """When the core wants to be woken. A state that cannot say is given up at once."""
        if self.ended_us is not None:
            return None
        try:
            return deadline(self.state)
        except Exception as error:
            self._broken = error
            return 0

    # --- recovery -----------------------------------------------------------------------------

    def recover(self, stored: Stored) -> bool:
        """Fold the journal. Recorded effects stand: nothing is published or sent again by it.

        Returns whether inputs were folded that another version of the code decided.
        """
        self._restore(stored)
        if stored.snapshot is not None:
            self.inputs = self.snapshot_at = stored.snapshot[0]
            self.state = _states.decode(stored.snapshot[2])
        for number, body in stored.inputs:
            if number != self.inputs + 1:
                raise ValueError(f"input {self.inputs + 1} is missing, the next is {number}")
            self.state, _ = step(self.state, _inputs.decode(body))
            self.inputs = number
        self.reached_transport = self.delivered > 0
        return bool(stored.inputs) and stored.ledger.get("version", VERSION) != VERSION

    def _restore(self, stored: Stored) -> None:
        """The numbers, and the frames down that its transport may not have done."""
        self.ledger.restore(stored.ledger)
        self.journaled_up = self.ledger.up_n
        self.head, self.heads = self.ledger.seq, dict(self.ledger.heads)
        self.outbox = {n: (header, payload) for n, header, payload in stored.outbox}
        self.committed_down = self.ledger.down_n
        self.delivered = self.ledger.down_n - len(self.outbox)

    def tell_snapshot_required(self, now_us: int) -> None:
        """Another version of the code decided the last inputs: what was published stands, but the
        state may differ from what it said."""
        audio_in, audio_out = self.state.sound
        resumed = SessionResumed(
            transport=f"transport-{self.state.transport}",
            audio_in=audio_in,
            audio_out=audio_out,
            history="complete",
            snapshot_required=True,
        )
        self._publish(resumed, None, now_us)

    def set_aside(self, stored: Stored, now_us: int) -> None:
        """It killed the process, or cannot be folded: end it without touching its inputs."""
        # All that is known of its state: where to hang up, and on which connection.
        known = stored.ledger
        self.state = State(
            session_id=self.session_id,
            transport=known.get("transport", 0),
            generation=known.get("generation", 0),
        )
        # With the frames before the last one: a transport does none behind a gap.
        self._restore(stored)
        self.reached_transport = True
        self.give_up(
            "this conversation could not be decided twice and was set aside; its file is kept",
            now_us,
        )

    def open_pool_calls(self, now_us: int) -> list[ToDispatcher]:
        """The calls to submit again to a dispatcher that may not know them, nor that some of them
        are to stop: one that waits for its turn would yet be run."""
        pool = [call for call in self.state.calls.values() if call.by == "pool"]
        found: list[ToDispatcher] = [
            self._submitted_again(call, now_us)
            for call in pool
            if call.phase in ("running", "cancelling")
        ]
        stopping = [call.call_id for call in pool if call.phase == "cancelling"]
        if stopping:
            found.append(
                CancelCalls(
                    session_id=self.session_id,
                    call_ids=stopping,
                    epoch=self.state.epoch,
                    reason="interrupted",
                )
            )
        return found

    def _submitted_again(self, call: Call, now_us: int) -> SubmitCall:
        return SubmitCall(
            session_id=self.session_id,
            call_id=call.call_id,
            tool=call.name,
            args=call.args,
            epoch=self.state.epoch,
            budget_ms=max(1, call.timeout_ms - (now_us - call.began_us) // 1000),
            background=call.background,
            resubmit=True,
        )
