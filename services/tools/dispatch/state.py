"""What the dispatcher knows. Owned by `core.step`, which changes it in place."""

from dataclasses import dataclass, field

from voicebus.bus.messages import work

Key = tuple[str, str]
"""(session_id, call_id): what names a call."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where the pool says `busy`, and how long it waits for whom."""

    running_per_session: int = 4
    queued_per_session: int = 8
    queued: int = 500
    settle_s: float = 1.5
    """After its start the dispatcher only matches what workers and sessions tell it, so long."""
    silent_s: float = 1.5
    """A worker that has said nothing for so long is lost."""
    attempts: int = 3
    """How often a call whose repetition is harmless may be started."""
    overdue_s: float = 3.0
    """How long after its deadline and grace a call may stay unanswered by its worker."""
    repeat_s: float = 1.0
    """How long until an outcome that was not acknowledged is told again."""
    keep_s: float = 600.0
    """How long an outcome is kept for a session that does not fetch it."""
    remember_s: float = 60.0
    """How long an acknowledged call is remembered, to know a late result as late."""
    refuses_late: bool = True
    """Say `busy` at once where a call's turn would come after its deadline, as far as is known."""
    breaker_failures: int = 5
    """After so many failures in a row a tool is left alone; 0 for never."""
    breaker_cooling_s: float = 30.0
    """How long; then one call tries it."""
    keep_tools_s: float = 30.0
    """How long the catalogue keeps the tools of a lost worker, which may be restarting."""


@dataclass(kw_only=True)
class Worker:
    """A process that runs tools."""

    peer: str
    name: str
    inc: str
    capacity: int
    tools: dict[str, work.ToolSpec]
    heard_at: float
    free: int = 0
    sent: int = 0
    """Calls given to this incarnation; Credit.received says how many of them it has seen."""
    used_at: float = float("-inf")
    is_leaving: bool = False
    holds: set[Key] = field(default_factory=set)

    @property
    def label(self) -> str:
        """`name/incarnation`."""
        return f"{self.name}/{self.inc}"


@dataclass(kw_only=True)
class Call:
    """A call that has not ended."""

    key: Key
    submit: work.SubmitCall | None
    """None: a worker has it, but its session has not yet told us of it."""
    peer: str | None
    deadline_at: float
    order: int
    attempt: int = 0
    worker: str | None = None
    """The peer that has it; None while it waits in the queue."""
    is_started: bool = False
    is_lost: bool = False
    """Its worker has told that its process was lost, before its session told us of it."""
    waits_for_settling: bool = False
    waits_for_tool: bool = False
    """Nobody offers its tool, but a worker that an earlier dispatcher knew may yet come back."""
    given_at: float | None = None
    """When its worker got it."""
    second_at: float = float("-inf")
    """Since when its progress is counted,"""
    told_in_it: int = 0
    """and how often it came within that second."""
    cancel_reason: str | None = None
    lost_attempts: set[str] = field(default_factory=set)
    """Workers that had it and were lost: a result from one of them still counts."""


@dataclass(kw_only=True)
class Ended:
    """A call that has ended and whose session has not yet said that it knows."""

    outcome: work.Outcome
    peer: str | None
    keepers: set[str]
    """Workers (`name/incarnation`) that keep a result of it until the session has the outcome: they
    could tell a successor of ours that it has run."""
    at: float
    repeat_at: float
    repeats: int = 0
    lost_attempts: frozenset[str] = frozenset()
    """Workers that had it and were lost, or did not answer for it in time."""


@dataclass(kw_only=True)
class Breaker:
    """A tool whose latest calls have failed."""

    failures: int = 0
    """In a row."""
    last: str = ""
    """How the latest one ended."""
    open_until: float = 0.0
    trial: Key | None = None
    """The call that tries it after the cooling."""


@dataclass(kw_only=True)
class State:
    """Everything. `fresh` makes the first one."""

    inc: str
    limits: Limits
    settle_until: float
    missing: set[str]
    """Workers of the predecessor (`name/incarnation`) that have not yet said hello."""
    last_at: float
    look_at: float
    """Nothing becomes due before this."""
    shards: int = 1
    """How many session processes there are."""
    caught_up: set[int] = field(default_factory=set)
    """Those that have submitted all their open calls to us."""
    departed: set[str] = field(default_factory=set)
    """Workers that were lost while some session may still have to hear of their calls."""
    followers: dict[str, work.Follow] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    """By peer."""
    left: dict[str, str] = field(default_factory=dict)
    """Workers (`name/incarnation`) that said bye, and over which peer; the last 256."""
    replaced: dict[str, None] = field(default_factory=dict)
    """Workers (`name/incarnation`) in whose place another of their name came; the last 256."""
    lost_tools: dict[str, tuple[float, dict[str, work.ToolSpec]]] = field(default_factory=dict)
    """Worker name -> when to forget its tools, and these."""
    calls: dict[Key, Call] = field(default_factory=dict)
    ended: dict[Key, Ended] = field(default_factory=dict)
    service_s: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Tool -> of how many calls it is known, and how long they had their places, in the mean."""
    breakers: dict[str, Breaker] = field(default_factory=dict)
    """By tool; those whose latest call went well are not here."""
    acknowledged: dict[Key, float] = field(default_factory=dict)
    """When to forget; in the order in which that happens."""
    cancelled_early: dict[Key, str] = field(default_factory=dict)
    """Cancels that came before their call; the last 256."""
    told_late: dict[tuple[Key, str], None] = field(default_factory=dict)
    """Late results that were told, by call and worker."""
    remembered: tuple[str, ...] = ()
    catalogue: tuple[work.ToolSpec, ...] = ()
    is_settled: bool = False
    is_draining: bool = False
    next_order: int = 0


def fresh(
    inc: str, at: float, limits: Limits, predecessors: tuple[str, ...] = (), shards: int = 1
) -> State:
    """The state of a dispatcher that has just started.

    `predecessors` are the workers that an earlier dispatcher of this run folder remembered.
    """
    return State(
        inc=inc,
        limits=limits,
        settle_until=at + limits.settle_s,
        missing=set(predecessors),
        remembered=tuple(sorted(predecessors)),
        last_at=at,
        look_at=at + limits.settle_s,
        shards=shards,
    )
