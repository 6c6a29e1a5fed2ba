"""What a worker must do, one rule after the other, in the order in which a stranger builds it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from voicebus.bus.messages import base, work
from voicebus.services.tools import offer
from voicebus.services.tools.conformance.bench import SESSION, Bench, Broken

START_S = 15.0
SOON_S = 2.0
SILENT_S = 1.5
"""After so long without a word the dispatcher takes a worker for lost."""
RESULT_LIMIT_BYTES = 1024 * 1024
SLOW_BUDGET_MS = 30_000


@dataclass(frozen=True)
class Sample:
    """A call that the worker can be given."""

    tool: str
    args: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The calls that the checks are made with. Without one, its checks are left out."""

    quick: Sample | None = None
    """Ends `ok` within two seconds."""
    slow: Sample | None = None
    """Runs for ten seconds or more if nobody stops it."""
    large: Sample | None = None
    """Would return more than 1 MiB."""
    crash: Sample | None = None
    """Goes wrong in the tool's own code."""


class Skipped(Exception):
    """A check that was not made, and why."""


@dataclass
class Subject:
    """The worker that is being checked."""

    bench: Bench
    samples: Samples
    start: Callable[[], subprocess.Popen[bytes]] | None = None
    """Starts its process; None when somebody else does."""
    process: subprocess.Popen[bytes] | None = None
    hello: work.WorkerHello | None = None
    credit: work.Credit | None = None
    notes: list[str] = field(default_factory=list)

    def sample(self, which: str) -> Sample:
        """The call for a check. Raises Skipped."""
        found: Sample | None = getattr(self.samples, which)
        if found is None:
            raise Skipped(f"give a call with --{which} TOOL='{{…}}'")
        return found

    async def begin(self, which: str, *, budget_ms: int = SLOW_BUDGET_MS) -> tuple[str, int]:
        """Give it that call; returns its id and the mark before it, once it has begun."""
        sample, mark = self.sample(which), self.bench.mark
        call = self.bench.call(sample.tool, sample.args, budget_ms)
        await self.bench.expect(
            work.Started,
            f"'started' of {call.call_id}",
            after=mark,
            within_s=SOON_S,
            fits=lambda one: one.call_id == call.call_id,
        )
        return call.call_id, mark

    async def result(self, call_id: str, mark: int, within_s: float = SOON_S) -> work.Result:
        """How the call ended, once."""
        return await self.bench.expect(
            work.Result,
            f"a result of {call_id}",
            after=mark,
            within_s=within_s,
            fits=lambda one: one.call_id == call_id,
        )

    async def stop(self, call_id: str, mark: int) -> work.Result:
        """Cancel it, hear how it ended, and acknowledge."""
        self.bench.cancel(call_id)
        found = await self.result(call_id, mark)
        self.bench.acked(call_id)
        return found


def require(condition: object, what: str) -> None:
    """Raises Broken with that text."""
    if not condition:
        raise Broken(what)


def _reason(result: work.Result) -> None:
    require(
        result.failure is not None and result.failure.message,
        f"a result that is '{result.status}' needs failure: {{\"message\": …}}, words for the "
        "model",
    )


# --- coming -----------------------------------------------------------------------------------


async def registration(subject: Subject) -> None:
    """says hello first, with its name, its incarnation and its tools, and again until welcome"""
    bench = subject.bench
    hello = await bench.expect(work.WorkerHello, "'hello'", after=0, within_s=START_S)
    require(isinstance(bench.heard[0][1], work.WorkerHello), "'hello' must be its first word")
    require(hello.name and hello.inc, "'hello' must have a name and an inc that are not empty")
    require(hello.capacity >= 1, f"capacity is {hello.capacity}; it must be 1 or more")
    require(hello.tools, "'hello' names no tools")
    for tool in hello.tools:
        why = offer.fault(tool)
        require(why is None, why or "")
    require(not hello.running and not hello.unacked, "a fresh worker runs and holds no calls")
    mark = bench.mark
    await bench.expect(
        work.WorkerHello, "'hello' again, as no welcome came", after=mark, within_s=3.0
    )
    subject.hello = hello


