"""What happens to the dispatcher. `at` is monotonic seconds; a peer is an opaque name."""

from dataclasses import dataclass

from voicebus.bus.messages import work


@dataclass(frozen=True)
class SessionSaid:
    """A message from a session process."""

    at: float
    peer: str
    message: work.ANY_TO_DISPATCHER


@dataclass(frozen=True)
class WorkerSaid:
    """A message from a worker."""

    at: float
    peer: str
    message: work.ANY_TO_POOL


@dataclass(frozen=True)
class WorkerUnreachable:
    """A message to this worker could not be delivered: its connection is gone."""

    at: float
    peer: str


@dataclass(frozen=True)
class Drained:
    """This dispatcher is to end: no new calls."""

    at: float


@dataclass(frozen=True)
class Ticked:
    """The time that `deadline` named has come."""

    at: float


Event = SessionSaid | WorkerSaid | WorkerUnreachable | Drained | Ticked
