"""Kill anything, cut anything: the conversation goes on. Each test ends with the auditor."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.support import Caller, Line, scene
from voicebus.bus.sockets import Sockets
from voicebus.cli.testing import Stack
from voicebus.services.session.failpoints import PLACES

SCENARIOS = Path(__file__).parent / "scenarios"
StartStack = Callable[..., Stack]


# Nothing is told at once in this story: `told` has stories of its own.
@pytest.mark.parametrize("place", [place for place in PLACES if place != "told"])
def test_a_session_process_may_die_between_any_two_steps_of_the_write_path(
    start_stack: StartStack, tmp_path: Path, place: str
) -> None:
    acts = Acts(tmp_path)
    # In every life: the conversation is carried through several deaths. More decisions may come in
    # one breath than are written meanwhile, and a life that writes nothing makes no progress: on a
    # busy machine an answer is told again whole, in a dozen frames and more.
    often = 20 if place == "decided" else 9
    cell = start_stack(
        scenario=SCENARIO,
        tools=acts.specs,
        settings={"VOICEBUS_SESSION_FAILPOINT": f"{place}:{often}"},
    )

    async def story() -> None:
        async with scene(cell) as one:
            one.session_was_killed = True
            caller = await one.caller()
            await caller.turn("tally please", within_s=60)
            (call,) = caller.found("tool_call_completed")

            assert acts.done(call.data.call_id) == ["tally", "tallied"]
            assert len(caller.found("tool_batch_submitted")) == 1

    asyncio.run(story())

    deaths = [line for line in cell.log("supervisord", 500) if "terminated by SIGKILL" in line]
    assert deaths, "the failpoint was never reached"


async def interrupted_and_calling(caller: Caller, acts: Acts) -> tuple[str, str]:
    """One interruption has gone well; another answer sounds, and its tool runs. That response and
    its call: with `told:2` the process dies when it is interrupted."""
    await caller.session.send_text("a long tone")
    await caller.until(lambda: len(caller.pieces()) > 5, "the beginning of the tone")
    await caller.session.interrupt()
    await caller.event("interrupted")
    await caller.session.send_text("story and patience")
    call = (await caller.event("tool_call_dispatched")).data.call_id
    turn = caller.found("tool_call_started", call_id=call)[0].data.turn_id
    await acts.ran(call)
    await caller.until(lambda: caller.pieces(turn), "the beginning of the story")
    return turn, call


async def goes_on(caller: Caller) -> None:
    await caller.session.send_text("short tone")
    await caller.event("assistant_transcript", text="A short tone.")


def deaths(cell: Stack) -> int:
    return sum("terminated by SIGKILL" in line for line in cell.log("supervisord", 500))


def test_an_interrupt_that_was_told_and_not_written_is_done_whole_when_it_is_sent_again(
    start_stack: StartStack, tmp_path: Path
) -> None:
    acts = Acts(tmp_path)
    cell = start_stack(
        scenario=SCENARIO,
        tools=acts.specs,
        settings={"VOICEBUS_SESSION_FAILPOINT": "told:2"},
    )

    async def story() -> None:
        async with scene(cell) as one:
            one.session_was_killed = True
            caller = await one.caller(plays=True)
            turn, call = await interrupted_and_calling(caller, acts)

            cause = await caller.session.interrupt()
            interrupted = await caller.event("interrupted", nth=2)
            failed = await caller.event("tool_call_failed", call_id=call)
            await caller.flushed(turn)
            await goes_on(caller)

            assert deaths(cell) == 1
            assert interrupted.cause == cause
            assert turn in interrupted.data.responses
            assert failed.data.reason == "cancelled"
            assert acts.done(call) == ["patient", "stopped"]
            assert len(caller.found("interrupted")) == 2

    asyncio.run(story())


def test_an_interrupt_that_was_told_and_not_written_by_a_client_that_is_gone_leaves_nothing_open(
    start_stack: StartStack, tmp_path: Path
) -> None:
    acts = Acts(tmp_path)
    cell = start_stack(
        scenario=SCENARIO,
        tools=acts.specs,
        settings={"VOICEBUS_SESSION_FAILPOINT": "told:2"},
    )

    async def story() -> None:
        async with scene(cell) as one:
            one.session_was_killed = True
            caller = await one.caller(plays=True)
            turn, call = await interrupted_and_calling(caller, acts)

            pid = cell.pids()["session-0"]
            with Sockets() as sockets:
                # Not the line of the scene: each command on that one must get its reply.
                Line(cell.endpoints, sockets).command("interrupt", session_id=caller.id)
                await cell.ready("session-0", after=pid)
            failed = await caller.event("tool_call_failed", call_id=call)
            await caller.flushed(turn)
            await caller.event("tool_batch_submitted", call_ids=[call])
            await caller.event("assistant_turn_completed", status="completed", nth=2)
            await goes_on(caller)

            assert deaths(cell) == 1
            assert failed.data.reason == "cancelled"
            assert acts.done(call) == ["patient", "stopped"]
            assert len(caller.found("interrupted")) == 1, "it is not on record"
            assert len(caller.found("tool_batch_submitted")) == 1

    asyncio.run(story())


@pytest.mark.parametrize("frame", ["response.create", "function_call_output"])
def test_what_was_sent_and_not_acknowledged_is_done_once(
    start_stack: StartStack, tmp_path: Path, frame: str
) -> None:
    # Each life dies with the first of them that it sends. A second response.create would be a
    # third turn, a second output of a call an error of the provider's.
    acts = Acts(tmp_path)
    cell = start_stack(
        scenario=SCENARIO,
        tools=acts.specs,
        settings={"VOICEBUS_SESSION_FAILPOINT": f"sent/{frame}:1"},
    )

    async def story() -> None:
        async with scene(cell) as one:
            one.session_was_killed = True
            caller = await one.caller()
            await caller.turn("tally please", within_s=60)
            (call,) = caller.found("tool_call_completed")

            assert acts.done(call.data.call_id) == ["tally", "tallied"]
            assert len(caller.found("assistant_turn_started")) == 2
            assert len(caller.found("tool_batch_submitted")) == 1
            assert not caller.found("error")

    asyncio.run(story())

    deaths = [line for line in cell.log("supervisord", 500) if "terminated by SIGKILL" in line]
    assert len(deaths) == {"response.create": 2, "function_call_output": 1}[frame]


def test_a_connection_cut_in_mid_answer_is_replaced_and_the_answer_given(
    start_stack: StartStack,
) -> None:
    cell = start_stack(scenario=SCENARIOS / "cut.toml")

    async def story() -> None:
        async with scene(cell) as one:
            caller = await one.caller()
            await caller.turn("short tone first")
            await caller.session.send_text("cut me off please")
            lost = await caller.event("session_reconnecting")
            back = await caller.event("session_resumed")
            again = await caller.event("assistant_turn_completed", status="completed", nth=2)

            assert lost.seq is not None
            assert back.seq is not None
            assert again.seq is not None
            assert lost.seq < back.seq < again.seq
            assert back.data.history == "complete"
            cut = caller.found("assistant_turn_completed", status="incomplete")
            assert [one.data.reason for one in cut] == ["provider_lost"]
            told = [
                frame["item"]["content"][0]["text"]
                for frame in one.tape.sent_to_provider(caller.id, "conversation.item.create")
            ]
            *before, so_far = told
            assert before == [
                "short tone first",
                "cut me off please",
                "short tone first",
                "A short tone.",
                "cut me off please",
            ]
            assert so_far, "the caller hears what had come of the answer, so it is told"
            assert "This answer is cut off in the middle of its sound.".startswith(so_far)
            assert len(one.tape.sent_to_provider(caller.id, "response.create")) == 3

    asyncio.run(story())


def test_a_session_that_expires_in_mid_answer_goes_on_where_it_was(
    start_stack: StartStack,
) -> None:
    # An error session_expired, then close code 1001, which is not a clean end.
    cell = start_stack(scenario="expires")

    async def story() -> None:
        async with scene(cell) as one:
            caller = await one.caller()
            await caller.session.send_text("hello there")
            lost = await caller.event("session_reconnecting")
            await caller.event("session_resumed")
            await caller.event("assistant_turn_completed", status="completed")

            assert lost.data.reason.startswith("1001")
            assert not caller.found("session_closed")

    asyncio.run(story())


def test_a_tool_that_ends_after_a_reconnect_is_told_as_context(
    start_stack: StartStack, tmp_path: Path
) -> None:
    acts = Acts(tmp_path)
    cell = start_stack(scenario=SCENARIOS / "cut_during_tool.toml", tools=acts.specs)

    async def story() -> None:
        async with scene(cell) as one:
            caller = await one.caller()
            await caller.session.send_text("tally slowly")
            await caller.event("tool_call_dispatched")
            await caller.event("session_resumed")
            done = await caller.event("tool_call_completed")
            await caller.event("tool_batch_submitted")
            await caller.event("assistant_turn_completed", status="completed", nth=2)

            assert acts.done(done.data.call_id) == ["tally", "tallied"]
            items = one.tape.sent_to_provider(caller.id, "conversation.item.create")
            assert "has answered" in items[-1]["item"]["content"][0]["text"]
            assert all(item["item"]["type"] == "message" for item in items)

    asyncio.run(story())


def test_a_killed_transport_costs_the_turn_and_not_the_conversation(
    start_stack: StartStack,
) -> None:
    cell = start_stack(scenario=SCENARIO)

    async def story() -> None:
        async with scene(cell) as one:
            caller = await one.caller()
            await caller.turn("short tone")
            await caller.session.send_text("a long tone")
            await caller.until(lambda: len(caller.pieces()) > 20, "some sound")
            cell.kill("transport-0")
            one.transport_was_killed = True
            resumed = await caller.event("session_resumed")
            await caller.event("assistant_turn_completed", status="completed", nth=2, within_s=60)

            assert resumed.data.history == "partial"
            cut = caller.found("assistant_turn_completed", status="incomplete")
            assert [one.data.reason for one in cut] == ["transport_lost"]
            await caller.turn("short tone")

    asyncio.run(story())


@pytest.mark.parametrize("code", [1008, 4000])
def test_no_new_connection_where_it_cannot_help(
    start_stack: StartStack, tmp_path: Path, code: int
) -> None:
    scenario = tmp_path / "close.toml"
    scenario.write_text(
        (SCENARIOS / "close.toml").read_text("utf-8").replace("4999", str(code)), "utf-8"
    )
    cell = start_stack(scenario=scenario)

    async def story() -> None:
        async with scene(cell) as one:
            caller = await one.caller()
            await caller.session.send_text("hello")
            closed = await caller.event("session_closed")

            assert closed.data.code == str(code)
            assert not caller.found("session_reconnecting")

    asyncio.run(story())


def test_a_connection_is_changed_in_a_silence_before_the_provider_ends_it(
    start_stack: StartStack,
) -> None:
    cell = start_stack(scenario=SCENARIOS / "short_life.toml")

    async def story() -> None:
        async with scene(cell) as one:
            caller = await one.caller()
            await caller.turn("short tone")
            expiring = await caller.event("session_expiring")
            resumed = await caller.event("session_resumed")
            await caller.turn("short tone")

            assert expiring.seq is not None
            assert resumed.seq is not None
            assert expiring.seq < resumed.seq
            assert [one.data.reason for one in caller.found("session_reconnecting")][:1] == [
                "rotation"
            ]
            assert not caller.found("assistant_turn_completed", status="incomplete")

    asyncio.run(story())


def test_a_stopped_session_process_hands_its_conversations_to_the_next(
    start_stack: StartStack,
) -> None:
    cell = start_stack(scenario=SCENARIO)

    async def story() -> None:
        async with scene(cell) as one:
            caller = await one.caller()
            await caller.turn("short tone")
            before = cell.pids()["session-0"]
            cell.supervisor.stop("session-0")
            cell.supervisor.start("session-0")
            await cell.ready("session-0", after=before)
            await caller.turn("short tone")

            assert not caller.found("session_reconnecting")

    asyncio.run(story())


def test_two_processes_killed_at_once_cost_no_more_than_the_worse_of_them(
    start_stack: StartStack,
) -> None:
    cell = start_stack(scenario=SCENARIO)

    async def story() -> None:
        async with scene(cell) as one:
            caller = await one.caller()
            await caller.turn("short tone")
            cell.kill("session-0")
            one.session_was_killed = True
            cell.kill("transport-0")
            one.transport_was_killed = True
            resumed = await caller.event("session_resumed")
            await caller.turn("short tone")

            assert resumed.data.events_lost

    asyncio.run(story())
