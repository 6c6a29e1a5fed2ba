"""What can happen to a conversation, in our words. Translators make the provider's part of it.

Every input is a plain value and is journaled: feeding the same ones again gives the same state.
"""

from typing import Any, Literal

import msgspec

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import Usage
from voicebus.bus.messages.work import Failure, Status, ToolSpec
from voicebus.services.session.core.capabilities import Capabilities


class Input(msgspec.Struct, frozen=True, kw_only=True, tag_field="input", omit_defaults=True):
    """Something that happened, at `now_us` (Unix microseconds that never run backwards)."""

    now_us: int = 0


# --- the client -------------------------------------------------------------------------------


class SessionRequested(Input, frozen=True, kw_only=True):
    """`open` was accepted: here is everything the conversation needs to begin."""

    command_id: str
    session_id: str
    config: SessionConfig
    tools: list[ToolSpec]
    client_tools: list[str] = []
    """Those of `tools` that the client runs itself."""
    transport: int
    token: str
    vendor: str
    model: str
    opened: dict[str, Any]
    """The data of the reply."""
    capabilities: Capabilities = Capabilities()


class Attached(Input, frozen=True, kw_only=True):
    """Another client joins."""

    command_id: str
    token: str
    talk: bool
    command: bool = True
    opened: dict[str, Any]


class Commanded(Input, frozen=True, kw_only=True):
    """A command whose form is right."""

    command_id: str
    command: str
    data: dict[str, Any]
    answered: bool = True
    """False: it waited for the provider, and an interrupt withdrew the model's answer to it."""


class UpdateRequested(Input, frozen=True, kw_only=True):
    """`update` was accepted: these fields of `config` shall hold from now on."""

    command_id: str
    config: SessionConfig
    fields: list[str]
    tools: list[ToolSpec]
    client_tools: list[str] = []


class TalkerSeen(Input, frozen=True, kw_only=True):
    """The talker gave a sign of life."""

    speaks: bool = False
    """Its sound: while that goes on, it is told again only after `ALIVE_EVERY_S`."""


class TimePassed(Input, frozen=True, kw_only=True):
    """A deadline of the state has come."""


# --- the provider's connection ----------------------------------------------------------------


class ProviderConnected(Input, frozen=True, kw_only=True):
    """The socket is open."""

    generation: int


class ProviderDisconnected(Input, frozen=True, kw_only=True):
    """The socket is closed or could not be opened."""

    generation: int
    code: int | None = None
    http_status: int | None = None
    reason: str = ""
    by_us: bool = False
    events_lost: bool = False
    """The transport had to drop events that we have not seen."""
    error: str | None = None
    """Our own word for why nobody was dialled: `no_key`."""


class TransportLost(Input, frozen=True, kw_only=True):
    """The transport process has forgotten this conversation: it was restarted, or is gone."""

    transport: int | None = None
    """Another one takes over; None: its successor."""
    audio_in: str = ""
    audio_out: str = ""
    unattended_s: float = 0.0
    """No session process was there either, until so long after the talker's lease had ended."""
    orders_unknown: int = 0
    """Not the transport is lost but what it knows of us: so many of its orders came from a session
    process that died with a journal which it could not write."""


class TransportLeft(Input, frozen=True, kw_only=True):
    """The transport is being stopped and nobody speaks: another one takes over."""

    transport: int
    audio_in: str
    audio_out: str


class SoundFlushed(Input, frozen=True, kw_only=True):
    """The transport flushed by itself when the provider heard the caller."""

    responses: list[str]


class SoundLost(Input, frozen=True, kw_only=True):
    """Sound was dropped at a bound."""

    direction: Literal["in", "out"]
    dropped_ms: int
    why: str


# --- what the provider says -------------------------------------------------------------------


class ProviderSessionCreated(Input, frozen=True, kw_only=True):
    """The provider's session exists, with its own defaults."""

    provider_session_id: str | None = None
    model: str | None = None
    expires_at: int | None = None


class ProviderSessionUpdated(Input, frozen=True, kw_only=True):
    """The provider confirmed a configuration."""

    event_id: str | None = None
    """The provider's own id of this confirmation: told twice, it is the same one."""
    session: dict[str, Any]
    provider_session_id: str | None = None
    model: str | None = None
    expires_at: int | None = None


class SpeechStarted(Input, frozen=True, kw_only=True):
    """The provider's turn detection heard the caller begin."""

    at_ms: int
    item_id: str | None = None


class SpeechStopped(Input, frozen=True, kw_only=True):
    """… and end."""

    at_ms: int
    item_id: str | None = None


class InputCommitted(Input, frozen=True, kw_only=True):
    """The caller's sound became an item: a user turn."""

    item_id: str
    previous_item_id: str | None = None


