"""Tool calls: session <-> dispatcher, and the worker protocol dispatcher <-> worker.

A call is named by `(session_id, call_id)`. Every call that a session submits gets exactly one
Outcome, repeated until the session acknowledges it. Budgets are relative: clocks differ.
"""

from typing import Any, Literal

from voicebus.bus.messages.base import Message
from voicebus.bus.messages.events import FailureReason

Effects = Literal["none", "idempotent", "once"]
"""What a second run would do: nothing, nothing more (with the same idempotency key), or harm."""
ToolOnInterrupt = Literal["cancel", "finish", "detach"]
Status = Literal["ok"] | FailureReason


class ToolSpec(Message, frozen=True, kw_only=True):
    """A tool of the catalogue."""

    name: str
    description: str = ""
    parameters: dict[str, Any]
    """JSON Schema of the arguments."""
    effects: Effects = "once"
    """Whether it may be run again after a loss: see above."""
    on_interrupt: ToolOnInterrupt = "cancel"
    """When the caller interrupts: it is stopped, or runs on; detach: and is told later."""
    timeout_s: float = 20.0
    """How long a call may take, its wait for a free worker included."""
    grace_s: float = 0.3
    """How long it may clean up after a cancel or its deadline."""
    concurrency: int | None = None
    """How many calls of it may run at the same time, over all workers; None: no limit."""
    approval: bool = False
    """Each call waits for `approve` first."""


class Failure(Message, omit_defaults=True, frozen=True, kw_only=True):
    """Why a call has no result."""

    message: str
    exit_code: int | None = None
    signal: str | None = None
    stderr_tail: str | None = None


# --- session -> dispatcher --------------------------------------------------------------------


class ToDispatcher(Message, tag_field="kind", frozen=True, kw_only=True):
    """What a session process tells the dispatcher."""


class Follow(ToDispatcher, tag="follow", frozen=True, kw_only=True):
    """A session process is here: send it the catalogue, now and whenever it changes."""

    shard: int
    inc: str
    dispatcher: str = ""
    """The dispatcher's incarnation whose catalogue it has heard, once it has submitted all its
    open calls to it again."""


class SubmitCall(ToDispatcher, tag="submit", frozen=True, kw_only=True):
    """Run a tool. Again with the same ids: attaches to the running call or repeats its outcome, and
    says whether the call is background now."""

    session_id: str
    call_id: str
    tool: str
    args: dict[str, Any]
    epoch: int
    budget_ms: int
    """How long the session will wait from now on."""
    background: bool = False
    """Nobody waits in silence for it."""
    resubmit: bool = False
    """The session may have submitted it before, to this dispatcher or to its predecessor."""


class CancelCalls(ToDispatcher, tag="cancel", frozen=True, kw_only=True):
    """Stop these calls; also travels as the broadcast, whichever comes first."""

    session_id: str
    call_ids: list[str]
    epoch: int
    reason: str


class OutcomeAck(ToDispatcher, tag="outcome_ack", frozen=True, kw_only=True):
    """The outcome is journaled; the dispatcher may forget it."""

    session_id: str
    call_id: str


# --- dispatcher -> session --------------------------------------------------------------------


class FromDispatcher(Message, tag_field="kind", frozen=True, kw_only=True):
    """What the dispatcher tells a session process."""


class ToolCatalogue(FromDispatcher, tag="catalogue", frozen=True, kw_only=True):
    """All tools that some worker offers now."""

    inc: str
    """The dispatcher's incarnation: when it changes, open calls are submitted again."""
    tools: list[ToolSpec]


class CallStarted(FromDispatcher, tag="started", frozen=True, kw_only=True):
    """A runner has begun."""

    session_id: str
    call_id: str
    worker: str


class CallProgress(FromDispatcher, tag="progress", frozen=True, kw_only=True):
    """A running tool said how far it is."""

    session_id: str
    call_id: str
    text: str


class Outcome(FromDispatcher, tag="outcome", frozen=True, kw_only=True):
    """How a call ended. Repeated until acknowledged."""

    session_id: str
    call_id: str
    status: Status
    result: Any = None
    failure: Failure | None = None
    duration_ms: float | None = None
    cancel_seen_us: int | None = None
    """Unix microseconds when the running tool saw the cancel, if it did."""
    late: bool = False
    """The call had ended otherwise before this result came."""


# --- worker -> dispatcher ---------------------------------------------------------------------


