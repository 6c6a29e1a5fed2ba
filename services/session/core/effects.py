"""What shall be done. The shell does it and decides nothing.

`Flush` and `Broadcast` are done at once, because a caller must hear silence at once and both are
idempotent; everything else is done after the input that caused it has been journaled.
"""

from typing import Any, Literal

import msgspec

from voicebus.bus.messages.base import Message
from voicebus.bus.messages.commands import CommandError, SessionConfig
from voicebus.bus.messages.work import ToolSpec


class Effect(msgspec.Struct, frozen=True):
    """A deed."""


# --- at once ----------------------------------------------------------------------------------


class Flush(Effect, frozen=True):
    """Silence these responses at the players, now and for ever."""

    responses: tuple[str, ...]
    why: str


class Broadcast(Effect, frozen=True):
    """Tell every worker on the bus that these calls must stop."""

    what: Literal["interrupt", "call", "close"]
    epoch: int
    call_ids: tuple[str, ...]
    reason: str


# --- after the commit -------------------------------------------------------------------------


class Publish(Effect, frozen=True):
    """An event, numbered by the shell."""

    data: Message
    cause: str | None = None


class Answer(Effect, frozen=True):
    """The reply to a command."""

    command_id: str
    data: Any = None
    proven: bool = False
    """The last event published before this answer proves it; its seq goes into the reply."""


class Refuse(Effect, frozen=True):
    """The reply to a command that cannot be done."""

    command_id: str
    error: CommandError


class Dial(Effect, frozen=True):
    """Have the transport open the provider's socket."""

    generation: int
    vendor: str
    model: str
    flush_on_speech: bool


class Release(Effect, frozen=True):
    """The configuration is confirmed: let the caller's sound through."""

    flush_on_speech: bool
    keep_input: bool = False
    """Only commands end turns: what the provider was given of one that has not ended is written
    again on the next connection."""


class Grant(Effect, frozen=True):
    """This token may send sound, or only listen."""

    token: str
    talk: bool
    commanded_n: int = -1
    """The `after_n` of its last command, for a transport that has not seen that."""


class HangUp(Effect, frozen=True):
    """Close the provider's socket."""

    after_n: int | None = None
    token: str | None = None


class Submit(Effect, frozen=True):
    """Hand a call to the tool pool."""

    call_id: str
    tool: str
    args: dict[str, Any]
    epoch: int
    budget_ms: int
    background: bool = False


class Defer(Effect, frozen=True):
    """Tell the pool that nobody waits for these calls any more: others come first."""

    call_ids: tuple[str, ...]


class CancelCalls(Effect, frozen=True):
    """Tell the pool, in order, what was broadcast: whichever comes first."""

    call_ids: tuple[str, ...]
    epoch: int
    reason: str


class ForgetOutcome(Effect, frozen=True):
    """The outcome of this call is safe here; the pool may forget it."""

    call_id: str


class TurnBoundary(Effect, frozen=True):
    """A good moment for a snapshot."""


class End(Effect, frozen=True):
    """The conversation is over."""


# --- requests to the provider, in our words; a translator makes frames of them -----------------


class Request(msgspec.Struct, frozen=True):
    """Something to ask of the provider."""


class Configure(Request, frozen=True):
    """Set the session up, whole or (with `only`) just these fields."""

    config: SessionConfig
    tools: tuple[ToolSpec, ...]
    only: tuple[str, ...] | None = None


class AddUserText(Request, frozen=True):
    """The caller wrote something."""

    text: str


class AddItem(Request, frozen=True):
    """An item as the client gave it."""

    item: dict[str, Any]


class AddMessage(Request, frozen=True):
    """A message of a former connection, told again."""

    role: str
    text: str
    item_id: str


class AddCall(Request, frozen=True):
    """A call of a former connection; its output follows."""

    call_id: str
    name: str
    arguments: str
    item_id: str


class AddOutput(Request, frozen=True):
    """The output of a call."""

    call_id: str
    output: str


class AddContext(Request, frozen=True):
    """Something the model should know; nobody said it."""

    text: str


class DeleteItem(Request, frozen=True):
    """Take an item out of the conversation."""

    item_id: str


class TruncateItem(Request, frozen=True):
    """Forget what of this item was not heard."""

    item_id: str
    content_index: int
    heard_ms: int


class CommitInput(Request, frozen=True):
    """What the caller said so far is a turn."""


class ClearInput(Request, frozen=True):
    """Forget what the caller said so far."""


TAG = "voicebus"
"""The key of our tag in a response's metadata, by which it is known again."""


class CreateResponse(Request, frozen=True):
    """Answer now."""

    tag: str
    overrides: dict[str, Any]
    tool_choice: str | None = None


class CancelResponse(Request, frozen=True):
    """Stop this response."""

    response_id: str


class Ask(Effect, frozen=True):
    """Send a request to the provider, under an id that comes back with its errors."""

    event_id: str
    request: Request
    after_n: int | None = None
    token: str | None = None
