"""Other code, the same conversations: each role is restarted in the middle of a call."""

import asyncio
import os
import signal
import sys
import tempfile

import pytest

from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, Line, scene, voicebus
from tests.ports import free_port
from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Sockets
from voicebus.cli import calm, stack
from voicebus.cli.problems import Problem
from voicebus.cli.restart import Restart
from voicebus.cli.testing import Stack
from voicebus.client import RealtimeClient
from voicebus.client.audit import conversation
from voicebus.services.session.archive import Archive


async def restart(cell: Stack, *roles: str, silence_s: float = 20.0) -> list[str]:
    """What it told meanwhile."""
    told: list[str] = []

    def work() -> None:
        one = Restart(cell.run_dir, silence_s, told.append)
        for role in roles:
            one.role(role)

    await asyncio.to_thread(work)
    return told


async def speaking(caller: Caller, text: str = "slow tone") -> str:
    """The assistant speaks now, for three seconds unless it is another tone. Its turn."""
    before = len(caller.pieces())
    await caller.session.send_text(text)
    await caller.until(lambda: len(caller.pieces()) > before + 5, "the beginning of the tone")
    return caller.pieces()[-1][1].turn_id


async def test_a_session_process_is_replaced_in_mid_sentence_unheard(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        turn = await speaking(caller)
        await restart(cell, "session")
        await caller.event("assistant_turn_completed", turn_id=turn)
        await caller.turn("short tone")
        await caller.until(
            lambda: sum(piece.count for _, piece in caller.pieces(turn)) == 3000 * 24, "all sound"
        )

        assert len({one.header.inc for one in caller.events}) == 2
        assert not caller.found("session_reconnecting")
        assert not caller.found("assistant_turn_completed", status="incomplete")


async def test_a_running_call_ends_where_it_runs_while_the_next_host_takes_new_ones(
    cell: Stack, acts: Acts
) -> None:
    async with scene(cell) as on:
        caller, other = await on.caller(), await on.caller()
        await caller.session.send_text("tally slowly")
        call = (await caller.event("tool_call_dispatched")).data.call_id
        async with asyncio.timeout(10):
            while not acts.done(call):  # noqa: ASYNC110  (a file tells nobody)
                await asyncio.sleep(0.01)
        before = cell.pids()["toolhost-0"]
        changing = asyncio.create_task(restart(cell, "tools"))
        await cell.ready("toolhost-1")
        await other.turn("tally")
        done = await caller.event("tool_call_completed", call_id=call)
        await changing
        await other.turn("tally")

        assert done.data.result == {"tally": "one mark"}
        assert acts.done(call) == ["tally", "tallied"]
        assert len(other.found("tool_call_completed")) == 2
        pids = cell.pids()
        assert pids["toolhost-0"] != before
        assert "toolhost-1" not in pids


async def test_a_dispatcher_is_replaced_while_a_call_runs(cell: Stack, acts: Acts) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.session.send_text("tally slowly")
        call = (await caller.event("tool_call_dispatched")).data.call_id
        await restart(cell, "dispatcher")
        await caller.event("tool_call_completed", call_id=call)
        await caller.event("assistant_turn_completed", nth=2)

        assert acts.done(call) == ["tally", "tallied"]


async def test_a_transport_is_replaced_in_a_silence_and_its_conversations_move(
    cell: Stack,
) -> None:
    async with scene(cell) as on:
        caller, quiet = await on.caller(plays=True), await on.caller()
        on.transport_was_killed = True
        await quiet.turn("short tone")
        turn = await speaking(caller)
        told = await restart(cell, "transport")
        for one in (caller, quiet):
            await one.event("session_resumed")
            await one.turn("short tone")

        assert not any("no silence" in one for one in told)
        assert caller.found("assistant_turn_completed", turn_id=turn, status="completed")
        lost = caller.found("session_reconnecting")[0]
        done = caller.found("assistant_turn_completed", turn_id=turn)[0]
        assert (done.seq or 0) < (lost.seq or 0)
        assert not caller.found("assistant_turn_completed", status="incomplete")
        assert sum(piece.count for _, piece in caller.pieces(turn)) == 3000 * 24


async def test_a_transport_waits_for_a_silence_no_longer_than_it_was_told(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        on.transport_was_killed = True
        await speaking(caller, "long tone")
        told = await restart(cell, "transport", silence_s=0.2)
        await caller.event("session_resumed")
        await caller.turn("short tone", within_s=60)  # after what was cut is said again

        assert any(one.startswith("no silence within 0.2 s (1 of 1") for one in told)


async def test_who_leaves_takes_no_new_calls_and_lets_the_others_end(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller()
        with Sockets() as sockets:
            calm.take_no_more(sockets, cell.endpoints, [0])
            leaving = await cell_state(cell, "draining")
            code, message = await on.line.refused("open", {"config": {}})
            await caller.turn("short tone")
            on.session_was_killed = True
            killed = cell.kill("session-0")
            again = await testing.next_state(
                cell.endpoints,
                "session",
                0,
                lambda one: one.state == "draining" and one.pid != killed,
            )
            code_again, _ = await on.line.refused("open", {"config": {}})
        waiting = asyncio.create_task(
            calm.until(cell.endpoints, lambda found: not found, 20.0, lambda found: None)
        )
        await caller.close()

        assert leaving == again.state == "draining"
        assert code == code_again == "draining"
        assert "session-0" in message
        assert await waiting == []
    await restart(cell, "session")


async def cell_state(cell: Stack, state: str) -> str:
    found = await testing.next_state(cell.endpoints, "session", 0, lambda one: one.state == state)
    return found.state


async def test_everything_is_replaced_by_one_command_while_a_call_goes_on(
    start_stack: StartStack, acts: Acts
) -> None:
    settings = {
        "VOICEBUS_GATEWAY_BIND": "127.0.0.1",
        "VOICEBUS_GATEWAY_PORT": str(free_port()),
        "VOICEBUS_RECORDER_KEEP_FREE_MB": "0",
    }
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as folder:
        settings["VOICEBUS_RECORDER_FOLDER"] = f"{folder}/recordings"
        cell = await asyncio.to_thread(
            start_stack, scenario=SCENARIO, tools=acts.specs, settings=settings
        )
        before = cell.pids()
        async with scene(cell) as on:
            on.session_was_killed = on.transport_was_killed = True
            caller = await on.caller()
            await caller.turn("tally")

            run_dir = str(cell.run_dir)
            code, _, err = await voicebus("restart", "all", "--run-dir", run_dir, within_s=120)
            await caller.turn("tally")
            await caller.turn("short tone")

            assert code == 0, err
            assert len(caller.found("tool_call_completed")) == 2
            assert not caller.found("error")
            assert not caller.found("assistant_turn_completed", status="incomplete")
        after = cell.pids()
        assert after.keys() == before.keys()
        assert [name for name, pid in after.items() if before[name] == pid] == []
        assert all(f"{name} is ready again" in err for name in after)


@pytest.mark.parametrize("deleted", [(), ("supervisor.sock",)])
async def test_down_waits_for_the_last_call_and_takes_no_new_one(
    start_stack: StartStack, deleted: tuple[str, ...]
) -> None:
    cell = await asyncio.to_thread(start_stack, scenario=SCENARIO)
    for name in deleted:
        (cell.run_dir / name).unlink()
    with Sockets() as sockets:
        line = Line(cell.endpoints, sockets)
        async with RealtimeClient(cell.run_dir) as client:
            caller = Caller(await client.connect())
            await caller.opened()
            waiting = asyncio.create_task(voicebus("down", "--run-dir", str(cell.run_dir)))
            await cell_state(cell, "draining")
            shown = await asyncio.to_thread(stack.status, cell.run_dir)
            refused = await line.ask("open", {"config": {}})
            await caller.turn("one second")
            was_waiting = not waiting.done()
            await caller.close()
        code, out, err = await waiting

    assert shown.note is not None
    assert shown.note.startswith("going down")
    assert "voicebus down --wait 0" in shown.note
    assert refused["error"]["code"] == "draining"
    assert was_waiting
    assert code == 0, err
    assert "has stopped" in out
    assert "are cut" not in err
    assert "by force" not in err
    with Archive(cell.run_dir / "data" / "session-0.db") as archive:
        kept = archive.events(caller.id)
    assert conversation(kept) == []
    assert kept[-1]["data"]["reason"] == "client"


async def test_a_down_that_is_interrupted_says_how_calls_are_taken_again(
    start_stack: StartStack,
) -> None:
    cell = await asyncio.to_thread(start_stack, scenario=SCENARIO)
    async with scene(cell) as on:
        caller = await on.caller()
        command = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-c", "from voicebus.cli.main import run; run()"),
            *("down", "--wait", "600", "--run-dir", str(cell.run_dir)),
            stderr=asyncio.subprocess.PIPE,
        )
        await cell_state(cell, "draining")
        command.send_signal(signal.SIGINT)
        _, err = await command.communicate()
        await restart(cell, "session")
        await (await on.caller()).turn("short tone")

        assert command.returncode == 130
        assert b"nothing was stopped, but new calls are refused" in err
        assert not caller.found("session_closed")
    shown = await asyncio.to_thread(stack.status, cell.run_dir)
    assert shown.note is None


@pytest.mark.parametrize("wait", ["0", "0.5"])
async def test_down_waits_no_longer_than_it_was_told(start_stack: StartStack, wait: str) -> None:
    cell = await asyncio.to_thread(start_stack, scenario=SCENARIO)
    async with RealtimeClient(cell.run_dir) as client:
        session = await client.connect()

        code, out, err = await voicebus("down", "--wait", wait, "--run-dir", str(cell.run_dir))
        await session.detach()

        assert code == 0, err
        assert "has stopped" in out
        assert f"1 conversation is cut: still open after {wait} s" in err


@pytest.mark.parametrize("stopped", ["toolhost-0", None])
async def test_a_restart_of_tools_that_was_interrupted_can_be_repeated(
    cell: Stack, stopped: str | None
) -> None:
    await asyncio.to_thread(cell.supervisor.start, "toolhost-1")
    if stopped is not None:
        await asyncio.to_thread(cell.supervisor.stop, stopped)
    before = set(cell.pids().items())

    code, _, err = await voicebus("restart", "tools", "--run-dir", str(cell.run_dir))

    assert code == 0, err
    hosts = {one for one in cell.pids().items() if one[0].startswith("toolhost-")}
    assert [name for name, _ in hosts] == ["toolhost-0"]
    assert not hosts & before


async def test_tools_that_cannot_be_imported_leave_the_ones_there_are(
    cell: Stack, acts: Acts
) -> None:
    before = cell.pids()
    code = acts.module.read_text()
    acts.module.write_text("def tally(:\n")
    try:
        with pytest.raises(Problem) as problem:
            await restart(cell, "tools")
    finally:
        acts.module.write_text(code)

    assert "toolhost-1" in str(problem.value)
    assert "cannot import tools" in str(problem.value)
    assert "toolhost-0 goes on with the tools that it has" in str(problem.value)
    assert cell.pids() == before
    async with scene(cell) as on:
        caller = await on.caller()
        await caller.turn("tally")
        assert not caller.found("tool_call_failed")


async def test_what_an_interrupted_restart_has_stopped_is_started(cell: Stack) -> None:
    await asyncio.to_thread(cell.supervisor.stop, "session-0")

    code, _, err = await voicebus("restart", "session", "--run-dir", str(cell.run_dir))

    assert code == 0, err
    async with scene(cell) as on:
        await (await on.caller()).turn("short tone")


@pytest.mark.parametrize(("role", "name"), [("session", "session-0"), ("tools", "toolhost-0")])
async def test_what_an_interrupted_restart_is_stopping_still_is_waited_for_and_started(
    cell: Stack, role: str, name: str
) -> None:
    if role == "tools":
        await asyncio.to_thread(cell.supervisor.start, "toolhost-1")
    before = cell.pids()[name]
    os.kill(before, signal.SIGSTOP)  # it is long in ending
    stopping = asyncio.create_task(asyncio.to_thread(cell.supervisor.stop, name))
    async with asyncio.timeout(10):
        while cell.supervisor.now()[name].state != "STOPPING":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    again = asyncio.create_task(restart(cell, role))
    await asyncio.sleep(0.2)
    os.kill(before, signal.SIGCONT)
    await again
    await stopping

    assert cell.supervisor.now()[name].pid not in (0, before)


def test_a_role_that_does_not_run_is_named(cell: Stack) -> None:
    with pytest.raises(Problem, match="no recorder runs in"):
        Restart(cell.run_dir).role("recorder")


def test_a_folder_in_which_nothing_runs_is_named() -> None:
    with pytest.raises(Problem, match="does not run in"):
        Restart(Endpoints("/tmp/vb-nowhere").run_dir)
