"""The event lane: what a session says happened. Numbered, journaled, replayable.

Kinds and payload names follow Mojentic's realtime events, so that its users find their way; what it
does not have is ours. Ids: `turn_id` is the provider's response id.
"""

from typing import Any, Literal

import msgspec

from voicebus.bus.messages.base import Message, registry


class EventHeader(Message, frozen=True, kw_only=True):
    """The header of every event; `data` is one of the kinds below."""

    v: int = 1
    kind: str
    session_id: str
    """Empty on the `welcome` of a subscription that covers more than one."""
    seq: int | None = None
    """Counts from 1 per session without gaps; None on `welcome` and `head`."""
    prev: int | None = None
    """The seq of the previous message on this exact topic; 0 for the first."""
    epoch: int = 0
    """Raised by every interrupt of this session."""
    inc: str = ""
    """The publisher's incarnation: another one means that it was restarted."""
    at_us: int = 0
    """Unix time in microseconds."""
    cause: str | None = None
    """The id of the command that led to this, if one did."""
    data: msgspec.Raw | dict[str, Any] = {}


class Usage(Message, frozen=True, kw_only=True):
    """Tokens of one response."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    extras: dict[str, Any] = {}
    """The provider's own breakdown: `input_token_details`, `output_token_details`."""


class SessionOpened(Message, frozen=True, kw_only=True):
    """The provider has confirmed the configuration; sound and text flow from here on."""

    session_id: str
    provider: str
    provider_session_id: str | None = None
    model: str | None = None
    expires_at: int | None = None
    """When the provider ends its session, in Unix seconds, if it says so."""


class SessionUpdated(Message, frozen=True, kw_only=True):
    """The provider has confirmed a change of the configuration."""

    instructions: str | None = None
    config: dict[str, Any] = {}
    """The effective session as the provider echoes it."""
    lease_s: float | None = None
    """As it is now; null from a session process of an older version."""


class SessionClosed(Message, frozen=True, kw_only=True):
    """The last event of a session."""

    reason: Literal["client", "server", "error", "abandoned", "limit", "transport_lost"]
    """client: by `close`; server: by the provider; abandoned: its lease ended; limit:
    `max_duration_s` or `max_tokens_total`; transport_lost: its transport died, and dialling
    again could not help."""
    code: str | None = None
    """The WebSocket close code or our error code."""
    message: str | None = None


class SessionReconnecting(Message, frozen=True, kw_only=True):
    """The provider's socket is gone; another is being opened."""

    reason: str
    attempt: int


class SessionResumed(Message, frozen=True, kw_only=True):
    """A new provider connection stands in for the lost one."""

    transport: str
    audio_in: str
    """Where the caller's sound goes from now on, …"""
    audio_out: str
    """… and where the assistant's comes from."""
    history: Literal["complete", "partial"]
    """partial: of what was said before, the provider could not be told everything."""
    events_lost: bool = False
    """What the provider said in between is lost."""
    snapshot_required: bool = False
    """The state may be another than the events before told: take a `snapshot`."""


class SessionExpiring(Message, frozen=True, kw_only=True):
    """The provider will end its session soon."""

    at: int
    """In Unix seconds."""


class UserSpeechStarted(Message, frozen=True, kw_only=True):
    """The provider's turn detection heard the caller begin."""

    at_ms: int
    """As the provider counts: since the beginning of the sound that it was sent."""
    item_id: str | None = None


class UserSpeechStopped(Message, frozen=True, kw_only=True):
    """The provider's turn detection heard the caller end."""

    at_ms: int
    """As the provider counts: since the beginning of the sound that it was sent."""
    item_id: str | None = None


class UserTranscriptDelta(Message, frozen=True, kw_only=True):
    """A piece of what the caller said."""

    item_id: str
    delta: str
    corrected: str | None = None
    """Everything so far, when the provider took back some of it: replace what you have."""


class UserTranscript(Message, frozen=True, kw_only=True):
    """What the caller said, whole. May come after the answer to it."""

    item_id: str
    text: str
    usage: dict[str, Any] | None = None
    """What the transcription cost, as the provider bills it: apart from the responses' tokens."""


class AssistantTurnStarted(Message, frozen=True, kw_only=True):
    """The provider began a response."""

    turn_id: str


class AssistantTextDelta(Message, frozen=True, kw_only=True):
    """A piece of a written answer."""

    turn_id: str
    item_id: str
    content_index: int
    delta: str


class AssistantText(Message, frozen=True, kw_only=True):
    """A written answer, whole."""

    turn_id: str
    item_id: str
    content_index: int
    text: str


class AssistantTranscriptDelta(Message, frozen=True, kw_only=True):
    """A piece of the words of a spoken answer."""

    turn_id: str
    item_id: str
    content_index: int
    delta: str


class AssistantTranscript(Message, frozen=True, kw_only=True):
    """The words of a spoken answer, whole: generated, not necessarily heard."""

    turn_id: str
    item_id: str
    content_index: int
    text: str


class AssistantAudioDone(Message, frozen=True, kw_only=True):
    """The last sound of this item has been handed to the audio lane."""

    turn_id: str
    item_id: str
    content_index: int
    samples: int
    """Of the whole item."""


class AssistantHeard(Message, frozen=True, kw_only=True):
    """How much of an item the caller heard."""

    turn_id: str
    item_id: str
    content_index: int
    heard_ms: int
    """From the item's beginning."""
    complete: bool
    """It was played to its end."""
    estimated: bool
    """True when the player did not say; then it is its last report plus the time since."""
    text: str | None = None
    """The words heard, estimated from the transcript and the time; None when there are none."""


