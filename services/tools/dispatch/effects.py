"""What the dispatcher's shell is to do."""

from dataclasses import dataclass

from voicebus.bus.messages import work


@dataclass(frozen=True)
class TellSession:
    """Send this to a session process."""

    peer: str
    message: work.ANY_FROM_DISPATCHER


@dataclass(frozen=True)
class TellWorker:
    """Send this to a worker."""

    peer: str
    message: work.ANY_FROM_POOL


@dataclass(frozen=True)
class RememberWorkers:
    """Write down, before anything else is sent, which workers may have been given calls.

    A successor asks each of them before it runs a `once` call that it did not see begin.
    """

    names: tuple[str, ...]
    """`name/incarnation` each."""


@dataclass(frozen=True)
class Note:
    """Something for the log."""

    what: str
    fields: tuple[tuple[str, str | int | float], ...] = ()
    is_detail: bool = False
    """What happens with every call and surprises nobody."""


Effect = TellSession | TellWorker | RememberWorkers | Note
