"""What a conversation's inputs say of its calls, decided again: each is answered, or taken back."""

import msgspec
import pytest

from voicebus.bus.messages.commands import OnInterrupt, SessionConfig
from voicebus.bus.messages.work import ToolOnInterrupt
from voicebus.services.session.core import calls
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft, with_
from voicebus.services.session.core.state import Call
from voicebus.services.session.refold import Refolded, refold
from voicebus.services.session.testing import (
    SESSION,
    Stage,
    at,
    call,
    created,
    done,
    tool,
    tool_failed,
    tool_ok,
)

POLICIES: list[OnInterrupt] = ["drop", "submit", "submit-completed-only"]
TOOLS: list[ToolOnInterrupt] = ["cancel", "finish", "detach"]
RECONNECTED = (
    i.ProviderConnected(generation=2),
    i.ProviderSessionCreated(),
    i.ProviderSessionUpdated(session={}),
)


class Journaled(Stage):
    """A stage whose inputs are kept, as the journal keeps them."""

    def play(self, *inputs: i.AnyInput) -> list[fx.Effect]:
        self.kept = [*getattr(self, "kept", []), *(at(one, self.now_us) for one in inputs)]
        return super().play(*inputs)

    def again(self) -> Refolded:
        """All of it, decided again."""
        bodies = [msgspec.json.encode(one) for one in self.kept]
        found = refold(SESSION, enumerate(bodies, start=1))
        assert found.failure is None
        return found


def calling(on_interrupt: OnInterrupt = "drop", policy: ToolOnInterrupt = "cancel") -> Journaled:
    """A completed response with a call and its sibling."""
    config = SessionConfig(turn_detection="none", lease_s=10_000, on_interrupt=on_interrupt)
    stage = Journaled(config, tools=[tool("a", on_interrupt=policy), tool("b", effects="none")])
    stage.play(created(), *call("r1", "c0", "a"), *call("r1", "c1", "b", 1), done())
    return stage


def lost(stage: Stage) -> None:
    """The provider's connection is gone."""
    stage.play(i.ProviderDisconnected(generation=1, code=1006))
    stage.wait(0.2)


@pytest.mark.parametrize("on_interrupt", POLICIES)
@pytest.mark.parametrize("policy", TOOLS)
def test_whatever_the_policies_each_call_is_answered_or_its_item_deleted(
    on_interrupt: OnInterrupt, policy: ToolOnInterrupt
) -> None:
    stage = calling(on_interrupt, policy)
    stage.play(tool_ok("c1"))
    stage.command("interrupt")
    stage.play(tool_failed("c0", "cancelled"))

    found = stage.again()

    assert found.dangling == []
    assert {key for _, key in found.outputs} ^ set(found.deleted) == {"c0", "c1"}


def test_a_call_that_waits_for_its_sibling_or_for_a_connection_does_not_dangle() -> None:
    stage = calling()
    stage.play(tool_ok("c1"))
    assert stage.again().dangling == []

    lost(stage)
    stage.play(tool_ok("c0"))
    assert stage.again().dangling == []

    stage.play(*RECONNECTED)
    assert (stage.again().dangling, stage.again().outputs) == ([], {})


def test_a_call_that_was_deleted_with_its_connection_or_closed_does_not_dangle() -> None:
    stage = calling()
    lost(stage)
    stage.play(*RECONNECTED)
    stage.command("interrupt")
    stage.play(tool_failed("c0", "cancelled"), tool_failed("c1", "cancelled"))
    stage.play(created("r2"), *call("r2", "c2", "a"), done("r2"))
    stage.command("close")

    found = stage.again()

    assert (found.dangling, found.deleted) == ([], {})


def _told_nothing(d: Draft, call_id: str, text: str | None = None) -> None:
    d.s.calls = with_(
        d.s.calls, call_id, msgspec.structs.replace(d.s.calls[call_id], told="output")
    )


def _deleted_nothing(d: Draft, one: Call) -> None:
    d.s.calls = with_(d.s.calls, one.call_id, msgspec.structs.replace(one, told="deleted"))


def test_a_call_that_nobody_answers_dangles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_output", _told_nothing)
    stage = calling()
    stage.play(tool_ok("c0"), tool_ok("c1"))

    assert stage.again().dangling == ["c0", "c1"]


def test_a_call_whose_item_nobody_deletes_dangles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_delete", _deleted_nothing)
    stage = calling()
    stage.command("interrupt")
    stage.play(tool_failed("c0", "cancelled"), tool_failed("c1", "cancelled"))
    # Old calls are forgotten; what became of them is not.
    for number in range(2, 2 * calls.KEPT):
        stage.play(created(f"r{number}"), *call(f"r{number}", f"c{number}", "b"))
        stage.play(done(f"r{number}"), tool_ok(f"c{number}"))

    assert stage.again().dangling == ["c0", "c1"]


def test_a_call_out_of_band_does_not_dangle() -> None:
    stage = Journaled(tools=[tool("a")])
    stage.command("create_response", overrides={"conversation": "none"})
    stage.play(created("x", stage.last_tag, out_of_band=True), *call("x", "c0", "a"), done("x"))
    stage.play(tool_ok("c0"))

    found = stage.again()

    assert (found.dangling, found.outputs) == ([], {})
