"""Approval, progress and the tools' own words on interrupts, through every process."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, Scene, scene
from voicebus.cli.testing import Stack

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(
        scenario=HERE / "scenarios" / "desk.toml", tools=[str(HERE / "samples" / "desk.py")]
    )


def outputs(on: Scene, caller: Caller) -> list[str]:
    """What the model was given as outputs of its calls."""
    return [
        one["item"]["output"]
        for one in on.tape.sent_to_provider(caller.id, "conversation.item.create")
        if one["item"]["type"] == "function_call_output"
    ]


def context(on: Scene, caller: Caller) -> list[str]:
    """What the model was told besides, by us."""
    return [
        one["item"]["content"][0]["text"]
        for one in on.tape.sent_to_provider(caller.id, "conversation.item.create")
        if one["item"]["type"] == "message" and one["item"]["role"] == "system"
    ]


@pytest.mark.parametrize("agreed", [True, False])
async def test_a_tool_that_asks_runs_only_when_somebody_agrees(cell: Stack, agreed: bool) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.session.send_text("refund")
        asked = await caller.event("approval_requested")
        before = [one.kind for one in caller.events]

        await caller.session.approve(asked.data.call_id, agreed, "by the desk")
        await caller.event("assistant_turn_completed", nth=2)

        assert asked.data.args == {"euros": 20}
        assert "tool_call_dispatched" not in before
        dispatched = caller.found("tool_call_dispatched")
        if agreed:
            assert len(dispatched) == 1
            assert outputs(on, caller) == ['{"refunded":20}']
        else:
            assert dispatched == []
            (failed,) = caller.found("tool_call_failed")
            assert failed.data.reason == "denied"
            assert "denied" in outputs(on, caller)[0]


async def test_a_question_that_nobody_answers_in_time_is_a_no(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller(approval_timeout_s=0.5)
        await caller.session.send_text("refund")
        asked = await caller.event("approval_requested")

        failed = await caller.event("tool_call_failed")
        await caller.event("assistant_turn_completed", nth=2)
        code, _ = await on.line.refused(
            "approve", {"call_id": asked.data.call_id, "approve": True}, session_id=caller.id
        )

        assert asked.data.timeout_ms == 500
        assert (failed.data.reason, failed.data.call_id) == ("denied", asked.data.call_id)
        assert failed.at_us - asked.at_us >= 500_000
        assert code == "conflict"
        assert caller.found("tool_call_dispatched") == []
        assert ["nobody approved it in time" in one for one in outputs(on, caller)] == [True]


async def test_an_interrupt_withdraws_the_question(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.session.send_text("refund")
        asked = await caller.event("approval_requested")

        await caller.session.interrupt()
        await caller.event("tool_call_failed", reason="cancelled")
        code, _ = await on.line.refused(
            "approve", {"call_id": asked.data.call_id, "approve": True}, session_id=caller.id
        )

        assert code == "conflict"
        assert caller.found("tool_call_dispatched") == []


async def test_progress_is_heard_while_the_tool_runs(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()

        await caller.turn("search")

        kinds = [one.kind for one in caller.events if one.kind.startswith("tool_call")]
        said = [one.data.text for one in caller.found("tool_call_progress")]
        assert said == ["drawer 1", "drawer 2", "drawer 3"]
        assert kinds.index("tool_call_progress") < kinds.index("tool_call_completed")


async def test_a_detached_tool_goes_on_and_is_announced_with_newer_words_noted(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.session.send_text("taxi")
        await caller.event("tool_call_progress")

        await caller.session.interrupt()
        await caller.session.send_text("make it two")
        await caller.event("tool_call_completed")
        async with asyncio.timeout(20):
            while not context(on, caller):
                on.tape.changed.clear()
                await on.tape.changed.wait()
        await caller.event("assistant_turn_completed", nth=3)

        assert len(outputs(on, caller)) == 1
        assert "running" in outputs(on, caller)[0]
        (told,) = context(on, caller)
        assert "in ten minutes" in told
        assert "What the user said since then is newer" in told
        items = [
            one["item"] for one in on.tape.sent_to_provider(caller.id, "conversation.item.create")
        ]
        said = [
            item.get("role", item["type"]) + (":newer" if "make it two" in str(item) else "")
            for item in items
        ]
        # The promise, then the newer words, then what came of the tool.
        assert said == ["user", "function_call_output", "user:newer", "system"]


async def test_a_tool_that_finishes_has_its_effect_and_the_model_hears_of_it(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.session.send_text("table")
        await caller.event("tool_call_progress")

        await caller.session.interrupt()
        await caller.event("tool_call_completed")
        async with asyncio.timeout(20):
            while not context(on, caller):
                on.tape.changed.clear()
                await on.tape.changed.wait()

        assert outputs(on, caller) == []  # the call's item was deleted
        assert "at eight" in context(on, caller)[0]


def test_what_a_tool_with_effects_did_is_told_though_it_is_heard_too_late(
    start_stack: StartStack,
) -> None:
    cell = start_stack(
        scenario=HERE / "scenarios" / "desk.toml",
        tools=[str(HERE / "samples" / "desk.py")],
        settings={"VOICEBUS_HEALTH_SILENT_S": "0"},  # it would continue the host in its own time
    )

    async def story() -> None:
        async with scene(cell) as on:
            caller = await on.caller()
            await caller.session.send_text("table")
            await caller.event("tool_call_progress")

            cell.kill("toolhost-0", signal.SIGSTOP)  # its runner goes on
            failed = await caller.event("tool_call_failed")
            cell.kill("toolhost-0", signal.SIGCONT)
            late = await caller.event("tool_call_late_result")
            async with asyncio.timeout(20):
                while not context(on, caller):
                    on.tape.changed.clear()
                    await on.tape.changed.wait()
            await caller.event("assistant_turn_completed", nth=2)

            assert failed.data.reason == "unknown"
            assert late.data.result == {"table": "at eight"}
            assert ["unknown" in one for one in outputs(on, caller)] == [True]
            (told,) = context(on, caller)
            assert "counted as unknown" in told
            assert "at eight" in told
            # For the next turn to know: it is no answer, and asks for none.
            assert len(on.tape.sent_to_provider(caller.id, "response.create")) == 2

    asyncio.run(story())


async def test_a_slow_tool_has_something_said_and_is_answered_after_it(cell: Stack) -> None:
    async with scene(cell) as on:
        filler = {"after_ms": 300, "instructions": "Say that it takes a moment."}
        caller = await on.caller(filler=filler, instructions="You are at the desk.")
        await caller.session.send_text("round table")
        await caller.event("tool_call_completed")
        await caller.event("assistant_turn_completed", nth=3)

        creates = [
            one["response"] for one in on.tape.sent_to_provider(caller.id, "response.create")
        ]
        kinds = [one.kind for one in caller.events]
        assert [one.get("instructions") for one in creates] == [
            None,
            "You are at the desk.\n\nSay that it takes a moment.",
            None,
        ]
        assert creates[1]["tool_choice"] == "none"
        # It is said while the tool runs; the answer begins after it and comes whole.
        assert kinds.index("assistant_transcript") < kinds.index("tool_call_completed")
        assert caller.words().startswith("One moment.")
        assert "at eight" in caller.words()
        assert not caller.found("interrupted")
        assert not caller.found("error")
