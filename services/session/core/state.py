"""The state of a conversation: a few small machines, each with a file of its own.

A state is a value: `step` copies the top and replaces what changes; an old state stays as it was.
"""

from typing import Any, Literal

import msgspec

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.work import Status, ToolSpec
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.core.inputs import Commanded, Item

Phase = Literal["new", "connecting", "configuring", "ready", "lost", "closed"]


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
    refusals: int = 0
    """How often it was refused because another response is active."""
    filler: bool = False
    """Only to bridge a silence: never asked for again."""
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
    answers: Create | None = None
    """The automatic create that it stands in for: it sees the outputs that stood when it began."""
    missed: bool = False
    """An output came to stand only after it had begun."""
    overtaken: bool = False
    """The provider has announced the next one of the conversation, so that it writes no more. Its
    end may still be told."""
    assumed: bool = False
    """Taken for ours though it bore no tag: a refusal of our create would prove otherwise."""
    items: dict[str, Literal["silent", "written", "sounding"]] = {}
    """Its messages, and what came of each."""
    words: dict[str, str] = {}
    """The words spoken so far, by item and content index."""
    whole: dict[str, str] = {}
    """The whole texts that were published, written or spoken: told twice, each is said once."""


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
    generation: int = 1
    """The connection that knows this item; another one cannot truncate it."""
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
    generation: int = 1
    """The connection whose conversation holds it; another one is told by context."""
    arguments: str = ""
    phase: CallPhase = "collecting"
    by: Literal["pool", "client"] = "pool"
    policy: Literal["cancel", "finish", "detach"] = "cancel"
    effects: Literal["none", "idempotent", "once"] = "once"
    args: dict[str, Any] = {}
    timeout_ms: int = 0
    grace_ms: int = 0
    """How long its code may clean up when it is told to stop."""
    background: bool = False
    """Nobody waits for it in silence: in the pool, those of callers who do come first."""
    began_us: int = 0
    """When it was handed over to be run."""
    until_us: int = 0
    """After this the session itself gives the call up."""
    status: Status | None = None
    output: str = ""
    """What the model is told."""
    ended_us: int = 0
    told: Literal["no", "output", "deleted", "placeholder", "apart"] = "no"
    """What became of it in the provider's conversation; `apart`: it never stood there."""
    late_status: Status | None = None
    """How it ended after all, where that was heard too late to be its outcome."""


class Batch(Part, frozen=True, kw_only=True):
    """All calls of a response. Holds its own turn, policy and place in the rounds."""

    response_id: str
    call_ids: tuple[str, ...]
    apart: bool = False
    """Of a response out of band: the outcomes are events, and what is made of them is the client's.
    An output would have no call to belong to, an answer in the conversation no question."""
    interrupted_us: int = 0
    filled: bool = False
    """Something was said while its tools ran."""
    settled: bool = False


class Asked(Part, frozen=True, kw_only=True):
    """What we asked under an event id, so that a refusal finds who wanted it."""

    what: str
    cause: str | None = None
    ref: str | None = None


class Commit(Part, frozen=True, kw_only=True):
    """A commit of the caller's sound that the provider has not yet confirmed."""

    event_id: str
    cause: str | None = None
    after_n: int | None = None
    token: str | None = None
    asked_us: int = 0


class Update(Part, frozen=True, kw_only=True):
    """A change of the configuration that the provider has not yet confirmed."""

    command_id: str
    config: SessionConfig
    fields: tuple[str, ...]
    tools: dict[str, ToolSpec]
    client_tools: tuple[str, ...]
    event_id: str = ""
    asked_us: int = 0


class ItemRecord(Part, frozen=True, kw_only=True):
    """An item of the conversation as we know it: for snapshots and for replaying history."""

    item: Item
    text: str = ""
    parts: dict[int, str] = {}
    """Its words by content index, where it was made of several pieces."""
    final: bool = False
    """The caller's words are transcribed; nothing more is expected."""
    placed: bool = True
    """False while nobody has said after which item it stands."""
    heard_ms: int | None = None
    heard_text: str | None = None
    generated_ms: int | None = None
    ours: bool = False
    """Asked for by us, under an id of ours, and not yet announced."""
    done: bool = False


