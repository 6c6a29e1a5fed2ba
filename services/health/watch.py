"""Frozen or busy: what a process's silence means, and what is to be done about it. Pure.

    speaking ──silent──▶ frozen ──grace──▶ killed ─(supervisord starts another)─▶ speaking
        ▲                   │                ▲
        ├────it speaks──────┘                │
        └────and is frozen for the third time┘

Silence is counted in time that the watcher itself has seen pass, on the monotonic clock: a machine
that slept, a frozen watcher or a clock that jumped make nobody suspicious.
"""

from dataclasses import dataclass, replace

LONGEST_LOOK_S = 0.5
"""More than this between two looks was the watcher's own sleep and counts for nobody."""
STARVED_SHARE = 0.5
"""Who wants to run and got less of a processor than this is starved, not stuck."""

FREEZES = 3
"""So often it may be found frozen; one that comes to life for a moment each time serves nobody."""
WELL_S = 30.0
"""Who was not found frozen for so long begins anew."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How patient to be with a role."""

    stopped_s: float
    """For one that was stopped (SIGSTOP); 0 turns the watch off."""
    stuck_s: float
    """For one that runs or sleeps and says nothing."""
    starved_s: float
    """For one that wants to run and gets no processor, or waits for the disk."""
    start_s: float
    """For the first word after the start."""
    grace_s: float
    """Between being found frozen and being killed."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """A process as the operating system sees it."""

    is_stopped: bool
    """By SIGSTOP, or by a debugger."""
    is_waiting: bool
    """For a processor or for the disk."""
    cpu_s: float
    """Processor time that it has used so far."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What is known of one process."""

    pid: int
    has_spoken: bool = False
    silent_s: float = 0.0
    """Seen to pass since its last word, or since its start."""
    cpu_s: float | None = None
    """What it had used when the silence was first looked into."""
    frozen_at_s: float | None = None
    """The silence at which it was found frozen."""
    freezes: int = 0
    """How often it was found frozen."""
    well_s: float = 0.0
    """Seen to pass since it was last found so."""
    is_killed: bool = False


@dataclass(frozen=True)
class Tell:
    """Publish it: `frozen`, `recovered` or `killed`."""

    what: str
    why: str
    silent_s: float


@dataclass(frozen=True)
class Dump:
    """Have it write where its threads are."""


@dataclass(frozen=True)
class Continue:
    """SIGCONT: costs nobody anything."""


@dataclass(frozen=True)
class Kill:
    """SIGKILL: whoever is stopped or stuck hears nothing else."""


Deed = Tell | Dump | Continue | Kill


def spoke(watched: Watched) -> tuple[Watched, tuple[Deed, ...]]:
    """A sign of life."""
    deeds: tuple[Deed, ...] = ()
    if watched.frozen_at_s is not None:
        deeds = (Tell("recovered", "it speaks again", watched.silent_s),)
    is_well = watched.well_s >= WELL_S
    freezes = 0 if is_well else watched.freezes
    return replace(
        Watched(pid=watched.pid, has_spoken=True), freezes=freezes, well_s=watched.well_s
    ), deeds


def wants_a_closer_look(watched: Watched, policy: Policy) -> bool:
    """Whether the next `passed` needs to know the process's body."""
    return policy.stopped_s > 0 and watched.silent_s >= policy.stopped_s / 2


def passed(
    watched: Watched, seconds: float, body: Body | None, policy: Policy
) -> tuple[Watched, tuple[Deed, ...]]:
    """Time went by without a word. `body` is None when nobody looked, or there is none."""
    if not policy.stopped_s or watched.is_killed:
        return watched, ()
    seen_s = min(seconds, LONGEST_LOOK_S)
    silent_s = watched.silent_s + seen_s
    now = replace(watched, silent_s=silent_s, well_s=watched.well_s + seen_s)
    if body is None:
        return now, ()
    if now.cpu_s is None:
        now = replace(now, cpu_s=body.cpu_s)
    if now.frozen_at_s is not None:
        if silent_s < now.frozen_at_s + policy.grace_s:
            return now, ()
        why = f"it did not speak within {policy.grace_s:g} s after it was found frozen"
        return replace(now, is_killed=True), (Tell("killed", why, silent_s), Kill())
    suspicion = _suspicion(now, body, policy)
    if suspicion is None:
        return now, ()
    why = f"silent for {silent_s:.1f} s: {suspicion}"
    now = replace(now, frozen_at_s=silent_s, freezes=now.freezes + 1, well_s=0.0)
    found = Tell("frozen", why, silent_s)
    if now.freezes >= FREEZES:
        again = f"it was found frozen {now.freezes} times, each soon after the one before"
        return replace(now, is_killed=True), (found, Tell("killed", again, silent_s), Kill())
    awake: tuple[Deed, ...] = (Continue(),) if body.is_stopped else ()
    return now, (found, Dump(), *awake)


def _suspicion(watched: Watched, body: Body, policy: Policy) -> str | None:
    if body.is_stopped:
        why, limit_s = "it was stopped", policy.stopped_s
    elif not watched.has_spoken:
        why, limit_s = "it never spoke since its start", policy.start_s
    elif body.is_waiting and _share(watched, body, policy) < STARVED_SHARE:
        why, limit_s = "it gets no processor or no disk", policy.starved_s
    else:
        why, limit_s = "its loop is stuck", policy.stuck_s
    return why if watched.silent_s >= limit_s else None


def _share(watched: Watched, body: Body, policy: Policy) -> float:
    """How much of a processor it had since it was first looked at."""
    used_s = body.cpu_s - (watched.cpu_s or 0.0)
    return used_s / max(watched.silent_s - policy.stopped_s / 2, 0.01)
