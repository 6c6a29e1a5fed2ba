"""The command plane: what a client may ask of a session, and what it is told.

A client's DEALER or REQ sends one Command and gets exactly one Reply. `ok` means journaled.
"""

from typing import Any, Literal

import msgspec

from voicebus.bus.messages.base import Message, registry
from voicebus.bus.messages.sound import AudioFormat
from voicebus.bus.messages.work import ToolSpec

ErrorCode = Literal[
    "bad_request",
    "unsupported",
    "not_allowed",
    "no_such_session",
    "moved",
    "gone",
    "busy",
    "draining",
    "conflict",
    "timeout",
    "provider_error",
    "tool_unavailable",
    "internal",
]

RETRY: dict[str, bool] = {
    "bad_request": False,
    "unsupported": False,
    "not_allowed": False,
    "no_such_session": False,
    "moved": True,
    "gone": False,
    "busy": True,
    "draining": True,
    "conflict": False,
    "timeout": True,
    "provider_error": False,
    "tool_unavailable": True,
    "internal": False,
}
"""What each code means for trying again; with the same id a retry is always safe."""


class CommandError(Message, frozen=True, kw_only=True):
    """Why a command was refused."""

    code: ErrorCode
    message: str
    """Who, what, which limit, and what to do."""
    retry: bool = False
    after_ms: int | None = None
    """Not before so long; None: as you like."""
    who: str = "session"
    """Who refused it: `session`, `provider`, `relay` or `gateway`."""


class Command(Message, frozen=True, kw_only=True):
    """A request. The same id again within 10 minutes gets the same reply; changed: `conflict`."""

    v: int = 1
    id: str
    """A ULID or UUID of the client's."""
    command: str
    session_id: str | None = None
    token: str | None = None
    """Of `open` or `attach`: the command may do what its rights allow. None: everything."""
    data: dict[str, Any] = {}


class Reply(Message, frozen=True, kw_only=True):
    """The one answer to a command."""

    v: int = 1
    id: str
    ok: bool
    seq: int | None = None
    """The event that proves it; None where nothing is published."""
    data: Any = None
    error: CommandError | None = None

    def __post_init__(self) -> None:
        if self.ok == (self.error is not None):
            raise ValueError("a reply is either ok or an error")


class ServerVad(
    Message, omit_defaults=True, tag_field="type", tag="server_vad", frozen=True, kw_only=True
):
    """Turn detection by silence. Unset fields are left to the provider."""

    threshold: float | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: int | None = None


class SemanticVad(
    Message, omit_defaults=True, tag_field="type", tag="semantic_vad", frozen=True, kw_only=True
):
    """Turn detection by meaning. Unset fields are left to the provider."""

    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None


class Filler(Message, frozen=True, kw_only=True):
    """What the assistant says when a tool keeps the caller waiting in silence: once per round."""

    after_ms: int = 2000
    """From when the tool was called, or the last sound was heard."""
    instructions: str = (
        "A tool is still running. Say in one short sentence, in the language of the conversation, "
        "that you are looking it up and will be right back. Do not guess what comes of it."
    )
    """Added to those of the conversation, for this response."""


OnInterrupt = Literal["drop", "submit", "submit-completed-only"]


