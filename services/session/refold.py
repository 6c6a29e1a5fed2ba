"""A conversation decided again: its recorded inputs, at their recorded times, by today's code."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.state import State
from voicebus.services.session.core.step import step
from voicebus.services.session.ledger import Ledger

_inputs: msgspec.json.Decoder[i.AnyInput] = msgspec.json.Decoder(i.AnyInput)


class Refolded(msgspec.Struct):
    """What the code decides."""

    events: list[dict[str, Any]] = []
    """Headers, numbered as they would be."""
    by_input: list[str] = []
    """For each event the input that led to it: its number and name."""
    inputs: int = 0
    is_whole: bool = True
    """Whether the inputs begin with the first."""
    submitted: Counter[str] = msgspec.field(default_factory=Counter)
    """Call id -> how often it goes to the pool."""
    outputs: Counter[tuple[int, str]] = msgspec.field(default_factory=Counter)
    """(provider connection, call id) -> how often its output is sent."""
    failure: str | None = None
    """Why it could not be decided to the end."""


def refold(session_id: str, recorded: Iterable[tuple[int, bytes]]) -> Refolded:
    """Fold all of it. Raises nothing: a core that fails is an answer, too."""
    found = Refolded()
    state = State(session_id=session_id)
    ledger = Ledger(session_id, "replay")
    for number, body in recorded:
        if not found.inputs and number != 1:
            found.is_whole = False
        found.inputs += 1
        try:
            event = _inputs.decode(body)
        except msgspec.DecodeError as error:
            found.failure = f"input {number} cannot be read by this version: {error}"
            return found
        name = f"input {number}, {type(event).__name__}"
        try:
            state, effects = step(state, event)
        except Exception as error:
            found.failure = f"{name}: the core raised {type(error).__name__}: {error}"
            return found
        for effect in effects:
            match effect:
                case fx.Publish(data, cause):
                    numbered = ledger.event(
                        data, epoch=state.epoch, at_us=event.now_us, cause=cause
                    )
                    found.events.append(msgspec.json.decode(numbered.header))
                    found.by_input.append(name)
                case fx.Submit(call_id=call_id):
                    found.submitted[call_id] += 1
                case fx.Ask(request=fx.AddOutput(call_id=call_id)):
                    found.outputs[(state.generation, call_id)] += 1
                case _:
                    pass
    return found