async def credit(subject: Subject) -> None:
    """tells after welcome how many calls it can take"""
    mark = subject.bench.mark
    subject.bench.welcome()
    found = await subject.bench.expect(work.Credit, "'credit'", after=mark, within_s=SOON_S)
    capacity = subject.hello.capacity if subject.hello else 1
    require(
        1 <= found.free <= capacity,
        f"credit is {found.free} for an idle worker with capacity {capacity}",
    )
    subject.credit = found


async def heartbeat(subject: Subject) -> None:
    """beats often enough not to be taken for lost"""
    mark, bench = subject.bench.mark, subject.bench
    await bench.quiet(SILENT_S)
    times = [at for at, one in bench.heard[mark:] if isinstance(one, work.Heartbeat)]
    require(
        len(times) >= 3,
        f"{len(times)} heartbeats in {SILENT_S:g} s; expected one every 250 ms",
    )


# --- calls ------------------------------------------------------------------------------------


async def ordinary_call(subject: Subject) -> None:
    """begins a call, ends it with a result, counts it, and has its place free again"""
    bench = subject.bench
    sample, mark = subject.sample("quick"), bench.mark
    call_id = bench.call(sample.tool, sample.args).call_id
    result = await subject.result(call_id, mark)
    require(result.status == "ok", f"the quick call ended as '{result.status}', expected 'ok'")
    await bench.quiet(0.05)
    said = [one for _, one in bench.heard[mark:]]
    kinds = [type(one) for one in said if isinstance(one, work.Started | work.Result)]
    if any(isinstance(one, work.WorkerHello) for one in said):
        kinds = list(dict.fromkeys(kinds))  # it was welcomed, and brought what it holds
    require(
        kinds in ([work.Started, work.Result], [work.Result]),
        "'started' comes before the result, each once; or no 'started' where it ends at once",
    )
    await bench.expect(
        work.Credit,
        "'credit' with received 1, now that a call has come and gone",
        after=mark,
        within_s=SOON_S,
        fits=lambda one: one.free >= 1 and one.received == 1,
    )
    bench.acked(call_id)


async def repeated_after_its_end(subject: Subject) -> None:
    """answers a call that has ended, and was not acknowledged, with the kept result"""
    bench = subject.bench
    sample, mark = subject.sample("quick"), bench.mark
    call = bench.call(sample.tool, sample.args)
    first = await subject.result(call.call_id, mark)
    again = bench.mark
    bench.say(call)
    second = await subject.result(call.call_id, again)
    require(
        not bench.since(again, work.Started), "it ran the same call twice: 'started' came again"
    )
    require(first == second, "the result that was asked for again differs from the first")
    bench.acked(call.call_id)


async def unknown_tool(subject: Subject) -> None:
    """answers a call of a tool that it does not have, and lives on"""
    mark = subject.bench.mark
    call = subject.bench.call("no_such_tool", {})
    result = await subject.result(call.call_id, mark)
    require(
        result.status == "unknown_tool", f"it ended as '{result.status}', expected 'unknown_tool'"
    )
    _reason(result)
    subject.bench.acked(call.call_id)


async def progress(subject: Subject) -> None:
    """may tell how far it is, between 'started' and the result"""
    call_id, mark = await subject.begin("slow")
    await subject.bench.quiet(0.5)
    said = subject.bench.since(mark, work.Progress)
    await subject.stop(call_id, mark)
    if not said:
        raise Skipped("the slow call told no progress in its first 0.5 s, which is allowed")
    require(all(one.call_id == call_id for one in said), "progress names another call")


async def repeated_while_it_runs(subject: Subject) -> None:
    """answers a call that it runs already with 'started', and does not run it twice"""
    bench, sample, mark = subject.bench, subject.sample("slow"), subject.bench.mark
    call = bench.call(sample.tool, sample.args, SLOW_BUDGET_MS)
    await bench.expect(work.Started, "'started'", after=mark, within_s=SOON_S)
    again = bench.mark
    bench.say(call)
    await bench.expect(
        work.Started, "'started' for the call that is asked for again", after=again, within_s=SOON_S
    )
    beat = await bench.expect(
        work.Heartbeat, "a heartbeat while the call runs", after=bench.mark, within_s=SOON_S
    )
    named = [one.call_id for one in beat.running]
    require(
        named == [call.call_id], f"the heartbeat's running is {named}, expected [{call.call_id}]"
    )
    await subject.stop(call.call_id, mark)
    await bench.quiet(0.3)
    ends = [one for one in bench.since(mark, work.Result) if one.call_id == call.call_id]
    require(len(ends) == 1, f"the call had {len(ends)} results, expected one")