class AssistantTurnCompleted(Message, frozen=True, kw_only=True):
    """The provider finished a response. Generated, not necessarily heard."""

    turn_id: str
    status: Literal["completed", "cancelled", "incomplete", "failed"]
    reason: str | None = None
    """turn_detected, client_cancelled, max_output_tokens, content_filter, transport_lost, …"""
    error: dict[str, Any] | None = None
    usage: Usage | None = None


class ToolCallStarted(Message, frozen=True, kw_only=True):
    """The model began to ask for a tool; its arguments are still coming."""

    turn_id: str
    call_id: str
    name: str


class ToolCallArgsDelta(Message, frozen=True, kw_only=True):
    """A piece of a call's arguments, as JSON text."""

    call_id: str
    delta: str


class ToolCallDispatched(Message, frozen=True, kw_only=True):
    """A call was handed to the tool pool, or to the client whose tool it is."""

    call_id: str
    name: str
    args: dict[str, Any]
    by: Literal["pool", "client"] = "pool"
    """client: one of the clients runs it, and answers with `submit_tool_output`."""
    timeout_ms: int | None = None
    """How long its answer is waited for."""


class ToolCallProgress(Message, frozen=True, kw_only=True):
    """A running tool said how far it is."""

    call_id: str
    name: str
    text: str


class ToolCallCompleted(Message, frozen=True, kw_only=True):
    """A call ended well. Exactly one of this and ToolCallFailed exists per call."""

    call_id: str
    name: str
    result: Any
    duration_ms: float | None = None


FailureReason = Literal[
    "error",
    "invalid_arguments",
    "unknown_tool",
    "timeout",
    "crashed",
    "cancelled",
    "lost",
    "unknown",
    "busy",
    "denied",
]
"""Why a call has no result. `lost`: it certainly did not finish and will not be tried again.
`unknown`: it may have run."""


class ToolCallFailed(Message, frozen=True, kw_only=True):
    """A call ended without a result. Exactly one of this and ToolCallCompleted exists per call."""

    call_id: str
    name: str
    reason: FailureReason
    error: str
    exit_code: int | None = None
    signal: str | None = None
    stderr_tail: str | None = None
    duration_ms: float | None = None
    cancel_seen_us: int | None = None
    """Unix microseconds when the running tool saw that it should stop, if it looked."""


class ToolCallLateResult(Message, frozen=True, kw_only=True):
    """A tool answered after its call had ended otherwise. Never passed off as in time."""

    call_id: str
    name: str
    result: Any


class ApprovalRequested(Message, frozen=True, kw_only=True):
    """A call waits for a person's yes: the `approve` command."""

    call_id: str
    name: str
    args: dict[str, Any]
    timeout_ms: int | None = None
    """How long it waits; then it is `denied`."""


class ToolBatchSubmitted(Message, frozen=True, kw_only=True):
    """The outputs of a response's calls went to the model, in this order."""

    turn_id: str
    call_ids: list[str]
    """Empty for a response out of band: its calls stand in no conversation, their outcomes are the
    client's."""


class Interrupted(Message, frozen=True, kw_only=True):
    """The assistant was stopped. Players stop the sound of `responses`."""

    turn_id: str | None
    reason: Literal["barge_in", "manual"]
    responses: list[str]
    calls: list[str] = []
    """The calls that were told to stop."""


class RateLimits(Message, frozen=True, kw_only=True):
    """The provider's budgets, for information."""

    limits: list[dict[str, Any]]


class RateLimited(Message, frozen=True, kw_only=True):
    """The provider refused something because a budget is used up."""

    reset_ms: int
    details: dict[str, Any] = {}


class Error(Message, frozen=True, kw_only=True):
    """Something went wrong. The session goes on if `recoverable`."""

    code: str
    """One of ours (`journal_lost`, `provider_error`, …) or the provider's own."""
    error: str
    recoverable: bool
    details: dict[str, Any] = {}


class AudioDropped(Message, frozen=True, kw_only=True):
    """Sound was thrown away because a bound was reached."""

    direction: Literal["in", "out"]
    """in: the caller's; out: the assistant's."""
    dropped_ms: int
    why: str


class Head(Message, frozen=True, kw_only=True):
    """A beacon each second: where the lane stands, so that a lost tail is seen. Unnumbered."""

    seq: int
    topics: dict[str, int] = {}
    """The last seq of each kind."""
    state: str = "open"
    """`open`; `closed` for a minute after the end, for those who missed it."""


class Welcome(Message, frozen=True, kw_only=True):
    """The answer to a subscription, on the very string subscribed: now the filter is active."""

    heads: dict[str, int]
    """The last seq of every live session that the subscription covers."""
    protocol: tuple[int, ...] = (1,)


EVENTS = registry(
    SessionOpened,
    SessionUpdated,
    SessionClosed,
    SessionReconnecting,
    SessionResumed,
    SessionExpiring,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscriptDelta,
    UserTranscript,
    AssistantTurnStarted,
    AssistantTextDelta,
    AssistantText,
    AssistantTranscriptDelta,
    AssistantTranscript,
    AssistantAudioDone,
    AssistantHeard,
    AssistantTurnCompleted,
    ToolCallStarted,
    ToolCallArgsDelta,
    ToolCallDispatched,
    ToolCallProgress,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallLateResult,
    ApprovalRequested,
    ToolBatchSubmitted,
    Interrupted,
    RateLimits,
    RateLimited,
    Error,
    AudioDropped,
    Head,
    Welcome,
)


class Cancel(Message, frozen=True, kw_only=True):
    """The broadcast that workers poll, on `cancel/<sid>/<interrupt|call|close>`. Unnumbered."""

    v: int = 1
    session_id: str
    epoch: int
    call_ids: list[str]
    """The calls that must stop; a worker ignores the others."""
    reason: str
    at_us: int = 0
