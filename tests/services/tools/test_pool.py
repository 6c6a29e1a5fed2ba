"""Real runner processes: whatever a tool does, its call ends once and its process is dealt with."""

import asyncio
import errno
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.services.tools.conftest import DrivenPool, failure, value
from voicebus.bus.messages import work
from voicebus.services.tools import confine, runner


async def test_a_result_comes_back_as_it_was_returned(driven: DrivenPool) -> None:
    result = await driven.run("echo", text="grüße")

    assert (result.status, value(result)) == ("ok", "grüße")


async def test_what_a_tool_raises_is_told_with_what_it_wrote(driven: DrivenPool) -> None:
    result = await driven.run("fails")

    assert result.status == "error"
    assert failure(result).message == "ValueError: no such city"
    assert "looking up" in (failure(result).stderr_tail or "")


async def test_what_a_tool_logs_is_told_with_its_failure(driven: DrivenPool) -> None:
    result = await driven.run("logs_and_fails")

    tail = failure(result).stderr_tail or ""
    assert tail.startswith("INFO voicebus.tool.logs_and_fails: page 7 of the directory")


async def test_an_object_keeps_its_state_in_its_runner(driven: DrivenPool) -> None:
    answers = [value(await driven.run("tally")) for _ in range(6)]

    seen: dict[int, list[int]] = {}
    for pid, count in answers:
        seen.setdefault(pid, []).append(count)
    assert all(counts == list(range(1, len(counts) + 1)) for counts in seen.values())
    assert max(map(len, seen.values())) > 1


async def test_wrong_arguments_are_refused_before_the_code_runs(driven: DrivenPool) -> None:
    result = await driven.run("echo", txt="hello")

    assert (result.status, result.started) == ("invalid_arguments", False)
    assert failure(result).message == "unknown argument 'txt'; did you mean 'text'?"


async def test_a_tool_that_is_not_here_is_unknown(driven: DrivenPool) -> None:
    result = await driven.run("nowhere")

    assert (result.status, result.started) == ("unknown_tool", False)


STUCK = ["spin_python", "sleep_long", "hold_gil", "backtrack", "read_socket"]


@pytest.mark.parametrize("tool", STUCK)
async def test_a_tool_that_does_not_look_is_killed_after_its_grace(
    driven: DrivenPool, tool: str
) -> None:
    call_id = await driven.running(tool)

    driven.cancel(call_id)
    result = await driven.result(call_id)

    assert (result.status, failure(result).signal) == ("cancelled", "SIGTERM")
    assert result.cancel_seen_us is None


async def test_a_tool_that_ignores_every_signal_is_killed_for_good(driven: DrivenPool) -> None:
    call_id = await driven.running("ignores_everything")
    await driven.heard(call_id, "deaf")

    driven.cancel(call_id)
    result = await driven.result(call_id)

    assert (result.status, failure(result).signal) == ("cancelled", "SIGKILL")


async def test_a_kill_takes_all_that_the_tool_started_with_it(
    driven: DrivenPool, folder: Path
) -> None:
    pids = folder / "pids"
    call_id = await driven.running("fork_tree", pids=str(pids), count=20)
    async with asyncio.timeout(30):
        while not pids.exists() or len(pids.read_text().split()) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    children = [psutil.Process(int(pid)) for pid in pids.read_text().split()]

    driven.cancel(call_id)
    await driven.result(call_id)
    _, alive = psutil.wait_procs(children, timeout=10)

    assert alive == []


@pytest.mark.parametrize("tool", ["polite", "sleeps_politely"])
async def test_a_tool_that_looks_stops_by_itself(driven: DrivenPool, tool: str) -> None:
    call_id = await driven.running(tool)

    driven.cancel(call_id)
    result = await driven.result(call_id)

    assert (result.status, failure(result).signal) == ("cancelled", None)
    assert result.cancel_seen_us is not None


async def test_an_answer_given_in_spite_of_a_cancel_is_an_answer(driven: DrivenPool) -> None:
    call_id = await driven.running("finishes_anyway")

    driven.cancel(call_id)
    result = await driven.result(call_id)

    assert (result.status, value(result)) == ("ok", "all the same")


