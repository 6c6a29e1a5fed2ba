"""What can go wrong between a program and its session. Every text says what to do next."""


class ClientError(Exception):
    """The base of all: catch it to print one clear sentence."""


class NobodyAnswers(ClientError):
    """No session process answered at all."""


class NoReply(ClientError):
    """The session process was there before and did not answer in time. It may have acted."""


class CommandRefused(ClientError):
    """The session said no."""

    def __init__(self, command: str, code: str, message: str, retry: bool) -> None:
        super().__init__(f"{command} was refused ({code}): {message}")
        self.command = command
        self.code = code
        """One of the closed list in `messages.commands.ErrorCode`."""
        self.message = message
        self.retry = retry
        """Whether trying again later can help; the client did so until its deadline."""


class SessionGone(ClientError):
    """The session does not exist any more, and its last event cannot be had."""


class Lagged(ClientError):
    """A consumer was too slow: what it missed is not in the client's memory any more.

    Iterating goes on behind the hole; events can be had again with `session.replay`.
    """

    def __init__(self, what: str, missed: int, first_kept: int | None) -> None:
        """`first_kept`: the seq that it goes on with; None for what cannot be replayed."""
        text = f"this consumer of {what} was too slow and missed {missed}"
        if first_kept is None:
            super().__init__(f"{text}: read faster")
        else:
            super().__init__(
                f"{text}; going on at seq {first_kept}: "
                "read faster, or fetch them with session.replay()"
            )
        self.missed = missed
        self.first_kept = first_kept


def what_to_ask(where: str, shard: int) -> str:
    """What to look at when nobody answers at that address."""
    if where.startswith("tcp://"):
        return (
            "does a relay listen there, and does it know this key? (its log names whom it refused)"
        )
    return f"is session-{shard} running? (voicebus status)"


class BadSound(ClientError, ValueError):
    """Sound that cannot be sent or read: what, where, and how to make it right."""