class Speech(Part, frozen=True, kw_only=True):
    """A piece of the caller's speech, by the item that it becomes."""

    item_id: str
    over: bool = False
    at_ms: int = 0
    """Of what was told last, on the provider's clock."""


class State(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A conversation."""

    session_id: str = ""
    vendor: str = ""
    model: str = ""
    capabilities: Capabilities = Capabilities()
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
    confirmed_by: str | None = None
    """The provider's id of its last confirmation on this connection."""
    update: Update | None = None
    updates: tuple[Update, ...] = ()
    closing: tuple[str, str | None, str | None] | None = None
    """Reason, code and message of the `session_closed` that is due."""
    early: tuple[Commanded, ...] = ()
    """Commands that came before the provider had confirmed the configuration."""

    # recovery
    opened_once: bool = False
    """Whether `session_opened` was published."""
    attempt: int = 0
    redial_us: int = 0
    events_lost: bool = False
    new_transport: bool = False
    """The next connection is on a transport that does not know our tokens."""
    tokens_granted: dict[str, bool] = {}
    """Every token, and whether it may talk."""
    commanded: dict[str, int] = {}
    """By token, the `after_n` of the last command that was to be done in time with its sound."""
    no_commands: tuple[str, ...] = ()
    """Those of them that may not command."""
    sound: tuple[str, str] = ("", "")
    """Endpoints of the transport for sound in and out."""
    expires_us: int = 0
    rotate_us: int = 0
    expiring_told: bool = False
    hasty: bool = False
    """The connection says that it is about to end, as soon as it is there."""
    looked_us: int = 0
    turns: tuple[str, ...] = ()
    """The items of the caller's last turns: what is told of one twice is one turn, and no speech
    of now."""
    unanswered: bool = False
    """A user turn has been committed and no response to it has begun."""
    stifled: bool = False
    """The provider's answer to that turn was interrupted before it began."""
    untold: tuple[tuple[str, str], ...] = ()
    """What the model is to know and no connection was there to tell: text and reference."""
    commits: tuple[Commit, ...] = ()
    """Turns that clients have ended and the provider has not yet confirmed, oldest first."""
    given: dict[str, dict[str, Any]] = {}
    """Items as clients gave them, by id: what a new connection cannot get from a transcript."""

    # counters
    epoch: int = 0
    next_event: int = 1
    next_tag: int = 1
    asked: dict[str, Asked] = {}

    # responses
    responses: dict[str, Response] = {}
    creating: Create | None = None
    """The one create for the default conversation that is asked for and not yet announced."""
    apart: tuple[Create, ...] = ()
    """Those out of band that are asked for and not yet announced."""
    queue: tuple[Create, ...] = ()
    forgotten: tuple[str, ...] = ()
    """The last responses that are over and no longer in `responses`."""
    echoes: bool = False
    """The provider echoes our tags: a response without one is not ours."""

    # playback
    playback: dict[str, Playback] = {}
    hearing: Hearing | None = None
    reported_us: int = 0
    """When a player last said anything."""

    speaking_us: int = 0
    """Since when the caller speaks: nothing automatic begins now. 0 for silence."""
    speech: Speech | None = None
    """What the caller said last or is saying: told twice, it is published once."""

    # calls
    calls: dict[str, Call] = {}
    batches: dict[str, Batch] = {}
    rounds: int = 0
    """Tool rounds since the user last said something."""

    # conversation
    items: dict[str, ItemRecord] = {}
    """The latest of them: what changes with every turn stays small."""
    former: dict[str, ItemRecord] = {}
    """Those before."""
    order: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    """The last items that were deleted: what still comes of them begins nothing."""

    # lease and limits
    opened_us: int = 0
    lease_until_us: int = 0
    speaks_until_us: int = 0
    """The talker's sound may go on until then without being told again."""
    tokens: int = 0
