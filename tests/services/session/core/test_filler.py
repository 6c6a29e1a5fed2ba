"""What is said while a tool keeps the caller waiting."""

import pytest

from voicebus.bus.messages.commands import Filler, SessionConfig
from voicebus.bus.messages.events import ToolBatchSubmitted
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.testing import (
    Stage,
    call,
    created,
    done,
    message,
    of,
    refused,
    sound,
    sound_end,
    speech_started,
    speech_stopped,
    tool,
    tool_ok,
)

FILLER = Filler(after_ms=2_000, instructions="Say that you are looking.")
CONFIG = SessionConfig(
    turn_detection="none", lease_s=10_000, instructions="You are Ada.", filler=FILLER
)


def calling(config: SessionConfig = CONFIG, *names: str) -> Stage:
    """Tools that run, called by the response r1."""
    stage = Stage(config, tools=[tool("look"), tool("ask", approval=True)])
    written = [
        one for k, name in enumerate(names or ["look"]) for one in call("r1", f"c{k}", name, k)
    ]
    stage.play(created(), *written, done())
    return stage


def asked(effects: list[fx.Effect]) -> list[fx.CreateResponse]:
    return of(effects, fx.CreateResponse)


def test_a_tool_that_takes_its_time_has_something_said_once_and_without_tools() -> None:
    stage = calling()

    assert asked(stage.wait(1.9)) == []
    (filler,) = asked(stage.wait(0.2))
    stage.play(created("r2", filler.tag), done("r2"))

    assert filler.overrides == {"instructions": "You are Ada.\n\nSay that you are looking."}
    assert filler.tool_choice == "none"
    assert asked(stage.wait(10)) == []


def test_off_is_the_default() -> None:
    stage = calling(SessionConfig(turn_detection="none", lease_s=10_000))

    assert asked(stage.wait(15)) == []


def test_in_writing_nothing_is_said() -> None:
    config = SessionConfig(turn_detection="none", lease_s=999, filler=FILLER, modalities=("text",))

    assert asked(calling(config).wait(15)) == []


def test_a_quick_tool_needs_none() -> None:
    stage = calling()
    stage.wait(1)
    stage.play(tool_ok("c0"), created("r2", "1"), done("r2"))

    assert asked(stage.wait(15)) == []


def test_the_answer_comes_after_it_and_is_an_ordinary_one() -> None:
    stage = calling()
    (filler,) = asked(stage.wait(2.1))
    stage.play(created("r2", filler.tag))

    early = stage.play(tool_ok("c0", "42"))
    (answer,) = asked(stage.play(done("r2")))

    assert of(early, fx.AddOutput) == [fx.AddOutput("c0", "42")]
    assert of(early, ToolBatchSubmitted) == [ToolBatchSubmitted(turn_id="r1", call_ids=["c0"])]
    assert asked(early) == []
    assert (answer.overrides, answer.tool_choice) == ({}, None)


def test_what_is_still_being_heard_is_no_silence() -> None:
    stage = Stage(CONFIG, tools=[tool("look")])
    stage.play(created(), *message(), sound(ms=3_000), sound_end(), *call("r1", "c0", "look", 1))
    stage.play(done())

    assert asked(stage.wait(4.9)) == []
    assert len(asked(stage.wait(0.2))) == 1


def test_who_speaks_waits_for_nobody() -> None:
    stage = calling()
    stage.play(speech_started())

    assert asked(stage.wait(5)) == []
    assert len(asked(stage.play(speech_stopped()) + stage.wait(0))) == 1


def test_a_call_that_waits_for_approval_is_not_looked_up_yet() -> None:
    stage = calling(CONFIG, "ask")
    assert asked(stage.wait(5)) == []

    stage.command("approve", call_id="c0", approve=True)

    assert asked(stage.wait(1.9)) == []
    assert len(asked(stage.wait(0.2))) == 1


def test_an_interrupt_leaves_nothing_to_bridge() -> None:
    stage = calling()
    stage.command("interrupt")

    assert asked(stage.wait(15)) == []


@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_another_round_of_tools_may_have_its_own(after_s: float) -> None:
    stage = calling()
    (filler,) = asked(stage.wait(2.1))
    stage.play(created("r2", filler.tag), done("r2"), tool_ok("c0"))
    stage.play(created("r3", stage.last_tag), *call("r3", "c9", "look"), done("r3"))
    stage.wait(after_s)

    assert len(asked(stage.wait(2.1 - after_s))) == 1


def test_one_that_is_refused_or_failed_is_not_tried_again() -> None:
    stage = calling()
    stage.wait(2.1)

    stage.play(refused("active", stage.last_event_id, "already_active"))

    assert asked(stage.wait(5)) == []


def test_one_of_a_lost_connection_is_not_asked_for_again() -> None:
    stage = calling()
    stage.wait(2.1)
    stage.play(i.ProviderDisconnected(generation=1, code=1006))
    stage.wait(0.2)

    effects = stage.play(
        i.ProviderConnected(generation=2),
        i.ProviderSessionCreated(),
        i.ProviderSessionUpdated(session={}),
    )

    assert asked(effects) == []


def test_nobody_waits_for_a_tool_of_a_response_out_of_band() -> None:
    stage = Stage(CONFIG, tools=[tool("look")])
    stage.command("create_response", overrides={"conversation": "none"})
    stage.play(created("x", stage.last_tag, out_of_band=True), *call("x", "c0", "look"), done("x"))

    assert asked(stage.wait(10)) == []
