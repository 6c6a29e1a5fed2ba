"""Session policy x tool policy x state of the call at the interrupt: each cell of the table.

The table of docs/session.md is drawn from the same cells.
"""

from typing import NamedTuple

import pytest

from voicebus.bus.messages.commands import OnInterrupt, SessionConfig
from voicebus.bus.messages.work import Effects, ToolOnInterrupt
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.testing import (
    Stage,
    call,
    created,
    done,
    of,
    tool,
    tool_failed,
    tool_ok,
)

BACKGROUND = {"deleted", "running"}
"""What the model was told at once of a call that runs on: then nobody waits for it in silence."""


class Cell(NamedTuple):
    """What becomes of a call that is interrupted."""

    stopped: bool
    """Whether its tool is told to stop."""
    at_once: str
    """What the model is told of it at the interrupt: output, running, deleted or nothing."""
    later: str
    """And when it ends: output, context or nothing."""
    answered: bool
    """Whether a response follows."""


def said_of(effects: list[fx.Effect]) -> str:
    """What was said to the model of the call c1."""
    for one in of(effects, fx.AddOutput):
        if one.call_id == "c1":
            return "running" if '"running"' in one.output else "output"
    if fx.DeleteItem("item-c1") in of(effects, fx.DeleteItem):
        return "deleted" + (" + context" if of(effects, fx.AddContext) else "")
    return "context" if of(effects, fx.AddContext) else "nothing"


def play(
    session: OnInterrupt, policy: ToolOnInterrupt, when: str, effects: Effects = "once"
) -> Cell:
    """Interrupt by hand while c1 is queued, running or finished and its sibling still runs."""
    config = SessionConfig(turn_detection="none", on_interrupt=session)
    tools = [tool("a", on_interrupt=policy, effects=effects), tool("b", effects="none")]
    stage = Stage(config, tools=tools)
    stage.play(created(), *call("r1", "c1", "a"), *call("r1", "c2", "b", 1), done())
    if when == "running":
        stage.play(i.ToolBegan(call_id="c1"))
    elif when == "finished":
        stage.play(tool_ok("c1"))
    interrupted = stage.command("interrupt")
    deferred = "c1" in [key for one in of(interrupted, fx.Defer) for key in one.call_ids]
    stopped = "c1" in [one for told in of(interrupted, fx.Broadcast) for one in told.call_ids]
    ended = stage.play(tool_failed("c2", "cancelled"))
    if when != "finished":
        was_stopped = stopped and when == "queued"
        ended += stage.play(tool_failed("c1", "cancelled") if was_stopped else tool_ok("c1"))
    answered = bool(of([*interrupted, *ended], fx.CreateResponse))
    assert deferred is (when != "finished" and not stopped and said_of(interrupted) in BACKGROUND)
    return Cell(stopped, said_of(interrupted), said_of(ended), answered)


DROP: OnInterrupt = "drop"
SUBMIT: OnInterrupt = "submit"
COMPLETED: OnInterrupt = "submit-completed-only"

