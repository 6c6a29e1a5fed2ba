"""Whatever a tool does to its process or hands back, its call ends once and harms no other."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.services.tools.conftest import AMPLE_S, DrivenPool, failure, value
from voicebus.services.tools import pool, runner

ROUGH = str(Path(__file__).parent / "samples" / "rough.py")


@pytest.fixture
async def driven() -> AsyncIterator[DrivenPool]:
    """One runner and its spare."""
    made = DrivenPool(runner.Limits(timeout_s=AMPLE_S), 1, specs=(ROUGH,))
    await made.pool.start()
    try:
        yield made
    finally:
        made.pool.close()
    assert not made.failures, made.failures


@pytest.mark.parametrize(
    ("what", "read"),
    [
        ("nan", [None, None]),
        ("huge_int", 10**30),
        ("bytes", "/wA="),
        ("deepest", json.loads("[" * 100 + "]" * 100)),
    ],
)
async def test_what_json_has_no_word_for_becomes_what_is_nearest(
    driven: DrivenPool, what: str, read: object
) -> None:
    assert value(await driven.run("returns", what=what)) == read


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("endless_int", "returned a int that is not JSON"),
        ("generator", "returned a generator that is not JSON"),
        ("recursive", "returned a list that is not JSON"),
        ("deep", "nested more than 100 levels deep"),
        ("half_character", "returned a str that is not JSON"),
        ("half_key", "returned a dict that is not JSON"),
        ("class", "returned a type that is not JSON"),
        ("coroutine", "returned a coroutine that is not JSON"),
        ("coroutine", "a decorator hides that it is `async def`"),
    ],
)
async def test_what_is_no_answer_is_an_error_that_says_what_it_was(
    driven: DrivenPool, what: str, words: str
) -> None:
    result = await driven.run("returns", what=what)

    assert result.status == "error"
    assert words in failure(result).message


async def test_a_result_that_nobody_could_read_is_an_error(driven: DrivenPool) -> None:
    result = await driven.run("returns_deeper")

    assert result.status == "error"
    assert "nested more than 100 levels deep" in failure(result).message


@pytest.mark.parametrize("tool", ["raises", "raises_async"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("half_character", r"ValueError: no \ud800"),
        ("mute", "Mute: (its text cannot be had: RuntimeError)"),
        ("own", "Own: not an Exception"),
        ("keyboard", "KeyboardInterrupt"),
        ("exit", "the tool called sys.exit('bye')"),
        ("generator_exit", "GeneratorExit"),
        ("long", "ValueError: " + "x" * (runner.MESSAGE_LIMIT - 12)),
    ],
)
async def test_whatever_is_raised_is_an_error_and_not_the_end_of_the_runner(
    driven: DrivenPool, tool: str, what: str, message: str
) -> None:
    await driven.warm("sync", 2)
    before = set(driven.pool.pids())

    result = await driven.run(tool, what=what)

    assert (result.status, failure(result).message) == ("error", message)
    assert before <= set(driven.pool.pids())


@pytest.mark.parametrize("tool", ["raises", "raises_async"])
async def test_a_call_that_nobody_stopped_is_not_cancelled(driven: DrivenPool, tool: str) -> None:
    result = await driven.run(tool, what="cancelled")

    assert result.status == "error"
    assert "though nobody stopped it" in failure(result).message


@pytest.mark.parametrize("tool", ["closes_its_outputs", "replaces_its_outputs"])
async def test_without_an_output_an_error_is_told_all_the_same(
    driven: DrivenPool, tool: str
) -> None:
    result = await driven.run(tool)

    assert (result.status, failure(result).message) == ("error", "ValueError: no such city")


@pytest.mark.parametrize("tool", ["says_half_a_character", "floods_standard_output"])
async def test_what_a_tool_says_meanwhile_does_not_spoil_its_answer(
    driven: DrivenPool, tool: str
) -> None:
    assert value(await driven.run(tool)) == "done"


async def test_endless_recursion_is_an_error(driven: DrivenPool) -> None:
    result = await driven.run("recurses")

    assert result.status == "error"
    assert failure(result).message.startswith("RecursionError")


async def test_a_tool_that_breaks_its_own_runner_crashes_alone(driven: DrivenPool) -> None:
    assert (await driven.run("breaks_the_modules")).status == "crashed"
    assert value(await driven.run("rests", seconds=0)) == "rested"


async def test_a_tool_that_writes_over_the_link_has_begun_whatever_else_is_lost(
    driven: DrivenPool,
) -> None:
    # What never began would be run again, also where that does harm.
    results = [await driven.run("writes_to_every_descriptor") for _ in range(10)]

    assert {(one.status, one.started) for one in results} == {("crashed", True)}
    assert "wrote over its runner's link" in failure(results[0]).message
    assert value(await driven.run("rests", seconds=0)) == "rested"


async def test_memory_that_is_taken_bit_by_bit_ends_at_the_limit() -> None:
    driven = DrivenPool(runner.Limits(memory_mb=384, timeout_s=AMPLE_S), 1, specs=(ROUGH,))
    await driven.pool.start()
    try:
        result = await driven.run("eats_slowly")
    finally:
        driven.pool.close()

    assert (result.status, failure(result).message) == ("error", "MemoryError")


@pytest.mark.parametrize(
    ("tool", "ended_by"),
    [
        ("stops_itself", "SIGKILL"),
        ("blocks_all_signals", "SIGKILL"),
        ("forgets_the_dump", "SIGUSR1"),
    ],
)
async def test_a_cancel_ends_what_has_made_itself_deaf(
    driven: DrivenPool, tool: str, ended_by: str
) -> None:
    call_id = await driven.running(tool)
    await driven.heard(call_id, "deaf")

    driven.cancel(call_id)
    result = await driven.result(call_id)

    assert (result.status, failure(result).signal) == ("cancelled", ended_by)
    assert value(await driven.run("rests", seconds=0)) == "rested"


# --- what is left behind ------------------------------------------------------------------------


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def daemon(driven: DrivenPool, tool: str, pids: Path) -> tuple[str, int]:
    """The call, and the process without parent, group and session that it has started."""
    call_id = driven.begin(tool, pids=str(pids))
    written = ""
    async with asyncio.timeout(30):
        while not written.endswith("\n"):
            await asyncio.sleep(0.01)
            written = await asyncio.to_thread(_text, pids)
    return call_id, int(written)


def is_gone(pid: int) -> bool:
    """Whether it ends soon, or has."""
    try:
        psutil.Process(pid).wait(10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.mark.parametrize(
    "tool",
    ["leaves_a_daemon_and_sleeps", "leaves_a_daemon_and_dies", "leaves_a_daemon_and_listens"],
)
async def test_a_daemon_ends_with_the_runner_that_it_came_from(
    driven: DrivenPool, tool: str, folder: Path
) -> None:
    call_id, stray = await daemon(driven, tool, folder / "pids")

    driven.cancel(call_id)
    result = await driven.result(call_id)

    assert result.status in ("cancelled", "crashed")
    assert is_gone(stray)


async def test_a_daemon_of_a_call_that_ended_well_ends_with_the_pool(folder: Path) -> None:
    driven = DrivenPool(runner.Limits(), 1, specs=(ROUGH,))
    await driven.pool.start()
    call_id, stray = await daemon(driven, "leaves_a_daemon_and_answers", folder / "pids")
    assert value(await driven.result(call_id)) == "done"
    assert psutil.pid_exists(stray)

    driven.pool.close()

    assert is_gone(stray)


async def test_a_runner_on_which_too_much_hangs_is_replaced(
    driven: DrivenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CHILDREN_LIMIT", 8)
    pids = [value(await driven.run("leaves_children")) for _ in range(40)]

    assert len(set(pids)) > 1
    assert max(map(pids.count, pids)) <= runner.COUNT_CHILDREN_EVERY


@pytest.mark.parametrize("kind", ["REAL", "VIRTUAL", "PROF", "traceback"])
async def test_no_alarm_is_left_for_the_next_call(driven: DrivenPool, kind: str) -> None:
    for _ in range(2):  # the runner, and its spare
        await driven.warm("sync", 2)
        await driven.run("leaves_an_alarm", kind=kind)

    for _ in range(2):
        assert value(await driven.run("works")) == "worked"


async def test_no_deafness_is_left_for_the_next_call(driven: DrivenPool) -> None:
    await driven.run("leaves_a_signal_ignored")
    call_id = await driven.running("rests", seconds=60)
    driven.cancel(call_id)

    assert failure(await driven.result(call_id)).signal == "SIGTERM"


# --- contexts in other hands --------------------------------------------------------------------


async def test_a_context_in_forked_children_does_no_harm(driven: DrivenPool) -> None:
    assert value(await driven.run("looks_in_children")) == "exit codes [0, 0, 0]"
    assert value(await driven.run("rests", seconds=0)) == "rested"


async def test_threads_may_tell_while_a_long_answer_goes_out(driven: DrivenPool) -> None:
    call_id = driven.begin("looks_in_threads")

    assert len(value(await driven.result(call_id))) == 250_000
    assert set(driven.said[call_id]) == {"looking"}
    assert value(await driven.run("rests", seconds=0)) == "rested"


async def test_a_cancel_reaches_every_thread(driven: DrivenPool) -> None:
    call_id = await driven.running("waits_in_threads")

    driven.cancel(call_id)

    assert value(await driven.result(call_id)) == ",".join(["interrupt"] * 8)


async def test_a_thread_that_was_left_behind_is_told_to_stop_and_takes_no_call(
    driven: DrivenPool,
) -> None:
    # Each call has the runner to itself, and comes to the one that served the first, or its spare.
    for _ in range(2):
        assert value(await driven.run("leaves_a_thread_that_looks")) == "left"

    for _ in range(2):
        assert "its call has ended" in value(await driven.run("says_what_was_looked_at"))


async def test_a_look_of_one_call_takes_no_other_calls_of_its_process(driven: DrivenPool) -> None:
    await driven.warm("async", 2)
    holding = [await driven.running("looks_after_a_while", seconds=0.5) for _ in range(2)]
    others = [driven.begin("answers_at_once") for _ in range(4)]  # while the loops are held up

    assert [value(await driven.result(one)) for one in others] == ["here"] * 4

    for one in holding:
        driven.cancel(one)
    assert [(await driven.result(one)).status for one in holding] == ["cancelled"] * 2


async def test_a_task_that_was_left_behind_and_exits_ends_no_other_call(driven: DrivenPool) -> None:
    await driven.warm("async", 2)
    waiting = [await driven.running("waits_for_a_task_that_exits") for _ in range(2)]

    for _ in range(2):
        assert value(await driven.run("leaves_a_task_that_exits")) == "left"

    # Each process that has it; the second call may have come to the first one's.
    first, _ = await asyncio.wait(
        [driven.results[one] for one in waiting], return_when=asyncio.FIRST_COMPLETED
    )
    assert {value(one.result()) for one in first} == {"still here"}


async def test_a_cancel_that_a_thread_has_seen_ends_the_task(driven: DrivenPool) -> None:
    for _ in range(10):
        call_id = await driven.running("has_a_thread_look")

        driven.cancel(call_id)

        assert (await driven.result(call_id)).status == "cancelled"


async def test_each_call_begins_in_the_same_folder(driven: DrivenPool) -> None:
    home = value(await driven.run("says_where_it_is"))
    for _ in range(4):
        assert value(await driven.run("goes_to_a_folder_that_goes")) == "gone"
        assert value(await driven.run("says_where_it_is")) == home


async def test_a_fork_server_that_hears_of_a_stopped_child_still_tells_of_the_dead(
    driven: DrivenPool,
) -> None:
    await driven.warm("sync", 2)
    first, second = driven.pool.pids()[:2]

    os.kill(first, signal.SIGSTOP)
    os.kill(second, signal.SIGKILL)
    async with asyncio.timeout(30):
        while second in driven.pool.pids():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    os.kill(first, signal.SIGCONT)

    assert value(await driven.run("rests", seconds=0)) == "rested"
