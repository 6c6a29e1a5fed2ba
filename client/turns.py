"""Whose turn it is: a pure fold over events that knows when the assistant has finished."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from voicebus.bus.messages import events
from voicebus.client.events import Data

KEPT = 1000
"""So many of the latest calls and responses are remembered; each event copies what is."""


@dataclass(frozen=True)
class Turns:
    """What is still under way. `assistant_turn_completed` alone is no end: tools may follow."""

    is_due: bool = False
    """An answer has been asked for and has not begun."""
    is_speaking: bool = False
    """The caller is."""
    responses: frozenset[str] = frozenset()
    """Responses under way."""
    calls: frozenset[str] = frozenset()
    """Calls without an outcome."""
    asked_by: Mapping[str, str] = field(default_factory=dict)
    """Which response asked for a call, of the latest calls."""
    batches: frozenset[str] = frozenset()
    """Responses whose calls' outputs have not gone to the model."""
    answered: tuple[str, ...] = ()
    """Responses one of whose calls ended otherwise than cancelled; the latest."""
    stopped: tuple[str, ...] = ()
    """Responses that were interrupted: nothing need follow their calls. The latest."""
    last: events.AssistantTurnCompleted | None = None
    answers_speech: bool = True
    """False where nobody answers what the caller says until a program asks for it: in transcription
    sessions, and with `create_response: false`."""

    @property
    def is_quiet(self) -> bool:
        """Nothing is under way: the turn is the caller's."""
        return not (self.is_due or self.is_speaking or self.responses or self.calls or self.batches)


def expect(turns: Turns) -> Turns:
    """Something was said that wants an answer."""
    return replace(turns, is_due=True)


def fold(turns: Turns, data: Data) -> Turns:
    """An event happened."""
    match data:
        case events.UserSpeechStarted():
            return replace(turns, is_speaking=True)
        case events.UserSpeechStopped():
            is_due = turns.is_due or turns.answers_speech
            return replace(turns, is_speaking=False, is_due=is_due)
        case events.SessionResumed():
            # The connection that heard the caller begin is gone; nothing will tell the end.
            return replace(turns, is_speaking=False)
        case events.AssistantTurnStarted(turn_id=turn):
            return replace(turns, is_due=False, responses=turns.responses | {turn})
        case events.AssistantTurnCompleted(turn_id=turn, status=status):
            batches = turns.batches if status == "completed" else turns.batches - {turn}
            return replace(turns, responses=turns.responses - {turn}, batches=batches, last=data)
        case events.ToolCallStarted(turn_id=turn, call_id=call):
            return replace(
                turns,
                calls=turns.calls | {call},
                asked_by=_asked(turns.asked_by, call, turn),
                batches=turns.batches | {turn},
            )
        case events.ToolCallFailed(call_id=call, reason="cancelled"):
            return _cancelled(replace(turns, calls=turns.calls - {call}), call)
        case events.ToolCallCompleted(call_id=call) | events.ToolCallFailed(call_id=call):
            ended = turns.batches & {turns.asked_by.get(call, "")}
            answered = _latest(turns.answered, ended)
            return replace(turns, calls=turns.calls - {call}, answered=answered)
        case events.ToolBatchSubmitted(turn_id=turn, call_ids=submitted):
            # Of a response out of band nothing is submitted, and nothing follows.
            is_due = turns.is_due or (bool(submitted) and turn not in turns.stopped)
            return replace(turns, batches=turns.batches - {turn}, is_due=is_due)
        case events.Interrupted(responses=responses, calls=called):
            stopped = (
                *responses,
                *(turns.asked_by[call] for call in called if call in turns.asked_by),
            )
            return replace(
                turns,
                is_due=False,
                batches=turns.batches.difference(stopped),
                stopped=_latest(turns.stopped, stopped),
            )
        case _:
            return turns


def _cancelled(turns: Turns, call: str) -> Turns:
    """Calls that an interrupt cancelled before they ran may be all of their response's, which it
    did not name: the response had not been announced yet. Their outputs go nowhere."""
    turn = turns.asked_by.get(call, "")
    if turn in turns.answered or any(turns.asked_by.get(one) == turn for one in turns.calls):
        return turns
    stopped = _latest(turns.stopped, (turn,))
    return replace(turns, batches=turns.batches - {turn}, stopped=stopped)


def _asked(asked_by: Mapping[str, str], call: str, turn: str) -> Mapping[str, str]:
    asked = {**asked_by, call: turn}
    if len(asked) > KEPT:
        del asked[next(iter(asked))]
    return asked


def _latest(known: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    fresh = [one for one in dict.fromkeys(more) if one not in known]
    return (*known, *fresh)[-KEPT:]