class UserWords(Input, frozen=True, kw_only=True):
    """A piece of the caller's words, or all of them when `final`."""

    item_id: str
    text: str
    final: bool
    cumulative: bool = False
    """The text is all that was said so far, and may correct what was sent before."""
    usage: dict[str, Any] | None = None
    """What the transcription cost, in the provider's words."""


class UserWordsFailed(Input, frozen=True, kw_only=True):
    """The provider could not transcribe this item."""

    item_id: str
    message: str


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation item as far as we need it."""

    item_id: str
    type: str
    """message, function_call, function_call_output, …"""
    role: str | None = None
    status: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    text: str | None = None
    """Words of a message, where the provider gives them."""


class ItemAdded(Input, frozen=True, kw_only=True):
    """An item stands in the conversation, after `previous_item_id`. May come twice."""

    item: Item
    previous_item_id: str | None = None
    done: bool = False


class ItemDeleted(Input, frozen=True, kw_only=True):
    """An item is gone."""

    item_id: str


class ResponseStarted(Input, frozen=True, kw_only=True):
    """The provider began a response."""

    response_id: str
    tag: str | None = None
    """Ours, echoed in its metadata; None when it does not echo or did not come from us."""
    out_of_band: bool = False


class OutputItemAdded(Input, frozen=True, kw_only=True):
    """A response began an item."""

    response_id: str
    output_index: int
    item: Item


class OutputItemDone(Input, frozen=True, kw_only=True):
    """A response closed an item. Closed, not necessarily completed: see its status."""

    response_id: str
    output_index: int
    item: Item


class AssistantWords(Input, frozen=True, kw_only=True):
    """A piece of an answer, or all of it when `final`; written, or the words of spoken sound."""

    response_id: str
    item_id: str
    content_index: int
    text: str
    final: bool
    spoken: bool


class ArgumentsWords(Input, frozen=True, kw_only=True):
    """A piece of a call's arguments."""

    response_id: str
    item_id: str
    call_id: str
    delta: str


class SoundPublished(Input, frozen=True, kw_only=True):
    """So many samples of an item went out to the players."""

    response_id: str
    item_id: str
    content_index: int
    samples: int


class SoundDone(Input, frozen=True, kw_only=True):
    """No more sound of this item will come."""

    response_id: str
    item_id: str
    content_index: int


ResponseStatus = Literal["completed", "cancelled", "incomplete", "failed"]


class ResponseDone(Input, frozen=True, kw_only=True):
    """A response is over."""

    response_id: str
    status: ResponseStatus
    reason: str | None = None
    error: dict[str, Any] | None = None
    usage: Usage | None = None
    output: list[Item] = []
    rate_limited: bool = False
    retry_after_ms: int | None = None
    out_of_band: bool = False
    tag: str | None = None
    fatal: bool = False
    """It failed for a reason that no repetition helps against: the session ends."""


class LimitsTold(Input, frozen=True, kw_only=True):
    """The provider's budgets, for information."""

    limits: list[dict[str, Any]]


class ProviderRefused(Input, frozen=True, kw_only=True):
    """The provider's error event."""

    code: str
    message: str
    event_id: str | None = None
    """Which of our requests caused it, if it says so."""
    meaning: Literal["benign", "already_active", "fatal", "expired", "other"] = "other"
    about: Literal["configuration", "response"] | None = None
    """What it refuses, as far as its wording tells; for providers that name no request."""
    details: dict[str, Any] = {}
    rate_limited: bool = False
    retry_after_ms: int | None = None


# --- the tool pool ----------------------------------------------------------------------------


class ToolBegan(Input, frozen=True, kw_only=True):
    """A runner took the call."""

    call_id: str


class ToolSaid(Input, frozen=True, kw_only=True):
    """A running tool reported progress."""

    call_id: str
    text: str


class ToolEnded(Input, frozen=True, kw_only=True):
    """How a call ended in the pool."""

    call_id: str
    status: Status
    result: Any = None
    failure: Failure | None = None
    duration_ms: float | None = None
    cancel_seen_us: int | None = None


AnyInput = (
    SessionRequested
    | Attached
    | Commanded
    | UpdateRequested
    | TalkerSeen
    | TimePassed
    | ProviderConnected
    | ProviderDisconnected
    | TransportLost
    | TransportLeft
    | SoundFlushed
    | SoundLost
    | ProviderSessionCreated
    | ProviderSessionUpdated
    | SpeechStarted
    | SpeechStopped
    | InputCommitted
    | UserWords
    | UserWordsFailed
    | ItemAdded
    | ItemDeleted
    | ResponseStarted
    | OutputItemAdded
    | OutputItemDone
    | AssistantWords
    | ArgumentsWords
    | SoundPublished
    | SoundDone
    | ResponseDone
    | LimitsTold
    | ProviderRefused
    | ToolBegan
    | ToolSaid
    | ToolEnded
)