class SessionConfig(Message, frozen=True, kw_only=True):
    """How a conversation is held: Mojentic's fields under their own names, then ours."""

    instructions: str | None = None
    voice: str | dict[str, Any] | None = None
    modalities: tuple[Literal["audio", "text"], ...] = ("audio", "text")
    """How it answers: with sound and its words, or `text` alone."""
    input_audio_format: AudioFormat = "pcm16"
    output_audio_format: AudioFormat = "pcm16"
    turn_detection: ServerVad | SemanticVad | Literal["server_vad", "semantic_vad", "none"] = (
        "server_vad"
    )
    """Who finds the ends of what the caller says; none: the client, by `commit_audio`
    (push-to-talk)."""
    input_audio_transcription: dict[str, Any] | Literal[False] | None = None
    """The provider's transcription settings; None means on with the provider's default model."""
    tools: list[str | dict[str, Any]] | Literal["*"] = "*"
    """Names of the catalogue, and whole function schemas, which are then the client's own tools."""
    tool_choice: str | dict[str, Any] = "auto"
    """As the provider takes it: auto, none, required, or a tool by name."""
    max_response_output_tokens: int | Literal["inf"] | None = None
    """None: as many as the provider allows."""
    on_interrupt: OnInterrupt = "drop"
    """What the model is told of calls that an interrupt meets: docs/tools.md."""
    provider_extras: dict[str, Any] = {}
    """Merged deeply into the provider's session object."""

    session_type: Literal["realtime", "transcription"] = "realtime"
    """transcription: the provider only writes down what is said and never answers. What is said of
    answers and tools (instructions, voice, …) is then told as a warning, and refused by `update`.
    """
    noise_reduction: Literal["near_field", "far_field"] | None = None
    speed: float | None = None
    """How fast the assistant speaks; 1 is normal."""
    prompt: dict[str, Any] | None = None
    """A prompt kept at the provider: `id`, `version`, `variables`."""
    tracing: Literal["auto"] | dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | dict[str, Any] | None = None
    """What the provider forgets when the conversation grows too long."""
    reasoning: dict[str, Any] | None = None
    """`effort`, for models that reason."""
    parallel_tool_calls: bool | None = None
    include: tuple[str, ...] = ()
    """Extra fields of the provider's events, such as the transcription's logprobs."""

    model: str | None = None
    """None: the one of the settings."""
    provider: str = "openai"
    """`openai`, `azure` or `xai`."""
    headless: bool = False
    """No player listens: sound is not kept back for one."""
    lease_s: float = 60.0
    """A session whose talkers give no sign of life for so long (sound, `ping`, a command other than
    `snapshot` and `replay`) closes as `abandoned`. Sound is looked for every 5 s: after the last
    of it the lease may run so much longer."""
    max_duration_s: float | None = None
    """Then it closes with the reason `limit`; None: no limit."""
    max_tokens_total: int | None = None
    """Likewise, as the provider counts them."""
    tool_timeout_s: float | None = None
    """The longest that any call of this session may take; None leaves it to the tools."""
    approval_timeout_s: float = 60.0
    """How long a call may wait for `approve`; after it, it is `denied`."""
    filler: Filler | None = None
    """Something to say while a tool takes its time; None: the caller hears nothing."""


class Open(Message, frozen=True, kw_only=True):
    """Start a session. Goes to any shard; the reply's data is an Opened."""

    config: dict[str, Any] = {}
    """Fields of SessionConfig, those that differ from its defaults."""


class Opened(Message, frozen=True, kw_only=True):
    """Where a session's sound goes and with which right."""

    session_id: str
    token: str
    """Right to this session: for its sound, and in commands."""
    transport: str
    """The name of the one that has its sound."""
    audio_in: str
    """Endpoint of the transport's sound-in ROUTER."""
    audio_out: str
    """Endpoint of the transport's sound-out publisher."""
    events: str
    commands: str
    seq: int = 0
    """Of its last event."""
    warnings: list[str] = []
    """What to know of the configuration that was asked for, in words for people."""


class Attach(Message, frozen=True, kw_only=True):
    """Join a session that exists; the reply's data is an Opened with a token of its own."""

    rights: tuple[Literal["talk", "listen", "command"], ...] = ("talk", "listen", "command")


class SendText(Message, frozen=True, kw_only=True):
    """Say something in writing and have it answered."""

    text: str


class AddItem(Message, frozen=True, kw_only=True):
    """Put a message, image or piece of history into the conversation; nothing answers it."""

    item: dict[str, Any]
    """A conversation item as the provider takes it, in the form of OpenAI Realtime's; goes on as
    it is. What the provider refuses comes as an `error` event with this command as `cause`."""


