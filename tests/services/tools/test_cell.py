"""Dispatcher and tool host as processes on real sockets; the test is the session process."""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

import voicebus
from tests.services.tools.conftest import Cell

WORKER = Path(voicebus.__file__).parents[2] / "examples" / "workers" / "worker.py"


async def test_a_submitted_call_ends_and_is_forgotten_once_acknowledged(cell: Cell) -> None:
    outcome = await cell.run("echo", text="hello")

    assert (outcome.status, outcome.result) == ("ok", "hello")


async def test_a_call_that_takes_a_moment_is_told_to_have_begun(cell: Cell) -> None:
    outcome = await cell.run("counts", up_to=2)

    assert outcome.call_id in cell.begun


async def test_an_outcome_nobody_acknowledges_is_told_again(cell: Cell) -> None:
    cell.acknowledges = False
    outcome = await cell.run("echo", text="hello")

    await cell.until(lambda: cell.repeats > 0)

    assert cell.outcomes[outcome.call_id].result == "hello"


async def test_the_broadcast_reaches_a_running_tool(cell: Cell) -> None:
    call_id = await cell.running("polite")

    cell.broadcast(call_id)
    outcome = await cell.outcome(call_id)

    assert outcome.status == "cancelled"
    assert outcome.cancel_seen_us is not None


async def test_so_does_the_cancel_that_goes_through_the_dispatcher(cell: Cell) -> None:
    call_id = await cell.running("sleeps_politely")

    cell.cancel(call_id)

    assert (await cell.outcome(call_id)).status == "cancelled"


async def test_the_broadcast_alone_gets_a_tool_killed_that_does_not_look(cell: Cell) -> None:
    call_id = await cell.running("hold_gil")

    cell.broadcast(call_id)
    outcome = await cell.outcome(call_id)

    assert outcome.status == "cancelled"
    assert outcome.failure is not None
    assert outcome.failure.signal == "SIGTERM"


async def test_each_rung_of_the_ladder_is_in_the_log_with_its_time(cell: Cell) -> None:
    call_id = await cell.running("ignores_everything")
    await cell.until(lambda: cell.said.get(call_id) == ["deaf"])

    cell.cancel(call_id)
    await cell.outcome(call_id)

    lines = [msgspec.json.decode(line) for line in cell.log_of("toolhost", call_id).splitlines()]
    told = [(line["event"], line.get("signal")) for line in lines]
    assert told == [
        ("runner.signalled", "SIGTERM"),
        ("runner.signalled", "SIGKILL"),
        ("runner.stopped", "SIGKILL"),
        ("tool.stack_dumped", None),
    ]
    assert lines[2]["ms_after_asking"] > lines[2]["ms_after_signal"] > 0
    assert "in ignores_everything" in lines[3]["stack"]


async def test_a_crash_is_told_with_signal_and_last_words(cell: Cell) -> None:
    outcome = await cell.run("segfault")

    assert outcome.status == "crashed"
    assert outcome.failure is not None
    assert outcome.failure.signal == "SIGSEGV"
    assert "about to fall" in (outcome.failure.stderr_tail or "")


async def test_progress_reaches_the_session(cell: Cell) -> None:
    outcome = await cell.run("counts", up_to=2)

    assert cell.said[outcome.call_id] == ["at 0", "at 1"]


async def test_a_deadline_holds_while_the_dispatcher_is_away(cell: Cell) -> None:
    call_id = cell.submit("sleep_long", budget_ms=4000)
    await cell.until(lambda: call_id in cell.begun)

    cell.kill("dispatcher-0")
    async with asyncio.timeout(30):
        while "runner.stopped" not in cell.log_of("toolhost", call_id):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    cell.start("dispatcher")
    cell.follow()
    cell.submit_again(call_id)
    outcome = await cell.outcome(call_id)

    # The host's word, and not that of the dispatcher, which would say so of a silent one.
    assert outcome.status == "timeout"
    assert outcome.failure is not None
    assert "was stopped by force" in outcome.failure.message