CELLS: list[tuple[OnInterrupt, ToolOnInterrupt, str, Cell]] = [
    (DROP, "cancel", "queued", Cell(True, "deleted", "nothing", False)),
    (DROP, "cancel", "running", Cell(True, "deleted", "context", False)),
    (DROP, "cancel", "finished", Cell(False, "deleted + context", "nothing", False)),
    (DROP, "finish", "queued", Cell(False, "deleted", "context", False)),
    (DROP, "finish", "running", Cell(False, "deleted", "context", False)),
    (DROP, "finish", "finished", Cell(False, "deleted + context", "nothing", False)),
    (DROP, "detach", "queued", Cell(False, "running", "context", True)),
    (DROP, "detach", "running", Cell(False, "running", "context", True)),
    (DROP, "detach", "finished", Cell(False, "deleted + context", "nothing", False)),
    (SUBMIT, "cancel", "queued", Cell(True, "nothing", "output", True)),
    (SUBMIT, "cancel", "running", Cell(True, "nothing", "output", True)),
    (SUBMIT, "cancel", "finished", Cell(False, "nothing", "output", True)),
    (SUBMIT, "finish", "queued", Cell(False, "nothing", "output", True)),
    (SUBMIT, "finish", "running", Cell(False, "nothing", "output", True)),
    (SUBMIT, "finish", "finished", Cell(False, "nothing", "output", True)),
    (SUBMIT, "detach", "queued", Cell(False, "running", "context", True)),
    (SUBMIT, "detach", "running", Cell(False, "running", "context", True)),
    (SUBMIT, "detach", "finished", Cell(False, "nothing", "output", True)),
    (COMPLETED, "cancel", "queued", Cell(True, "deleted", "nothing", False)),
    (COMPLETED, "cancel", "running", Cell(True, "deleted", "context", False)),
    (COMPLETED, "cancel", "finished", Cell(False, "output", "nothing", True)),
    (COMPLETED, "finish", "queued", Cell(False, "deleted", "context", False)),
    (COMPLETED, "finish", "running", Cell(False, "deleted", "context", False)),
    (COMPLETED, "finish", "finished", Cell(False, "output", "nothing", True)),
    (COMPLETED, "detach", "queued", Cell(False, "running", "context", True)),
    (COMPLETED, "detach", "running", Cell(False, "running", "context", True)),
    (COMPLETED, "detach", "finished", Cell(False, "output", "nothing", True)),
]


@pytest.mark.parametrize(("session", "policy", "when", "expected"), CELLS)
def test_cell(session: OnInterrupt, policy: ToolOnInterrupt, when: str, expected: Cell) -> None:
    assert play(session, policy, when) == expected


@pytest.mark.parametrize(("session", "policy", "when", "expected"), CELLS)
def test_a_tool_without_effects_is_passed_over_in_silence_where_one_with_is_told(
    session: OnInterrupt, policy: ToolOnInterrupt, when: str, expected: Cell
) -> None:
    harmless = play(session, policy, when, "none")

    silent = expected.later == "context" and expected.at_once == "deleted"
    assert harmless.later == ("nothing" if silent else expected.later)
    assert harmless.at_once == expected.at_once.removesuffix(" + context")


def test_a_call_that_failed_before_the_interrupt_is_no_completed_one() -> None:
    config = SessionConfig(turn_detection="none", on_interrupt=COMPLETED)
    stage = Stage(config, tools=[tool("a"), tool("b")])
    stage.play(created(), *call("r1", "c1", "a"), *call("r1", "c2", "b", 1), done())
    stage.play(tool_failed("c1", "unknown"))

    effects = stage.command("interrupt")

    assert said_of(effects) == "deleted + context"


def test_a_result_that_came_after_the_interrupt_is_no_completed_one() -> None:
    config = SessionConfig(turn_detection="none", on_interrupt=COMPLETED)
    stage = Stage(config, tools=[tool("a", effects="none")])
    stage.play(created(), *call("r1", "c1", "a"), done())
    stage.command("interrupt")

    assert of(stage.play(tool_ok("c1")), fx.AddOutput) == []


@pytest.mark.parametrize(
    ("session", "expected", "answered"),
    [(DROP, "deleted", False), (SUBMIT, "output", True), (COMPLETED, "deleted", False)],
)
def test_calls_of_a_response_that_was_interrupted_as_it_was_finished_never_run(
    session: OnInterrupt, expected: str, answered: bool
) -> None:
    config = SessionConfig(turn_detection="none", on_interrupt=session)
    stage = Stage(config, tools=[tool("a")])
    stage.play(created(), *call("r1", "c1", "a"))
    stage.command("interrupt")

    effects = stage.play(done())

    assert of(effects, fx.Submit) == []
    assert said_of(effects) == expected
    assert bool(of(effects, fx.CreateResponse)) is answered