class CommitAudio(Message, frozen=True, kw_only=True):
    """Push-to-talk: what was said so far is a turn. Performed after sound frame `after_n`."""

    after_n: int | None = None
    """Performed after this sound frame has gone out; None: at once."""
    token: str | None = None
    """Whose sound frames `after_n` counts; the newest talker's if not given."""
    respond: bool = True
    """Have it answered, where the turn detection does not see to that."""


class ClearAudio(Message, frozen=True, kw_only=True):
    """Forget what was said so far and not committed. Performed after sound frame `after_n`."""

    after_n: int | None = None
    """As in `commit_audio`."""
    token: str | None = None
    """As in `commit_audio`."""


class CreateResponse(Message, frozen=True, kw_only=True):
    """Have the model answer now."""

    overrides: dict[str, Any] = {}
    """Fields of the provider's `response`, for this one: `instructions`, `tool_choice`, …;
    `"conversation": "none"` for an answer out of band. `metadata` may hold 15 keys."""


class Interrupt(Message, frozen=True, kw_only=True):
    """Stop the assistant: its sound at once, its response, and the tools that may be stopped.

    What waits to be answered is not: neither a response that waits for its turn, nor commands that
    wait for the provider's connection, which are done all the same.
    """


class Update(Message, frozen=True, kw_only=True):
    """Change the configuration; committed when the provider confirms it."""

    config: dict[str, Any]
    """Fields of SessionConfig, those that change."""


class ReportPlayback(Message, frozen=True, kw_only=True):
    """What the player has played: every 250 ms and at each stop, from the talker."""

    item_id: str
    """As the sound's header names it."""
    content_index: int = 0
    played_ms: int
    """Of this item, from its first sample on: not of the whole conversation."""
    state: Literal["playing", "stopped", "done"]
    """playing: it goes on; stopped: at a flush, or because the player stands still; done: it was
    played to its `end`."""


class SubmitToolOutput(Message, frozen=True, kw_only=True):
    """The result of a tool that the client runs itself."""

    call_id: str
    result: Any = None
    """What the model is told, if there is no error."""
    error: str | None = None
    """Why there is no result, in words for the model."""


class Approve(Message, frozen=True, kw_only=True):
    """Allow or deny a call that waits for it."""

    call_id: str
    approve: bool
    reason: str | None = None
    """In words for the model, when it is denied."""


class Snapshot(Message, frozen=True, kw_only=True):
    """The state of a session: heads, epoch, link, configuration, items, open calls, responses."""


class Replay(Message, frozen=True, kw_only=True):
    """Events again, from memory or journal. The reply's data is a Replayed."""

    from_seq: int = msgspec.field(name="from", default=1)
    to_seq: int | None = msgspec.field(name="to", default=None)
    """The last one wanted, itself included; None, or beyond the end: all there are."""
    limit: int = 200
    """So many in one reply, 1 to 200."""


class Replayed(Message, frozen=True, kw_only=True):
    """A page of events, each as its header, of at most about 1 MB; `next` is where to go on, null
    at the end."""

    events: list[msgspec.Raw]
    next: int | None


class List(Message, frozen=True, kw_only=True):
    """The sessions of this shard."""


class Catalogue(Message, frozen=True, kw_only=True):
    """The tools of the pool, with their schemas."""


class Close(Message, frozen=True, kw_only=True):
    """End the session. Performed after sound frame `after_n`."""

    after_n: int | None = None
    """As in `commit_audio`."""
    token: str | None = None
    """As in `commit_audio`."""


class Ping(Message, frozen=True, kw_only=True):
    """Is anybody there? With a session it also renews its lease."""


class Schema(Message, frozen=True, kw_only=True):
    """This protocol as JSON Schema and AsyncAPI; the reply's data is a Schemas."""

    name: str | None = None
    """One file, such as `events.json`; without it only the names."""


