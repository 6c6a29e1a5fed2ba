"""What the demo saw and when, and what follows from it. Values in, lines out; nothing is guessed:
what was not measured is shown as `-`. All times are Unix microseconds.
"""

from dataclasses import dataclass, field
from typing import Any

from voicebus.bus.messages import events
from voicebus.bus.messages.sound import RATE_HZ
from voicebus.cli import lines
from voicebus.client import Event, Heard, Sound, SoundFlush
from voicebus.client.player import Played

UNKNOWN = "-"


@dataclass
class Line:
    """One line of the transcript."""

    who: str
    text: str = ""
    turn_id: str | None = None
    is_final: bool = False
    sound_ms: float = 0.0
    """How much sound of it came, which may be more than was heard."""
    heard_ms: int | None = None
    is_complete: bool = True
    """Heard to its end."""


@dataclass
class ToolRun:
    """One call."""

    name: str
    args: dict[str, Any]
    began_us: int
    ended_us: int | None = None
    outcome: str = "is still running"
    duration_ms: float | None = None
    is_cancelled: bool = False
    saw_cancel_us: int | None = None
    """When the tool's own code saw that it should stop."""


@dataclass
class Notebook:
    """Fed with events and sound as they come."""

    transcript: dict[str, Line] = field(default_factory=dict)
    """By item id, in the order of the conversation."""
    tools: dict[str, ToolRun] = field(default_factory=dict)
    """By call id."""
    said: list[tuple[int, int]] = field(default_factory=list)
    """When each recording's voice began and ended."""
    sounds: list[tuple[int, str]] = field(default_factory=list)
    """When each response's first sound came, and which response."""
    flushes: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    speech_at: list[int] = field(default_factory=list)
    """When the provider's report of a caller's speech was published."""
    interrupted_at: list[int] = field(default_factory=list)
    heard_ms: dict[str, float] = field(default_factory=dict)
    """By response: what the player has played."""

    # --- what happens -------------------------------------------------------------------------

    def note(self, event: Event) -> None:
        """An event came."""
        match event.data:
            case events.UserSpeechStarted():
                self.speech_at.append(event.at_us)
            case events.UserSpeechStopped(item_id=str() as item):
                self._line(item, "caller")
            case events.UserTranscript(item_id=item, text=text):
                line = self._line(item, "caller")
                line.text, line.is_final = text, True
            case events.AssistantTranscriptDelta(item_id=item, delta=delta, turn_id=turn):
                line = self._line(item, "assistant", turn)
                if not line.is_final:
                    line.text += delta
            case events.AssistantTranscript(item_id=item, text=text, turn_id=turn):
                line = self._line(item, "assistant", turn)
                line.text, line.is_final = text, True
            case events.AssistantHeard(item_id=item, turn_id=turn) as heard:
                line = self._line(item, "assistant", turn)
                line.heard_ms, line.is_complete = heard.heard_ms, heard.complete
            case events.Interrupted():
                self.interrupted_at.append(event.at_us)
            case _:
                self._note_tool(event)

    def came(self, piece: Heard, at_us: int) -> None:
        """Sound, an end or a flush arrived at the player."""
        match piece:
            case Sound():
                if all(turn != piece.turn_id for _, turn in self.sounds):
                    self.sounds.append((at_us, piece.turn_id))
                line = self._line(piece.item_id, "assistant", piece.turn_id)
                line.sound_ms += piece.count * 1000 / RATE_HZ[piece.format]
            case SoundFlush():
                self.flushes.append((at_us, piece.responses))
            case _:
                pass

    def heard(self, played: Played) -> None:
        """The player has played this."""
        size = len(played.samples) / (2 if played.format == "pcm16" else 1)
        before = self.heard_ms.get(played.turn_id, 0.0)
        self.heard_ms[played.turn_id] = before + size * 1000 / RATE_HZ[played.format]

    def _line(self, item_id: str, who: str, turn_id: str | None = None) -> Line:
        return self.transcript.setdefault(item_id, Line(who, turn_id=turn_id))

    def _note_tool(self, event: Event) -> None:
        match event.data:
            case events.ToolCallDispatched(call_id=call, name=name, args=args):
                self.tools[call] = ToolRun(name, args, event.at_us)
            case events.ToolCallCompleted(call_id=call) as done if call in self.tools:
                run = self.tools[call]
                run.ended_us, run.duration_ms = event.at_us, done.duration_ms
                run.outcome = f"-> {lines.shown(done.result)}"
            case events.ToolCallFailed(call_id=call) as failed if call in self.tools:
                run = self.tools[call]
                run.ended_us, run.duration_ms = event.at_us, failed.duration_ms
                run.is_cancelled = failed.reason == "cancelled"
                run.saw_cancel_us = failed.cancel_seen_us
                run.outcome = f"{failed.reason}: {failed.error}"
            case _:
                pass

    # --- what follows from it -----------------------------------------------------------------

    def running(self) -> list[ToolRun]:
        """The calls without an outcome."""
        return [run for run in self.tools.values() if run.ended_us is None]

    def began_before_interrupt(self, turn_id: str) -> bool:
        """Whether that response was heard before the caller interrupted, or nobody has."""
        first_us = next((at for at, turn in self.sounds if turn == turn_id), 0)
        return not self.interrupted_at or first_us < self.interrupted_at[0]

    def unheard_ms(self, turn_id: str) -> float:
        """Sound of that response that came and has not been played."""
        came = sum(line.sound_ms for line in self.transcript.values() if line.turn_id == turn_id)
        return came - self.heard_ms.get(turn_id, 0.0)

    def shortcoming(self) -> str | None:
        """What the demo should have shown and has not: one that shows nothing must not end well."""
        if not any(run.outcome.startswith("->") for run in self.tools.values()):
            return "the question was answered without its tool"
        if not self.interrupted_at or not self.flushes:
            return "the caller spoke, but the long answer was not interrupted"
        if not any(run.is_cancelled for run in self.tools.values()):
            return "the interrupt did not stop the running tool"
        if all(line.is_complete for line in self.transcript.values()):
            return "the interrupted answer was not cut to what was heard"
        return None

    def to_first_sound_ms(self, saying: int) -> float | None:
        """From the end of the caller's speech to the first sound of the answer."""
        if saying >= len(self.said):
            return None
        ended_us = self.said[saying][1]
        return _span(ended_us, next((at for at, _ in self.sounds if at >= ended_us), None))

    def silence_ms(self, saying: int) -> tuple[float | None, float | None]:
        """From the caller's first sound, and from the provider's report of speech as the session
        published it, to the flush at the player."""
        if saying >= len(self.said):
            return None, None
        began_us = self.said[saying][0]
        flushed_us = next((at for at, _ in self.flushes if at >= began_us), None)
        reported_us = next((at for at in self.speech_at if at >= began_us), None)
        return _span(began_us, flushed_us), _span(reported_us, flushed_us)

    def tool_stopped_ms(self) -> float | None:
        """From the interruption to the outcome of the tool that it stopped."""
        return self._since_interrupt(
            [run.ended_us for run in self.tools.values() if run.is_cancelled]
        )

    def tool_saw_ms(self) -> float | None:
        """From the interruption to the moment at which the tool's own code saw it."""
        return self._since_interrupt(
            [run.saw_cancel_us for run in self.tools.values() if run.is_cancelled]
        )

    def _since_interrupt(self, moments: list[int | None]) -> float | None:
        if not moments or moments[0] is None:
            return None
        before = [at for at in self.interrupted_at if at <= moments[0]]
        return _span(before[-1] if before else None, moments[0])


def spoken(line: Line) -> tuple[str, str]:
    """The words that were heard and those that were not, divided in proportion to time."""
    if line.who != "assistant" or line.is_complete or line.heard_ms is None or not line.sound_ms:
        return line.text, ""
    words = line.text.split()
    count = round(len(words) * min(line.heard_ms / line.sound_ms, 1.0))
    return " ".join(words[:count]), " ".join(words[count:])


def milliseconds(value: float | None) -> str:
    """`12.3 ms`, or `-` for what was not measured."""
    return UNKNOWN if value is None else f"{value:.1f} ms"


def _span(begin_us: int | None, end_us: int | None) -> float | None:
    return None if begin_us is None or end_us is None else (end_us - begin_us) / 1000