async def test_more_calls_than_a_conversation_may_have_are_busy(cell: Cell) -> None:
    calls = [cell.submit("sleeps_politely") for _ in range(13)]

    refused = await cell.outcome(calls[-1])
    for call_id in calls[:-1]:
        cell.cancel(call_id)
    others = [(await cell.outcome(one)).status for one in calls[:-1]]

    assert refused.status == "busy"
    assert others == ["cancelled"] * 12


async def test_a_killed_host_leaves_a_once_call_unknown(cell: Cell) -> None:
    call_id = await cell.running("sleep_long")

    cell.kill("toolhost-0")
    outcome = await cell.outcome(call_id)

    assert outcome.status == "unknown"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_what_a_tool_has_started_ends_with_its_host(
    cell: Cell, folder: Path, how: signal.Signals
) -> None:
    pids = folder / "pids"
    await cell.running("fork_tree", pids=str(pids), count=4)
    async with asyncio.timeout(30):
        while not pids.exists() or len(pids.read_text().split()) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    children = [psutil.Process(int(pid)) for pid in pids.read_text().split()]

    cell.kill("toolhost-0", how)
    _, alive = psutil.wait_procs(children, timeout=10)

    assert alive == []


async def test_a_harmless_call_of_a_killed_host_runs_again_elsewhere(cell: Cell) -> None:
    call_id = await cell.running("reads_slowly")
    cell.start("toolhost", 1)

    cell.kill("toolhost-0")
    outcome = await cell.outcome(call_id)

    assert (outcome.status, outcome.result) == ("ok", 2)


async def test_a_frozen_host_that_wakes_up_tells_its_result_late(cell: Cell) -> None:
    call_id = await cell.running("sleeps_politely")

    cell.kill("toolhost-0", signal.SIGSTOP)
    outcome = await cell.outcome(call_id)
    cell.processes["toolhost-0"].send_signal(signal.SIGCONT)
    cell.broadcast(call_id)
    await cell.until(lambda: bool(cell.late))

    assert outcome.status == "unknown"
    assert [one.status for one in cell.late] == ["cancelled"]


async def test_a_running_call_survives_the_dispatcher(cell: Cell) -> None:
    call_id = await cell.running("counts", up_to=30)

    cell.kill("dispatcher-0")
    cell.start("dispatcher")
    cell.follow()
    cell.submit_again(call_id)
    outcome = await cell.outcome(call_id)

    assert (outcome.status, outcome.result) == ("ok", 30)


async def test_a_result_of_the_time_without_dispatcher_is_not_lost(cell: Cell) -> None:
    call_id = await cell.running("counts", up_to=5)

    cell.kill("dispatcher-0", signal.SIGTERM)
    cell.start("dispatcher")
    cell.follow()
    cell.submit_again(call_id)

    assert (await cell.outcome(call_id)).result == 5


async def test_a_once_call_is_unknown_when_dispatcher_and_host_are_both_gone(cell: Cell) -> None:
    call_id = await cell.running("sleep_long")

    cell.kill("dispatcher-0")
    cell.kill("toolhost-0")
    cell.start("dispatcher")
    cell.start("toolhost")
    cell.follow()
    cell.submit_again(call_id)

    assert (await cell.outcome(call_id)).status == "unknown"


async def test_a_stopped_host_finishes_what_runs_and_leaves(cell: Cell) -> None:
    call_id = await cell.running("counts", up_to=5)

    code = cell.kill("toolhost-0", signal.SIGTERM)

    assert code == 0
    assert (await cell.outcome(call_id)).result == 5


@pytest.mark.parametrize("frame", [b"", b"nonsense", b"[]", b'{"kind":"no"}', b"{" * 100_000])
async def test_nonsense_disturbs_nobody(cell: Cell, frame: bytes) -> None:
    stranger = cell.sockets.dealer(cell.endpoints.workers, lambda _frames: None, name="stranger")
    caller = cell.sockets.dealer(cell.endpoints.calls, lambda _frames: None, name="caller")

    stranger.send([frame])
    caller.send([frame, frame])

    assert (await cell.run("echo", text="hello")).status == "ok"


