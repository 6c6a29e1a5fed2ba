"""The state of a conversation: a few small machines, each with a file of its own.

A state is a value: `step` copies the top and replaces what changes; an old state stays as it was.
"""

from typing import Any, Literal

import msgspec

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.work import Status, ToolSpec
from voicebus.services.session.core.inputs import Commanded, Item

Phase = Literal["new", "connecting", "configuring", "ready", "closing", "closed"]


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of the state; never changed, only replaced."""


class Create(Part, frozen=True, kw_only=True):
    """A response that somebody wants. The scheduler decides when to ask for it."""

    tag: str
    automatic: bool
    """After tool outputs; such ones coalesce. A client's own keep their number and order."""
    cause: str | None = None
    overrides: dict[str, Any] = {}
    out_of_band: bool = False
    tool_choice: str | None = None
    attempt: int = 1
    not_before_us: int = 0
    asked_us: int = 0
    event_id: str | None = None
    unwanted: bool = False
    """Interrupted before it was announced: to be cancelled by id as soon as it is."""


class Response(Part, frozen=True, kw_only=True):
    """A response of the provider's, from its announcement until its sound is heard."""

    response_id: str
    out_of_band: bool
    cause: str | None
    create: Create | None
    started_us: int
    seen_us: int
    active: bool = True
    cancelling: bool = False
    interrupted: bool = False


class Playback(Part, frozen=True, kw_only=True):
    """What of an item went to the players, and what they said of it."""

    response_id: str
    item_id: str
    content_index: int
    received: int = 0
    """Samples published."""
    complete: bool = False
    """No more will come."""
    first_us: int
    played_ms: int = 0
    reported_us: int = 0
    """When the player last spoke of this item; 0 for never."""
    player: Literal["silent", "playing", "stopped", "done"] = "silent"


class Hearing(Part, frozen=True, kw_only=True):
    """An interruption waits, a little, for the player to say where it stopped."""

    since_us: int
    until_us: int
    keys: tuple[str, ...]


CallPhase = Literal["collecting", "ready", "asking", "running", "cancelling", "ended"]


class Call(Part, frozen=True, kw_only=True):
    """A tool call of the model's: exactly one outcome, and one output or a deleted item."""

    call_id: str
    item_id: str
    response_id: str
    output_index: int
    name: str
    arguments: str = ""
    phase: CallPhase = "collecting"
    by: Literal["pool", "client"] = "pool"
    policy: Literal["cancel", "finish", "detach"] = "cancel"
    effects: Literal["none", "idempotent", "once"] = "once"
    args: dict[str, Any] = {}
    timeout_ms: int = 0
    until_us: int = 0
    """After this the session itself gives the call up."""
    status: Status | None = None
    output: str = ""
    """What the model is told."""
    ended_us: int = 0
    told: Literal["no", "output", "deleted", "placeholder"] = "no"
    """What became of it in the provider's conversation."""


class Batch(Part, frozen=True, kw_only=True):
    """All calls of a response. Holds its own turn, policy and place in the rounds."""

    response_id: str
    call_ids: tuple[str, ...]
    interrupted_us: int = 0
    settled: bool = False


class Asked(Part, frozen=True, kw_only=True):
    """What we asked under an event id, so that a refusal finds who wanted it."""

    what: str
    cause: str | None = None
    ref: str | None = None


class Update(Part, frozen=True, kw_only=True):
    """A change of the configuration that the provider has not yet confirmed."""

    command_id: str
    config: SessionConfig
    fields: tuple[str, ...]
    tools: dict[str, ToolSpec]
    client_tools: tuple[str, ...]
    event_id: str = ""


class ItemRecord(Part, frozen=True, kw_only=True):
    """An item of the conversation as we know it: for snapshots and for replaying history."""

    item: Item
    text: str = ""
    heard_ms: int | None = None
    generated_ms: int | None = None
    done: bool = False


class State(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A conversation."""

    session_id: str = ""
    vendor: str = ""
    model: str = ""
    transport: int = 0
    config: SessionConfig = msgspec.field(default_factory=SessionConfig)
    tools: dict[str, ToolSpec] = {}
    client_tools: tuple[str, ...] = ()
    talker: str | None = None
    """The sound token that `after_n` counts, unless a command names another."""

    # link
    phase: Phase = "new"
    phase_us: int = 0
    generation: int = 0
    provider_session_id: str | None = None
    expires_at: int | None = None
    update: Update | None = None
    updates: tuple[Update, ...] = ()
    closing: tuple[str, str | None, str | None] | None = None
    """Reason, code and message of the `session_closed` that is due."""
    early: tuple[Commanded, ...] = ()
    """Commands that came before the provider had confirmed the configuration."""

    # counters
    epoch: int = 0
    next_event: int = 1
    next_tag: int = 1
    asked: dict[str, Asked] = {}

    # responses
    responses: dict[str, Response] = {}
    creating: Create | None = None
    queue: tuple[Create, ...] = ()

    # playback
    playback: dict[str, Playback] = {}
    hearing: Hearing | None = None

    speaking: bool = False
    """The caller speaks: nothing automatic begins now."""

    # calls
    calls: dict[str, Call] = {}
    batches: dict[str, Batch] = {}
    rounds: int = 0
    """Tool rounds since the user last said something."""

    # conversation
    items: dict[str, ItemRecord] = {}
    order: tuple[str, ...] = ()

    # lease and limits
    opened_us: int = 0
    lease_until_us: int = 0
    tokens: int = 0