class ToPool(Message, tag_field="kind", frozen=True, kw_only=True):
    """What a worker tells the dispatcher."""


class CallRef(Message, frozen=True, kw_only=True):
    """Which call."""

    session_id: str
    call_id: str
    age_ms: int = 0


class WorkerHello(ToPool, tag="hello", frozen=True, kw_only=True):
    """A worker is here, with these tools; it is running and still holds these calls."""

    name: str
    """Stays over restarts; no other worker has it."""
    inc: str
    """New at each start."""
    pid: int
    protocol: tuple[int, ...] = (1,)
    capacity: int
    """How many calls it runs at the same time, at most."""
    tools: list[ToolSpec]
    running: list[CallRef] = []
    """The calls that it works on."""
    unacked: list[CallRef] = []
    """Those whose result nobody has acknowledged."""
    received: int = 0
    """How many calls this incarnation has been given so far."""
    free: int | None = None
    """How many calls can be taken now, as in Credit: who says hello every 250 ms with it needs to
    say neither `credit` nor `heartbeat`, and need not listen for `reset`."""


class Credit(ToPool, tag="credit", frozen=True, kw_only=True):
    """So many calls can be taken now. Absolute, so that a lost one does no harm."""

    free: int
    received: int | None = None
    """How many calls this incarnation has been given so far: tells what is still on its way."""


class Started(ToPool, tag="started", frozen=True, kw_only=True):
    """The code of this call has begun. May be left out where the result follows at once."""

    session_id: str
    call_id: str


class Progress(ToPool, tag="progress", frozen=True, kw_only=True):
    """A running tool said how far it is."""

    session_id: str
    call_id: str
    text: str


class Result(ToPool, tag="result", frozen=True, kw_only=True):
    """How a call ended at the worker; kept and repeated until Acked."""

    session_id: str
    call_id: str
    status: Status
    result: Any = None
    failure: Failure | None = None
    duration_ms: float | None = None
    cancel_seen_us: int | None = None
    started: bool = True
    """False: the tool's code certainly did not begin."""
    free: int | None = None
    """As in `credit`, instead of one that would follow; only after a welcome that takes it."""
    received: int | None = None


class Heartbeat(ToPool, tag="heartbeat", frozen=True, kw_only=True):
    """The worker's own loop is alive."""

    running: list[CallRef] = []
    lag_ms: float = 0.0


class Bye(ToPool, tag="bye", frozen=True, kw_only=True):
    """The worker has finished what it had and leaves."""


# --- dispatcher -> worker ---------------------------------------------------------------------


class FromPool(Message, tag_field="kind", frozen=True, kw_only=True):
    """What the dispatcher tells a worker."""


class PoolWelcome(FromPool, tag="welcome", frozen=True, kw_only=True):
    """The answer to hello."""

    inc: str
    heartbeat_ms: int = 250
    credit_in_results: bool = False
    """A result may carry the credit that would follow it."""


class Call(FromPool, tag="call", frozen=True, kw_only=True):
    """Run this now."""

    session_id: str
    call_id: str
    tool: str
    args: dict[str, Any]
    epoch: int
    """Of the session, when the call was made."""
    budget_ms: int
    """It must have ended so long after its arrival."""
    attempt: int = 1
    """2 and more: it was begun before, by one that was lost."""


class CancelCall(FromPool, tag="cancel", frozen=True, kw_only=True):
    """Stop this; may come before its call."""

    session_id: str
    call_id: str
    reason: str


class Acked(FromPool, tag="acked", frozen=True, kw_only=True):
    """The result is safe; forget it."""

    session_id: str
    call_id: str


class Drain(FromPool, tag="drain", frozen=True, kw_only=True):
    """Finish what runs, take nothing more, then say bye."""


class Reset(FromPool, tag="reset", frozen=True, kw_only=True):
    """I do not know you: say hello."""


class PoolHeartbeat(FromPool, tag="heartbeat", frozen=True, kw_only=True):
    """The dispatcher's own loop is alive."""


ANY_TO_DISPATCHER = Follow | SubmitCall | CancelCalls | OutcomeAck
ANY_FROM_DISPATCHER = ToolCatalogue | CallStarted | CallProgress | Outcome
ANY_TO_POOL = WorkerHello | Credit | Started | Progress | Result | Heartbeat | Bye
ANY_FROM_POOL = PoolWelcome | Call | CancelCall | Acked | Drain | Reset | PoolHeartbeat
