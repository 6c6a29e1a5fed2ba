"""Tools: scenarios 42 to 52."""

from typing import Any

import pytest

from tests.end_to_end.catalogue.playing import ASK, came, completed, playing, sent, speak
from tests.end_to_end.support import Caller, Scene
from voicebus.cli.testing import Stack


async def _outputs(on: Scene, caller: Caller) -> list[dict[str, Any]]:
    """What the provider was told of calls, in order."""
    items = [one["item"] for one in await sent(on, caller, "conversation.item.create")]
    return [item for item in items if item["type"] == "function_call_output"]


async def test_one_call_is_run_and_its_output_answered(cell: Stack) -> None:
    async with playing(cell, "weather") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("weather")

        assert "Berlin" in caller.words()
        assert len(await _outputs(on, caller)) == 1
        assert len(await sent(on, caller, "response.create")) == 2


async def test_two_calls_that_grow_in_turns_are_answered_in_order_and_once(cell: Stack) -> None:
    async with playing(cell, "two_calls") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("weather")

        calls = [one.data.call_id for one in caller.found("tool_call_started")]
        assert len(calls) == 2
        assert [one["call_id"] for one in await _outputs(on, caller)] == calls
        assert caller.found("tool_batch_submitted")[0].data.call_ids == calls
        assert len(await sent(on, caller, "response.create")) == 2


async def test_arguments_that_are_no_json_are_told_the_model_or_never_run(cell: Stack) -> None:
    async with playing(cell, "44_broken_arguments") as on:
        caller = await on.caller()
        await caller.turn("broken")
        (failed,) = caller.found("tool_call_failed")
        assert failed.data.reason == "invalid_arguments"
        assert "JSON" in (await _outputs(on, caller))[0]["output"]

        await caller.session.send_text("cut")
        cut = await caller.event("tool_call_failed", nth=2)
        await came(on, caller.id, "conversation.item.deleted")

        assert cut.data.reason == "cancelled"
        assert not caller.found("tool_call_dispatched")
        assert len(await _outputs(on, caller)) == 1


async def test_an_incomplete_call_is_not_run_and_answered_with_an_error(cell: Stack) -> None:
    async with playing(cell, "45_incomplete_call") as on:
        caller = await on.caller()
        await caller.turn("weather")

        assert len(caller.found("tool_call_failed")) == 1
        assert not caller.found("tool_call_dispatched")
        assert "error" in (await _outputs(on, caller))[0]["output"]
        assert caller.words() == "Never mind."


async def test_an_output_that_the_provider_cannot_place_is_told_in_words(cell: Stack) -> None:
    async with playing(cell, "46_unknown_call") as on:
        caller = await on.caller()
        await caller.session.send_text("weather please")
        await completed(caller, 2)

        items = [one["item"] for one in await sent(on, caller, "conversation.item.create")]
        assert [item["type"] for item in items] == ["message", "function_call_output", "message"]
        assert "Berlin" in items[-1]["content"][0]["text"]
        assert not caller.found("error")


async def test_a_tool_that_is_slower_than_the_next_turn_is_answered_after_it(cell: Stack) -> None:
    async with playing(cell, "47_next_turn_first") as on:
        caller = await on.caller(tools=[ASK], on_interrupt="submit")
        await caller.session.send_text("ask")
        call = await caller.event("tool_call_dispatched")
        await speak(caller, 10)
        await caller.event("assistant_turn_started", nth=2)
        await caller.session.submit_tool_output(call.data.call_id, "done")
        await caller.event("tool_batch_submitted")
        await caller.event("assistant_transcript", text="Here it is.")

        assert caller.words() == "I am still looking. Here it is."
        assert not caller.found("error")
        assert len(await _outputs(on, caller)) == 1


async def test_a_tool_that_answers_much_later_is_answered_then(cell: Stack) -> None:
    async with playing(cell, "49_much_later") as on:
        caller = await on.caller(tools=[ASK], modalities=["text"])
        await caller.session.send_text("ask")
        call = await caller.event("tool_call_dispatched")
        for nth in (2, 3):
            await caller.session.send_text("something else")
            await completed(caller, nth)
        await caller.session.submit_tool_output(call.data.call_id, "ready")
        await completed(caller, 4)

        assert caller.words().startswith("Go on. Go on. It is")
        assert "ready" in caller.words()


@pytest.mark.parametrize("result", ["x" * 1_000_000, ""], ids=["huge", "empty"])
async def test_an_output_may_be_huge_or_empty(cell: Stack, result: str) -> None:
    async with playing(cell, "50_huge_output") as on:
        caller = await on.caller(tools=[ASK], modalities=["text"])
        await caller.session.send_text("ask")
        call = await caller.event("tool_call_dispatched")
        await caller.session.submit_tool_output(call.data.call_id, result)
        await completed(caller, 2)

        assert caller.words() == "I have read it."
        (output,) = await _outputs(on, caller)
        assert output["output"].strip('"') == result


@pytest.mark.parametrize("approves", [True, False])
async def test_tools_that_the_provider_runs_are_its_own(cell: Stack, approves: bool) -> None:
    async with playing(cell, "51_provider_tools") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("look it up")
        await caller.session.add_item(
            {
                "type": "mcp_approval_response",
                "approval_request_id": "item_may",
                "approve": approves,
            }
        )
        await caller.turn("and now")

        items = [one["item"] for one in await sent(on, caller, "conversation.item.create")]
        (answer,) = [item for item in items if item["type"] == "mcp_approval_response"]
        assert answer["approve"] is approves
        assert not caller.found("tool_call_started")
        assert not caller.found("error")
        shown = [item["type"] for item in (await caller.session.snapshot())["items"]]
        assert shown[0] == "mcp_list_tools"


async def test_tools_that_fail_at_the_provider_disturb_nothing(cell: Stack) -> None:
    async with playing(cell, "52_provider_tools_fail") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("look it up")
        await caller.turn("and now")

        assert await came(on, caller.id, "response.mcp_call.failed")
        assert not caller.found("tool_call_started")
        assert len(caller.found("assistant_text")) == 2
