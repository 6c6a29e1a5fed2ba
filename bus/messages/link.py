"""The link: provider events up from the transport, frames down from the session.

Both directions are numbered per session and kept until acknowledged, because ZeroMQ loses what is
in flight when a peer dies. `n` counts from 1 per session and direction; an acknowledgement is
cumulative. `generation` counts the provider connections of a session: what was meant for one is
refused by the next. The session's DEALER connects to the transport's ROUTER.
"""

from typing import Literal

from voicebus.bus.messages.base import Message
from voicebus.bus.messages.sound import AudioFormat

EndsInput = Literal["commit", "clear"]

# --- from the session down to the transport ---------------------------------------------------


class Down(Message, tag_field="kind", frozen=True, kw_only=True):
    """What a session tells its transport."""


class Hello(Down, tag="hello", frozen=True, kw_only=True):
    """A session process is here; it owns these sessions and has handled so many of their events."""

    shard: int
    inc: str
    protocol: tuple[int, ...] = (1,)
    sessions: dict[str, int]
    """Session id -> the last `n` up that it has journaled."""


class Ack(Down, tag="ack", frozen=True, kw_only=True):
    """Everything up to `n` is journaled; the transport may forget it.

    Sent each second even when empty: it is the session process's sign of life."""

    sessions: dict[str, int]


class Numbered(Down, tag="numbered", frozen=True, kw_only=True):
    """What numbered frames down have in common."""

    session_id: str
    n: int
    generation: int


class Dial(Numbered, tag="dial", frozen=True, kw_only=True):
    """Open the provider's socket. Its generation is this message's."""

    vendor: str
    model: str | None = None
    input_format: AudioFormat = "pcm16"
    output_format: AudioFormat = "pcm16"
    flush_on_speech: bool = False
    """Flush by itself when the provider reports speech: a restarting session delays no barge-in."""
    headless: bool = False


class SendFrame(Numbered, tag="send", frozen=True, kw_only=True):
    """Send the payload frame, one JSON text, to the provider: once, and in this order."""

    after_n: int | None = None
    """Not before this sound frame of the caller has gone out, or 500 ms have passed."""
    token: str | None = None
    """Whose sound frames `after_n` counts."""
    tell: bool = False
    """Answer with a FrameSent that says which of the two it was."""
    ends_input: EndsInput | None = None
    """What it does with the caller's sound that the provider has and that is no turn yet."""


class ReleaseSound(Numbered, tag="release", frozen=True, kw_only=True):
    """The configuration is confirmed: let the caller's sound through from now on."""

    flush_on_speech: bool = False
    keep_input: bool = False
    """Only commands end turns: what was written of one whose `commit` is not confirmed is written
    again on the next connection, before newer sound; the last 30 s of it."""


class GrantToken(Numbered, tag="grant", frozen=True, kw_only=True):
    """Who may send sound for this session."""

    token: str
    talk: bool
    commanded_n: int = -1
    """The sound before its last command: what is said after that waits for none any more."""


class HangUp(Numbered, tag="hangup", frozen=True, kw_only=True):
    """Close the provider's socket and forget the session's tokens."""

    after_n: int | None = None
    token: str | None = None


class Flush(Down, tag="flush", frozen=True, kw_only=True):
    """Never publish sound of these responses again; tell the players. Idempotent: unnumbered."""

    session_id: str
    responses: list[str]
    why: str


# --- from the transport up to the session -----------------------------------------------------


class Up(Message, tag_field="kind", frozen=True, kw_only=True):
    """What a transport tells the session process."""


class LinkWelcome(Up, tag="welcome", frozen=True, kw_only=True):
    """The answer to Hello. What is missing from `sessions` this transport does not know."""

    transport: int
    inc: str
    protocol: tuple[int, ...] = (1,)
    sessions: dict[str, int]
    """Session id -> the last `n` down that was handled."""
    audio_in: str
    audio_out: str


class LinkReset(Up, tag="reset", frozen=True, kw_only=True):
    """I do not know you: say Hello."""


class DownAck(Up, tag="down_ack", frozen=True, kw_only=True):
    """Everything down to `n` is done; the session may forget it."""

    sessions: dict[str, int]
    missing: list[str] = []
    """Of these the next one was left out: send again from `n + 1`."""


class Event(Up, tag="event", frozen=True, kw_only=True):
    """What numbered messages up have in common."""

    session_id: str
    n: int
    generation: int
    at_us: int


class ProviderOpened(Event, tag="opened", frozen=True, kw_only=True):
    """The provider's socket is open; nothing has been said yet."""


class ProviderFrame(Event, tag="frame", frozen=True, kw_only=True):
    """A frame of the provider's that is not sound: the payload frame, unchanged."""


class SoundPassed(Event, tag="sound", frozen=True, kw_only=True):
    """Sound went out on the audio lane; only what a decision needs is told."""

    turn_id: str
    item_id: str
    content_index: int
    samples: int
    """Of one piece, or of several that came one after the other."""
    published: bool = True
    """False when it came after a flush of its response."""


class Flushed(Event, tag="flushed", frozen=True, kw_only=True):
    """The transport flushed by itself: the provider reported speech."""

    responses: list[str]


class FrameSent(Event, tag="sent", frozen=True, kw_only=True):
    """A frame that waited for the caller's sound has gone out."""

    down_n: int
    reached: bool
    """False when 500 ms passed before the sound frame it waited for came."""


class SoundHeldDropped(Event, tag="sound_dropped", frozen=True, kw_only=True):
    """The caller's sound was held for too long; the oldest was dropped."""

    dropped_ms: int
    direction: Literal["in", "out"]
    why: str


ALIVE_EVERY_S = 5.0
"""`talker_alive` is told at most so often."""


class TalkerAlive(Event, tag="talker_alive", frozen=True, kw_only=True):
    """The caller's sound is flowing: told at most every 5 s while it is.

    Renews the lease, which runs from when this would be told again."""


class ProviderClosed(Event, tag="closed", frozen=True, kw_only=True):
    """The provider's socket is closed, or could not be opened."""

    code: int | None = None
    """WebSocket close code; None when the handshake failed."""
    http_status: int | None = None
    reason: str = ""
    events_lost: bool = False
    by_us: bool = False
    error: str | None = None
    """Why nobody was dialled, where that is ours to name: `no_key`."""


ANY_DOWN = Hello | Ack | Dial | SendFrame | ReleaseSound | GrantToken | HangUp | Flush
ANY_UP = (
    LinkWelcome
    | LinkReset
    | DownAck
    | ProviderOpened
    | ProviderFrame
    | SoundPassed
    | Flushed
    | FrameSent
    | SoundHeldDropped
    | TalkerAlive
    | ProviderClosed
)