class Schemas(Message, frozen=True, kw_only=True):
    """What there is, and the one that was asked for."""

    protocol: tuple[int, ...] = (1,)
    names: list[str]
    schema: dict[str, Any] | None = None


class Interrupted(Message, frozen=True, kw_only=True):
    """Whether there was anything to stop; if so, `seq` is that of the event `interrupted`."""

    interrupted: bool


class SessionLine(Message, frozen=True, kw_only=True):
    """A session in a list."""

    session_id: str
    seq: int
    """Of its last event."""
    state: Literal["new", "connecting", "configuring", "ready", "lost", "closed"]
    silent: bool
    """Nobody speaks, and nothing is about to be said: another transport may take it over."""
    transport: str
    model: str
    provider: str
    created_us: int


class Listed(Message, frozen=True, kw_only=True):
    """The sessions of this shard that have not ended; through the relay those of all that you may
    see."""

    sessions: list[SessionLine]


class LinkShown(Message, frozen=True, kw_only=True):
    """How a session is connected with its provider."""

    state: Literal["new", "connecting", "configuring", "ready", "lost", "closed"]
    transport: str
    generation: int
    """Counts its connections."""
    provider_session_id: str | None
    expires_at: int | None
    """When the provider ends its session, in Unix seconds, if it says so."""


class ItemShown(Message, frozen=True, kw_only=True):
    """An item of the conversation."""

    item_id: str
    type: str
    """`message`, `function_call`, `function_call_output`, …"""
    role: str | None = None
    status: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    text: str | None
    """The words of it, as far as they are known."""
    heard_ms: int | None
    """How much of its sound the caller has heard; null before that is known."""
    generated_ms: int | None


class CallShown(Message, frozen=True, kw_only=True):
    """A tool call that has not ended."""

    call_id: str
    name: str
    state: Literal["collecting", "ready", "asking", "running", "cancelling"]
    turn_id: str


class ResponseShown(Message, frozen=True, kw_only=True):
    """A response that is being made."""

    turn_id: str
    out_of_band: bool


class SessionState(SessionLine, frozen=True, kw_only=True):
    """The session as it is now: what follows has a `seq` greater than this one's. It is answered
    for a minute after the end; later it is `gone`, and `replay` still answers."""

    inc: str
    heads: dict[str, int]
    """The last `seq` of each kind."""
    epoch: int
    link: LinkShown
    config: SessionConfig
    tools: list[str]
    items: list[ItemShown]
    """In the order of the conversation."""
    calls: list[CallShown]
    responses: list[ResponseShown]
    tokens: int
    """Used so far, as the provider counts them."""


class Offered(Message, frozen=True, kw_only=True):
    """The tools of the pool."""

    tools: list[ToolSpec]


class Pong(Message, frozen=True, kw_only=True):
    """Who answers."""

    inc: str
    shard: int


COMMANDS = registry(
    Open,
    Attach,
    SendText,
    AddItem,
    CommitAudio,
    ClearAudio,
    CreateResponse,
    Interrupt,
    Update,
    ReportPlayback,
    SubmitToolOutput,
    Approve,
    Snapshot,
    Replay,
    List,
    Catalogue,
    Close,
    Ping,
    Schema,
)
ANSWERS: dict[str, type[Message]] = {
    "open": Opened,
    "attach": Opened,
    "interrupt": Interrupted,
    "snapshot": SessionState,
    "replay": Replayed,
    "list": Listed,
    "catalogue": Offered,
    "ping": Pong,
    "schema": Schemas,
}
"""The type of a reply's data; those of the other commands hold none."""
SHARD_COMMANDS = frozenset({"open", "list", "catalogue", "ping", "schema"})
"""Commands that need no session."""
READ_ONLY = frozenset({"attach", "catalogue", "list", "ping", "replay", "schema", "snapshot"})
"""Commands that change nothing: a token with no other right than `listen` may send them."""
SPEAKING = frozenset({"clear_audio", "commit_audio", "report_playback"})
"""Commands that belong to sound: the right to `talk` is enough."""
