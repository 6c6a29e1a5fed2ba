"""What goes into the conversation and what comes out of it, apart from client and server events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What happens while an answer is given: the performer reports each step to the conversation.


@dataclass(frozen=True, slots=True)
class MessageBegan:
    """The answer holds a message at this place of its output."""

    response_id: str
    output_index: int


@dataclass(frozen=True, slots=True)
class SoundGrew:
    """Some more of a message's sound, in the response's output format."""

    response_id: str
    output_index: int
    sound: bytes


@dataclass(frozen=True, slots=True)
class WordsGrew:
    """Some more of a message's words: its transcript, or its text in a text response."""

    response_id: str
    output_index: int
    words: str


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """The message is whole."""

    response_id: str
    output_index: int


@dataclass(frozen=True, slots=True)
class CallBegan:
    """The answer holds a function call at this place of its output."""

    response_id: str
    output_index: int
    name: str
    call_id: str | None = None
    """None: the conversation gives one."""


@dataclass(frozen=True, slots=True)
class ArgumentsGrew:
    """Some more of a call's arguments, a piece of a JSON text."""

    response_id: str
    output_index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call's arguments are whole."""

    response_id: str
    output_index: int


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """Nothing more comes. What is still open is closed as incomplete unless `completed`."""

    response_id: str
    status: str = "completed"
    reason: str | None = None
    error: Mapping[str, Any] | None = None


Step = (
    MessageBegan
    | SoundGrew
    | WordsGrew
    | MessageEnded
    | CallBegan
    | ArgumentsGrew
    | CallEnded
    | AnswerEnded
)


# What the conversation wants done.


@dataclass(frozen=True, slots=True)
class Send:
    """A server event for the client."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listen:
    """How the ears must listen from now on. Sound they have not judged yet is forgotten."""

    detection: Mapping[str, Any] | None
    """The session's `turn_detection`; None is push-to-talk: nobody listens for speech."""
    audio_type: str
    from_ms: int
    """Where the stream clock stands."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Sound for the ears, in the session's input format."""

    sound: bytes


@dataclass(frozen=True, slots=True)
class Hear:
    """Find the words in this sound, and answer with `Conversation.heard`."""

    item_id: str
    sound: bytes
    audio_type: str


@dataclass(frozen=True, slots=True)
class Question:
    """All that an answer depends on."""

    response_id: str
    history: Sequence[Mapping[str, Any]]
    """Items as events show them, in order; `heard` holds what was said in a user's sound."""
    tools: Sequence[Mapping[str, Any]]
    tool_choice: Any
    instructions: str
    speaks: bool
    """False: text only."""
    audio_type: str
    speed: float = 1.0
    metadata: Mapping[str, str] | None = None
    is_out_of_band: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Think of an answer and report its steps."""

    question: Question


@dataclass(frozen=True, slots=True)
class StopAnswering:
    """The response is over: further steps are ignored."""

    response_id: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the client's socket."""

    code: int
    reason: str


Effect = Send | Listen | Feed | Hear | Answer | StopAnswering | Close


# What an answer consists of, before it is performed.


@dataclass(frozen=True, slots=True)
class Say:
    """A message: spoken in an audio response, written in a text response."""

    text: str
    tone_ms: int | None = None
    """Instead of a voice, a tone of this length; the text is its transcript."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function call."""

    name: str
    arguments: Mapping[str, Any] | str
    """A string goes out as it is, broken JSON included."""
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer: its parts in order, how it ends, and how it is paced."""

    parts: Sequence[Say | Call] = field(default=())
    status: str = "completed"
    reason: str | None = None
    error: Mapping[str, Any] | None = None
    delay_ms: int = 0
    """Wait this long after `response.created`."""
    pace: float | None = None
    """Times real time; 0 is at once; None is the server's own pace."""
    chunk_ms: int | None = None
    """Sound in each event; None is the server's own."""
    never_ends: bool = False
    cut_after_ms: int | None = None
    """End, as `status` says, after this much sound of the first message."""
    interleaved: bool = False
    """The arguments of all calls grow in turns."""
