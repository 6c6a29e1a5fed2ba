"""A conversation decided again: its recorded inputs, at their recorded times, by today's code."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.state import Call, State
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
    """Whether all inputs are there, from the first on."""
    submitted: Counter[str] = msgspec.field(default_factory=Counter)
    """Call id -> how often it goes to the pool."""
    outputs: Counter[tuple[int, str]] = msgspec.field(default_factory=Counter)
    """(provider connection, call id) -> how often its output is sent."""
    deleted: Counter[str] = msgspec.field(default_factory=Counter)
    """Call id -> how often its item is deleted from the conversation that holds it."""
    dangling: list[str] = []
    """Calls that ended, and of which the model was told nothing: no output, no deleted item."""
    failure: str | None = None
    """Why it could not be decided to the end."""


def is_decided(event: dict[str, Any]) -> bool:
    """Whether it came of an input. What the process says of itself has none: that its journal
    cannot be written, and that another version had decided before it."""
    data = event.get("data", {})
    says = (event["kind"], data.get("code"), data.get("snapshot_required"))
    return not (says[:2] == ("error", "journal_lost") or says == ("session_resumed", None, True))


def refold(session_id: str, recorded: Iterable[tuple[int, bytes]]) -> Refolded:
    """Fold all of it. Raises nothing: a core that fails is an answer, too."""
    found = Refolded()
    state = State(session_id=session_id)
    ledger = Ledger(session_id, "replay")
    told = _Told()
    for number, body in recorded:
        found.inputs += 1
        if number != found.inputs:
            found.is_whole = False
            return found
        try:
            event = _inputs.decode(body)
        except msgspec.DecodeError as error:
            found.failure = f"input {number} cannot be read by this version: {error}"
            return found
        name = f"input {number}, {type(event).__name__}"
        before = state
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
                    told.of.add(call_id)
                case fx.Ask(request=fx.DeleteItem(item_id=item_id)):
                    told.deleted.add(item_id)
                case fx.Ask(event_id=event_id, request=fx.AddContext()) if event_id in state.asked:
                    told.of.add(state.asked[event_id].ref or "")
                case _:
                    pass
        told.stepped(before, state)
    found.deleted = Counter(key for key, call in told.calls.items() if call.item_id in told.deleted)
    found.dangling = told.dangling(state)
    return found


class _Told:
    """What the model was told of each call, by what went to the provider."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        """As they were last: the core forgets old ones."""
        self.of: set[str] = set()
        self.deleted: set[str] = set()
        self.excused: set[str] = set()
        """Their conversation was over, or another connection's, when it came to telling."""

    def stepped(self, before: State, after: State) -> None:
        """The core has taken a step."""
        if after.calls is before.calls:
            return
        self.calls |= after.calls
        for key, call in after.calls.items():
            known = before.calls.get(key)
            is_closing = after.phase == "closed" and (known is None or known.phase != "ended")
            is_apart = call.told == "apart"  # it stood in no conversation
            is_gone = call.told == "deleted" and call.generation != after.generation
            if is_closing or is_apart or (is_gone and (known is None or known.told != "deleted")):
                self.excused.add(key)

    def dangling(self, state: State) -> list[str]:
        """Those that have ended, wait for no sibling and no connection, and were passed over."""
        waiting = {key for one in state.batches.values() if not one.settled for key in one.call_ids}
        waiting |= {key for _, key in state.untold}
        return [
            key
            for key, call in self.calls.items()
            if call.phase == "ended"
            and call.item_id not in self.deleted
            and key not in self.of | self.excused | waiting
        ]