@pytest.mark.parametrize("budget_ms", [0, -1, -(10**12), 10**12, 10**30])
async def test_a_call_with_an_odd_budget_ends_and_disturbs_nobody(
    cell: Cell, budget_ms: int
) -> None:
    odd = cell.submit("echo", budget_ms=budget_ms, text="hello")

    assert (await cell.run("echo", text="hello")).status == "ok"
    assert (await cell.outcome(odd)).status in ("ok", "timeout", "busy")
    assert cell.processes["dispatcher-0"].poll() is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"result": json.loads("[" * 101 + "]" * 101)}',
         "is nested too deeply, the limit is 100 levels"),
        ('{"result": json.loads("[" * 900 + "]" * 900)}',
         "is nested too deeply, the limit is 100 levels"),
        ('{"failure": "no words"}', "cannot be read (worker to dispatcher: Expected `object"),
        ('{"status": "well"}', "cannot be read (worker to dispatcher: Invalid enum value 'well'"),
    ],
)  # fmt: skip
async def test_a_result_that_no_conversation_can_take_is_an_error_that_says_so(
    cell: Cell, folder: Path, answer: str, said: str
) -> None:
    careless = folder / "careless.py"
    careless.write_text(WORKER.read_text("utf-8").replace('{"result": words}', answer))
    cell.start_stranger([sys.executable, str(careless)])
    await cell.until(lambda: "shout" in cell.catalogue)

    outcome = await cell.run("shout", text="ho")

    assert outcome.status == "error"
    assert outcome.failure is not None
    assert said in outcome.failure.message


async def test_the_deepest_result_reaches_the_conversation(cell: Cell, folder: Path) -> None:
    careful = folder / "careful.py"
    deepest = '{"result": json.loads("[" * 100 + "]" * 100)}'
    careful.write_text(WORKER.read_text("utf-8").replace('{"result": words}', deepest))
    cell.start_stranger([sys.executable, str(careful)])
    await cell.until(lambda: "shout" in cell.catalogue)

    assert (await cell.run("shout", text="ho")).status == "ok"


async def test_a_worker_in_plain_zeromq_serves_calls_and_cancels(cell: Cell) -> None:
    cell.start_stranger([sys.executable, str(WORKER)])
    await cell.until(lambda: "shout" in cell.catalogue)

    answered = await cell.run("shout", text="hello")
    stopped = await cell.running("shout", text="later", seconds=60)
    cell.cancel(stopped)
    await cell.outcome(stopped)

    assert (answered.status, answered.result) == ("ok", "HELLO!")
    assert cell.outcomes[stopped].status == "cancelled"


async def test_a_result_that_is_too_long_for_a_conversation_is_an_error_that_says_so(
    cell: Cell, folder: Path
) -> None:
    careless = folder / "careless.py"
    careless.write_text(WORKER.read_text("utf-8").replace("len(words) > LONGEST", "False"))
    cell.start_stranger([sys.executable, str(careless)])
    await cell.until(lambda: "shout" in cell.catalogue)

    outcome = await cell.run("shout", text="ho", times=5_000_000)
    after = await cell.run("shout", text="ho")

    assert outcome.status == "error"
    assert outcome.failure is not None
    assert "bytes, the limit is 1048576" in outcome.failure.message
    assert after.status == "ok"


async def test_a_worker_in_plain_zeromq_survives_the_dispatcher(cell: Cell) -> None:
    cell.start_stranger([sys.executable, str(WORKER)])
    await cell.until(lambda: "shout" in cell.catalogue)
    call_id = await cell.running("shout", text="later", seconds=1)

    cell.kill("dispatcher-0")
    cell.start("dispatcher")
    cell.follow()
    cell.submit_again(call_id)
    outcome = await cell.outcome(call_id)

    assert (outcome.status, outcome.result) == ("ok", "LATER!")