@pytest.mark.parametrize(
    ("tool", "signal_name"), [("too_slow", "SIGTERM"), ("too_slow_but_polite", None)]
)
async def test_a_deadline_ends_a_call_as_timeout(
    driven: DrivenPool, tool: str, signal_name: str | None
) -> None:
    await driven.free("sync", 1)

    result = await driven.run(tool)

    assert (result.status, failure(result).signal) == ("timeout", signal_name)
    assert "0.3 s" in failure(result).message


async def test_leaving_without_a_word_is_a_crash_with_its_exit_code(driven: DrivenPool) -> None:
    result = await driven.run("exits", code=7)

    assert (result.status, failure(result).exit_code) == ("crashed", 7)
    assert failure(result).stderr_tail == "last words"


async def test_a_segfault_is_a_crash_with_signal_and_place(driven: DrivenPool) -> None:
    result = await driven.run("segfault")

    assert (result.status, failure(result).signal) == ("crashed", "SIGSEGV")
    tail = failure(result).stderr_tail or ""
    assert "about to fall" in tail
    assert "in segfault" in tail
    assert "runner.py" not in tail


async def test_a_flood_of_standard_error_leaves_its_last_lines(driven: DrivenPool) -> None:
    result = await driven.run("floods")

    tail = failure(result).stderr_tail or ""
    assert result.status == "crashed"
    assert "the very last line" in tail
    assert len(tail) < 8000


async def test_sys_exit_is_an_error_and_not_the_end_of_the_runner(driven: DrivenPool) -> None:
    before = set(driven.pool.pids())
    result = await driven.run("sys_exits")

    assert (result.status, failure(result).message) == ("error", "the tool called sys.exit(3)")
    assert before <= set(driven.pool.pids())


async def test_a_result_that_is_not_json_says_what_it_was(driven: DrivenPool) -> None:
    result = await driven.run("returns_a_socket")

    assert result.status == "error"
    assert "returned a socket that is not JSON" in failure(result).message


async def test_a_result_of_100_mb_is_refused_with_size_and_limit(driven: DrivenPool) -> None:
    result = await driven.run("returns_much", size=100_000_000)

    assert result.status == "error"
    assert "100000002 bytes, the limit is 262144" in failure(result).message


async def test_more_memory_than_a_runner_may_have_is_an_error(driven: DrivenPool) -> None:
    result = await driven.run("eats_memory")

    assert (result.status, failure(result).message) == ("error", "MemoryError")


async def test_closing_every_descriptor_is_a_crash(driven: DrivenPool) -> None:
    result = await driven.run("closes_its_link")

    assert result.status == "crashed"


async def test_after_each_of_these_the_pool_has_all_its_places_again(driven: DrivenPool) -> None:
    for tool in ("segfault", "too_slow", "closes_its_link", "fails"):
        await driven.run(tool)

    await driven.free("sync", 3)

    assert (await driven.run("echo", text="still here")).status == "ok"


async def test_a_tool_that_forks_answers_once(driven: DrivenPool) -> None:
    assert value(await driven.run("forks")) == "parent"
    assert value(await driven.run("echo", text="next")) == "next"


async def test_a_tool_finds_no_secret(driven: DrivenPool) -> None:
    found = value(await driven.run("environment"))

    assert "sk-secret" not in str(found)
    assert not [name for name in found if name.startswith("VOICEBUS_")]
    assert "PATH" in found


async def test_a_runner_yields_to_everything_else_and_leads_its_own_session(
    driven: DrivenPool,
) -> None:
    found = value(await driven.run("priority"))

    assert found == {
        "nice": 19,
        "session_nice": 19,
        "session_leader": 1,
        "sigterm_is_default": 1,
        "stdin_bytes": 0,
    }


async def test_progress_arrives_while_the_tool_runs(driven: DrivenPool) -> None:
    call_id = driven.begin("counts", up_to=2)

    assert value(await driven.result(call_id)) == 2
    assert driven.said[call_id] == ["at 0", "at 1"]


async def test_the_idempotency_key_names_the_call(driven: DrivenPool) -> None:
    call_id = driven.begin("identity")

    assert value(await driven.result(call_id))["key"].endswith(f"/{call_id}")


async def test_a_cancel_that_comes_before_its_call_ends_it_before_it_begins(
    driven: DrivenPool,
) -> None:
    await driven.free("sync", 3)
    driven.cancel("c1")

    result = await driven.run("sleep_long")

    assert (result.status, result.started) == ("cancelled", False)


