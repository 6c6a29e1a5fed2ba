"""Tools that crash, hang, raise or are called wrongly: one outcome, and the call goes on."""

import pytest

from tests.end_to_end.cells import Acts
from tests.end_to_end.support import Caller, Scene, scene
from voicebus.bus.messages.events import ToolCallFailed
from voicebus.cli.testing import Stack


async def _failed(on: Scene, caller: Caller, text: str) -> ToolCallFailed:
    """The failure of the one call that this text leads to; afterwards another call works."""
    await caller.turn(text)
    await on.caught_up(caller)
    (failed,) = caller.found("tool_call_failed")
    outputs = [
        one["item"]["output"]
        for one in on.tape.sent_to_provider(caller.id, "conversation.item.create")
        if one["item"]["type"] == "function_call_output"
    ]
    assert len(outputs) == 1, f"the model heard {len(outputs)} outputs"
    assert failed.data.reason in outputs[0], f"the model was told {outputs[0]}"
    assert caller.found("tool_batch_submitted")[0].data.call_ids == [failed.data.call_id]
    assert outputs[0] in caller.words(), "the model's answer does not know of it"
    await caller.turn("tally")
    assert len(caller.found("tool_call_completed")) == 1, "the next call did not work"
    assert isinstance(failed.data, ToolCallFailed)
    return failed.data


async def test_a_tool_that_aborts_its_interpreter_crashed_by_a_signal(cell: Stack) -> None:
    async with scene(cell) as on:
        failed = await _failed(on, await on.caller(), "crash")

        assert (failed.reason, failed.signal) == ("crashed", "SIGABRT")
        assert failed.stderr_tail
        assert "about to abort" in failed.stderr_tail or "Fatal Python error" in failed.stderr_tail


async def test_a_tool_that_leaves_its_interpreter_crashed_with_an_exit_code(cell: Stack) -> None:
    async with scene(cell) as on:
        failed = await _failed(on, await on.caller(), "leave")

        assert (failed.reason, failed.exit_code) == ("crashed", 7)
        assert failed.stderr_tail is not None
        assert "leaving by the back door" in failed.stderr_tail


async def test_a_tool_that_hangs_is_killed_at_its_deadline(cell: Stack, acts: Acts) -> None:
    async with scene(cell) as on:
        failed = await _failed(on, await on.caller(), "hang")

        assert failed.reason == "timeout"
        assert "1" in failed.error, "the limit is not named"
        assert acts.done(failed.call_id) == ["hang"]


async def test_a_tool_that_raises_says_what_it_said(cell: Stack) -> None:
    async with scene(cell) as on:
        failed = await _failed(on, await on.caller(), "fail")

        assert failed.reason == "error"
        assert "the printer is out of paper" in failed.error


@pytest.mark.parametrize(
    ("text", "named"), [("half of a word", "number"), ("half of nothing", "JSON")]
)
async def test_arguments_that_do_not_fit_never_reach_the_tool(
    cell: Stack, text: str, named: str
) -> None:
    async with scene(cell) as on:
        failed = await _failed(on, await on.caller(), text)

        assert failed.reason == "invalid_arguments"
        assert named in failed.error


async def test_a_tool_that_does_not_exist_is_named_to_the_model(cell: Stack) -> None:
    async with scene(cell) as on:
        failed = await _failed(on, await on.caller(), "nobody")

        assert failed.reason == "unknown_tool"
        assert "no_such_tool" in failed.error


async def test_a_session_may_only_call_the_tools_it_named(cell: Stack) -> None:
    async with scene(cell) as on:
        failed = await _failed(on, await on.caller(tools=["tally"]), "nap")

        assert failed.reason == "unknown_tool"


async def test_a_crash_in_one_conversation_is_not_heard_in_another(cell: Stack) -> None:
    async with scene(cell) as on:
        one, other = await on.caller(), await on.caller()
        await other.session.send_text("slow tone")

        await _failed(on, one, "crash")
        await other.event("assistant_turn_completed")

        assert {event.kind for event in other.events}.isdisjoint({"tool_call_failed", "error"})
        await other.until(
            lambda: sum(piece.count for _, piece in other.pieces()) == 3000 * 24, "all sound"
        )
