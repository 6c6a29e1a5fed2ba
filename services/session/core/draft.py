"""One step in the making: the state being changed and the effects so far."""

from typing import Any, TypeVar

from msgspec.structs import replace

from voicebus.bus.messages.base import Message
from voicebus.bus.messages.commands import RETRY, CommandError, ErrorCode
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core.state import Asked, State

K = TypeVar("K")
V = TypeVar("V")

ASKED_LIMIT = 64
"""Requests remembered by their ids; a provider's error comes soon or never."""


class Draft:
    """Made for one input and thrown away: the mutation inside is not seen outside."""

    __slots__ = ("effects", "now_us", "s")

    def __init__(self, state: State, now_us: int) -> None:
        self.s = replace(state)
        self.now_us = now_us
        self.effects: list[fx.Effect] = []

    def do(self, effect: fx.Effect) -> None:
        """Have it done."""
        self.effects.append(effect)

    def publish(self, data: Message, cause: str | None = None) -> None:
        """An event for everybody."""
        self.effects.append(fx.Publish(data, cause))

    def ask(
        self,
        request: fx.Request,
        what: str,
        *,
        cause: str | None = None,
        ref: str | None = None,
        after_n: int | None = None,
        token: str | None = None,
    ) -> str:
        """Send a request to the provider; its id finds `what`, `cause` and `ref` again."""
        event_id = f"vb_{self.s.generation}_{self.s.next_event}"
        self.s.next_event += 1
        asked = with_(self.s.asked, event_id, Asked(what=what, cause=cause, ref=ref))
        if len(asked) > ASKED_LIMIT:
            asked.pop(next(iter(asked)))
        self.s.asked = asked
        self.effects.append(fx.Ask(event_id, request, after_n, token))
        return event_id

    def tell(self, text: str, *, ref: str) -> None:
        """Let the model know something that nobody said, as soon as there is a connection."""
        if self.s.phase == "ready":
            self.ask(fx.AddContext(text), "add_context", ref=ref)
        else:
            self.s.untold = (*self.s.untold, (text, ref))

    def answer(self, command_id: str | None, data: Any = None, *, proven: bool = False) -> None:
        """The reply to a command, if one waits."""
        if command_id is not None:
            self.effects.append(fx.Answer(command_id, data, proven))

    def refuse(
        self,
        command_id: str,
        code: ErrorCode,
        message: str,
        *,
        after_ms: int | None = None,
        who: str = "session",
    ) -> None:
        """The reply to a command that cannot be done."""
        error = CommandError(
            code=code, message=message, retry=RETRY[code], after_ms=after_ms, who=who
        )
        self.effects.append(fx.Refuse(command_id, error))


def with_(mapping: dict[K, V], key: K, value: V) -> dict[K, V]:
    """The mapping with one entry set."""
    changed = mapping.copy()  # dict(mapping) takes ten times as long once something was removed
    changed[key] = value
    return changed


def without(mapping: dict[K, V], *keys: K) -> dict[K, V]:
    """The mapping without these entries."""
    changed = mapping.copy()
    for key in keys:
        changed.pop(key, None)
    return changed
