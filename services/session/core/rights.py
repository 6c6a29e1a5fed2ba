"""What a token allows: the rights that `open` or `attach` gave to whoever shows it. Pure."""

from voicebus.bus.messages.commands import READ_ONLY, SPEAKING, Attach
from voicebus.services.session.core.state import State


def why_not(state: State, token: str | None, command: str) -> str | None:
    """Why a command under this token is not allowed; None when it is.

    Without a token it is allowed: whoever may enter the run folder may do everything.
    """
    if token is None:
        return None
    where = f"session {state.session_id}"
    if token not in state.tokens_granted:
        return f"{where}: this token is unknown or was revoked; attach again for a new one"
    if command in READ_ONLY or may_command(state, token):
        return None
    if command in SPEAKING and state.tokens_granted[token]:
        return None
    right = "talk or command" if command in SPEAKING else "command"
    allowed = ", ".join(sorted(READ_ONLY | SPEAKING if state.tokens_granted[token] else READ_ONLY))
    return (
        f"{where}: this token may not {command} (it may: {allowed}); "
        f"attach with the right to {right}"
    )


def may_command(state: State, token: str) -> bool:
    """Whether it has the right to command."""
    return token in state.tokens_granted and token not in state.no_commands


def is_talker(state: State, token: str | None) -> bool:
    """Whether a sign of life under this token renews the lease: a listener's does not."""
    return token is None or state.tokens_granted.get(token, False) or may_command(state, token)


def too_many(state: State, token: str | None, wanted: Attach) -> str | None:
    """Why these rights cannot be had under this token: it gives no more than it has."""
    if token is None:
        return None
    has = {"listen"}
    if state.tokens_granted[token]:
        has.add("talk")
    if may_command(state, token):
        has.add("command")
    more = sorted(set(wanted.rights) - has)
    if not more:
        return None
    return (
        f"session {state.session_id}: this token has the rights {', '.join(sorted(has))} and "
        f"cannot give {', '.join(more)}"
    )
