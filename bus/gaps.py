"""What of a numbered stream is missing: pure values in, verdicts out.

A publisher numbers its messages per session and lane without gaps. What a subscriber gets may have
holes (a full queue), repeats (a restarted publisher, a replay that overlaps) and, while a replay is
under way, newer messages before older ones. `Followed` puts them in order again, each exactly once:

    arrived      1  2  5  6         replay 3..4
    take         ready 1, 2         ready 3, then 4, 5, 6
    missing      -  -  3..4         -

The caller fetches what `missing` names and hands it to `take` like everything else. A publisher
that could not write its journal, and died, is followed by one that uses its last numbers anew:
`meet` and `hear` tell the two apart by their incarnations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")

HELD_LIMIT = 1000
"""Messages kept while something before them is missing; the rest is fetched again later."""


class Missing(NamedTuple):
    """Numbers that exist and have not come, both ends included."""

    first: int
    last: int


@dataclass(frozen=True)
class Followed(Generic[T]):
    """Where a subscriber of a whole lane stands."""

    last: int = 0
    """Everything up to here was handed on, in order."""
    newest: int = 0
    """The highest number known to exist, from messages, heads and welcomes."""
    held: Mapping[int, T] = field(default_factory=dict)
    """What came although something before it is missing."""
    incs: frozenset[str] = frozenset()
    """The publisher's incarnations that were heard so far."""


class Taken(NamedTuple, Generic[T]):
    """What a message changed."""

    now: Followed[T]
    ready: list[T]
    """To be handed on, in this order: each message once in its life."""


def take(at: Followed[T], seq: int, message: T) -> Taken[T]:
    """A message came, live or by replay. A repeated one changes nothing."""
    if seq <= at.last or seq in at.held:
        return Taken(at, [])
    newest = max(at.newest, seq)
    if seq == at.last + 1:
        return _run(at, seq, newest, [message])
    if len(at.held) >= HELD_LIMIT:
        return Taken(replace(at, newest=newest), [])
    return Taken(replace(at, newest=newest, held={**at.held, seq: message}), [])


def meet(at: Followed[T], inc: str) -> Followed[T]:
    """A message of this incarnation was read: its heads can be late from now on."""
    return at if not inc or inc in at.incs else replace(at, incs=at.incs | {inc})


def hear(at: Followed[T], head: int, inc: str = "") -> Followed[T]:
    """The publisher said how far its lane goes; 0 where it does not know the session. An older word
    changes nothing, but the first of an incarnation that knows less than was handed on: what was
    beyond is forgotten there, and what follows is new under numbers used before."""
    is_new = bool(inc) and inc not in at.incs
    at = meet(at, inc)
    if is_new and 0 < head < at.last:
        return Followed(last=head, newest=head, incs=at.incs)
    return at if head <= at.newest else replace(at, newest=head)


def missing(at: Followed[T]) -> Missing | None:
    """The first stretch to fetch, or None when all that is known to exist was handed on."""
    if at.newest <= at.last:
        return None
    before = min(at.held, default=at.newest + 1)
    return Missing(at.last + 1, before - 1)


def give_up(at: Followed[T], upto: int) -> Taken[T]:
    """The owner says that everything up to `upto` is gone for good: go on behind it."""
    if upto <= at.last:
        return Taken(at, [])
    passed = replace(at, held={seq: one for seq, one in at.held.items() if seq > upto})
    return _run(passed, upto, max(at.newest, upto), [])


def _run(at: Followed[T], upto: int, newest: int, ready: list[T]) -> Taken[T]:
    """Hand on what now follows without a hole."""
    if not at.held:
        return Taken(replace(at, last=upto, newest=newest), ready)
    held = dict(at.held)
    while (upto + 1) in held:
        upto += 1
        ready.append(held.pop(upto))
    return Taken(replace(at, last=upto, newest=newest, held=held), ready)


def on_topic(last: int, seq: int, prev: int) -> Literal["next", "repeated", "gap"]:
    """For a subscriber of one exact topic, who sees holes in `seq` by his own choice.

    `last` is the last seq he saw on it (0 for none), `prev` what the message says came before it on
    this topic. At a `gap`, what he missed lies between `last` and `seq`.
    """
    if seq <= last:
        return "repeated"
    return "next" if prev <= last else "gap"


def on_head(last: int, newest: int, *, is_new: bool) -> int:
    """Where a subscriber of one exact topic stands after a head that names `newest` for it.

    `is_new`: nothing of this incarnation was heard before. As in `hear`, one that knows less uses
    numbers anew. Beyond what is returned, up to `newest`, he has missed something.
    """
    return newest if is_new and newest < last else last