async def cancel(subject: Subject) -> None:
    """stops a call that is cancelled"""
    call_id, mark = await subject.begin("slow")
    result = await subject.stop(call_id, mark)
    require(
        result.status in ("cancelled", "ok"),
        f"a cancelled call ended as '{result.status}', expected 'cancelled'",
    )


async def cancel_before_its_call(subject: Subject) -> None:
    """remembers a cancel that comes before its call"""
    bench, sample, mark = subject.bench, subject.sample("slow"), subject.bench.mark
    call = work.Call(
        session_id=SESSION,
        call_id="check-early",
        tool=sample.tool,
        args=sample.args,
        epoch=0,
        budget_ms=SLOW_BUDGET_MS,
    )
    bench.cancel(call.call_id)
    bench.say(call)
    try:
        result = await subject.result(call.call_id, mark)
    except Broken:
        await subject.stop(call.call_id, mark)
        raise
    require(result.status == "cancelled", f"it ended as '{result.status}', expected 'cancelled'")
    bench.acked(call.call_id)


async def deadline(subject: Subject) -> None:
    """ends a call by itself when its budget is used up"""
    bench, sample, mark = subject.bench, subject.sample("slow"), subject.bench.mark
    call = bench.call(sample.tool, sample.args, budget_ms=500)
    try:
        result = await subject.result(call.call_id, mark, within_s=4.0)
    except Broken:
        await subject.stop(call.call_id, mark)
        raise
    require(result.status == "timeout", f"it ended as '{result.status}', expected 'timeout'")
    _reason(result)
    bench.acked(call.call_id)


async def oversize_result(subject: Subject) -> None:
    """refuses to send a result that nobody could take"""
    bench, sample, mark = subject.bench, subject.sample("large"), subject.bench.mark
    call = bench.call(sample.tool, sample.args, SLOW_BUDGET_MS)
    result = await subject.result(call.call_id, mark, within_s=10.0)
    size = len(base.encode(result))
    require(
        size <= RESULT_LIMIT_BYTES,
        f"it sent a result of {size} bytes, the limit is {RESULT_LIMIT_BYTES}; "
        "end such a call with 'error', and say how long it was",
    )
    require(
        result.status == "error", f"it ended as '{result.status}', expected 'error' with the length"
    )
    _reason(result)
    bench.acked(call.call_id)


async def crash(subject: Subject) -> None:
    """outlives a tool that goes wrong, and says what happened"""
    bench, sample, mark = subject.bench, subject.sample("crash"), subject.bench.mark
    call = bench.call(sample.tool, sample.args, SLOW_BUDGET_MS)
    result = await subject.result(call.call_id, mark, within_s=10.0)
    require(
        result.status in ("error", "crashed"),
        f"it ended as '{result.status}', expected 'error' or 'crashed'",
    )
    _reason(result)
    bench.acked(call.call_id)
    await bench.expect(
        work.Heartbeat, "a heartbeat afterwards", after=bench.mark, within_s=SILENT_S
    )


# --- the dispatcher goes and comes ------------------------------------------------------------


async def reset(subject: Subject) -> None:
    """says hello when it is told to, and brings the results that nobody has acknowledged"""
    bench, sample, mark = subject.bench, subject.sample("quick"), subject.bench.mark
    call = bench.call(sample.tool, sample.args)
    first = await subject.result(call.call_id, mark)
    await _welcomed_again(subject, bench.say, call.call_id, "unacked")
    mark = bench.mark
    bench.welcome()
    again = await subject.result(call.call_id, mark)
    require(again == first, "the result that came again differs from the first")
    bench.acked(call.call_id)


async def _welcomed_again(
    subject: Subject, say: Callable[[work.FromPool], None], call_id: str, where: str
) -> None:
    mark = subject.bench.mark
    subject.bench.knows_it = False
    say(work.Reset())
    hello = await subject.bench.expect(
        work.WorkerHello, "'hello' after 'reset'", after=mark, within_s=SOON_S
    )
    named = [one.call_id for one in getattr(hello, where)]
    require(named == [call_id], f"its hello says {where} {named}, expected ['{call_id}']")
    require(
        subject.hello is None or hello.inc == subject.hello.inc,
        "it changed its inc without being restarted",
    )