async def test_a_call_without_a_free_runner_can_be_cancelled_too(driven: DrivenPool) -> None:
    # One more than the warm spare can take, too.
    busy = [await driven.running("sleep_long") for _ in range(3)]
    waiting = [driven.begin("sleep_long") for _ in range(2)]

    for call_id in [*waiting, *busy]:
        driven.cancel(call_id)
    results = [await driven.result(one) for one in [*waiting, *busy]]

    assert {one.status for one in results} == {"cancelled"}
    assert results[1].started is False


async def test_async_tools_share_a_process_and_are_cancelled_alone(driven: DrivenPool) -> None:
    one = await driven.running("async_sleep", seconds=0.3)
    other = await driven.running("async_sleep", seconds=60)

    driven.cancel(other)

    assert (await driven.result(other)).status == "cancelled"
    assert value(await driven.result(one)) == "slept 0.3"


async def test_what_one_async_call_has_written_is_not_told_of_another(driven: DrivenPool) -> None:
    await driven.warm("async", 2)
    beside = [await driven.running("async_sleep", seconds=60) for _ in range(2)]  # one in each
    await driven.run("async_prints", text="of somebody else")

    for one in beside:
        driven.cancel(one)

    assert [failure(await driven.result(one)).stderr_tail for one in beside] == [None, None]


async def test_an_async_tool_that_blocks_the_loop_takes_only_its_own_blame(
    driven: DrivenPool,
) -> None:
    await driven.warm("async", 2)
    beside = await driven.running("async_sleep", seconds=60)
    elsewhere = await driven.running("async_sleep", seconds=60)
    guilty = await driven.running("async_blocks")

    driven.cancel(guilty)
    results = [await driven.result(one) for one in (guilty, beside)]
    driven.cancel(elsewhere)

    assert [one.status for one in results] == ["cancelled", "lost"]
    assert "'async_blocks' in it would not stop" in failure(results[1]).message
    assert (await driven.result(elsewhere)).cancel_seen_us is not None


async def test_the_pool_comes_back_when_its_fork_server_is_killed(driven: DrivenPool) -> None:
    await driven.free("sync", 3)
    call_id = await driven.running("sleep_long")
    parents = {psutil.Process(pid).ppid() for pid in driven.pool.pids()}

    for pid in parents:
        os.kill(pid, signal.SIGKILL)
    result = await driven.result(call_id)
    await driven.free("sync", 3)

    assert len(parents) == 1
    assert result.status == "crashed"
    assert (await driven.run("echo", text="again")).status == "ok"


async def test_a_pool_that_gets_no_new_fork_server_says_so(
    driven: DrivenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    await driven.free("sync", 3)
    server = driven.pool.server_pid()
    assert server is not None
    monkeypatch.setattr("subprocess.Popen", refuse)
    os.kill(server, signal.SIGKILL)

    assert "Resource temporarily unavailable" in str(await driven.given_up())


async def test_a_pool_that_gets_no_new_runner_says_so(
    driven: DrivenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    call_id = await driven.running("sleep_long")
    monkeypatch.setattr("os.pipe", refuse)
    driven.cancel(call_id)

    assert "Too many open files" in str(await driven.given_up())
    assert (await driven.result(call_id)).status == "cancelled"


async def test_a_runner_is_replaced_after_its_number_of_calls() -> None:
    driven = DrivenPool(runner.Limits(), runners=1, recycle_calls=2)
    await driven.pool.start()
    pids = [value(await driven.run("identity"))["pid"] for _ in range(8)]
    driven.pool.close()

    assert max(pids.count(one) for one in pids) == 2


async def test_closing_the_pool_ends_its_calls_as_lost_and_all_its_processes() -> None:
    others = set(psutil.Process().children(recursive=True))
    driven = DrivenPool(runner.Limits(), runners=1)
    await driven.pool.start()
    call_id = await driven.running("sleep_long")
    children = [one for one in psutil.Process().children(recursive=True) if one not in others]

    driven.pool.close()
    result: work.Result = await driven.result(call_id)
    gone = await driven.pool.gone(10)

    assert (result.status, result.started) == ("lost", True)
    assert len(children) > 2
    assert gone
    assert confine.living([one.pid for one in children]) == []