async def dispatcher_restart(subject: Subject) -> None:
    """greets the next dispatcher, runs on meanwhile, and names what it runs"""
    bench = subject.bench
    call_id, _ = await subject.begin("slow")
    bench.close()
    await bench.quiet(1.0)
    mark = bench.mark
    bench.open()
    hello = await bench.expect(
        work.WorkerHello, "'hello' to the next dispatcher", after=mark, within_s=6.0
    )
    named = [one.call_id for one in hello.running]
    require(named == [call_id], f"its hello says running {named}, expected ['{call_id}']")
    bench.welcome()
    await bench.expect(work.Credit, "'credit' after welcome", after=mark, within_s=SOON_S)
    await subject.stop(call_id, mark)


async def silent_dispatcher(subject: Subject) -> None:
    """says hello instead of heartbeats to a dispatcher that has been silent for two seconds"""
    bench = subject.bench
    bench.is_silent = True
    mark = bench.mark
    try:
        await bench.expect(
            work.WorkerHello, "'hello' after two seconds of silence", after=mark, within_s=4.5
        )
        mark = bench.mark
        await bench.quiet(1.0)
        require(not bench.since(mark, work.Heartbeat), "heartbeats went on all the same")
    finally:
        bench.is_silent = False
    mark = bench.mark
    await bench.expect(work.WorkerHello, "'hello' again", after=mark, within_s=SOON_S)
    bench.welcome()
    await bench.expect(work.Credit, "'credit' after welcome", after=mark, within_s=SOON_S)


# --- going ------------------------------------------------------------------------------------


async def restart_of_the_worker(subject: Subject) -> None:
    """comes back after SIGKILL with the same name, a new inc, and without its old calls"""
    if subject.start is None or subject.process is None:
        raise Skipped("only a worker that this command starts can be killed")
    if subject.samples.slow is not None:
        await subject.begin("slow")
    subject.process.send_signal(signal.SIGKILL)
    await _ended(subject.process)
    mark = subject.bench.mark
    subject.process = subject.start()
    hello = await subject.bench.expect(
        work.WorkerHello, "'hello' of the restarted worker", after=mark, within_s=START_S
    )
    before = subject.hello
    require(before is None or hello.name == before.name, "its name is another after a restart")
    require(before is None or hello.inc != before.inc, "its inc is the same after a restart")
    require(not hello.running and not hello.unacked, "it names calls of its earlier life")
    subject.hello = hello
    subject.bench.welcome()
    await subject.bench.expect(work.Credit, "'credit'", after=mark, within_s=SOON_S)


async def drain(subject: Subject) -> None:
    """finishes what it has when it is drained, takes nothing more, says bye and ends"""
    bench, mark = subject.bench, subject.bench.mark
    running: str | None = None
    if subject.samples.slow is not None:
        running, _ = await subject.begin("slow", budget_ms=1500)
    bench.say(work.Drain())
    if running is not None:
        await bench.expect(
            work.Credit,
            "'credit' with free 0 after 'drain'",
            after=mark,
            within_s=SOON_S,
            fits=lambda one: one.free == 0,
        )
        require(not bench.since(mark, work.Bye), "it said 'bye' while a call was running")
        await subject.result(running, mark, within_s=5.0)
        bench.acked(running)
    await bench.expect(work.Bye, "'bye'", after=mark, within_s=5.0)
    if subject.process is not None:
        code = await _ended(subject.process)
        require(code == 0, f"its process ended with {code} after 'bye', expected 0")


async def _ended(process: subprocess.Popen[bytes]) -> int:
    for _ in range(500):
        code = process.poll()
        if code is not None:
            return code
        await asyncio.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    raise Broken("its process did not end within 5 s")


Check = Callable[[Subject], Awaitable[None]]

CHECKS: tuple[Check, ...] = (
    registration,
    credit,
    heartbeat,
    ordinary_call,
    repeated_after_its_end,
    unknown_tool,
    progress,
    repeated_while_it_runs,
    cancel,
    cancel_before_its_call,
    deadline,
    oversize_result,
    crash,
    reset,
    dispatcher_restart,
    silent_dispatcher,
    restart_of_the_worker,
    drain,
)
"""In this order; the first two are the ground for the others."""
ESSENTIAL = frozenset({"registration", "credit"})
