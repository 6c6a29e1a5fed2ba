"""Which call goes to which worker, and when."""

from collections import Counter

from voicebus.bus.messages import work
from voicebus.services.tools.dispatch.effects import Effect, TellWorker
from voicebus.services.tools.dispatch.state import Call, State, Worker


def tool_of(state: State, call: Call) -> work.ToolSpec | None:
    """The tool as some worker offers it, or offered it until a moment ago."""
    if call.submit is None:
        return None
    return find(state, call.submit.tool)


def find(state: State, name: str) -> work.ToolSpec | None:
    """The tool of that name."""
    for worker in state.workers.values():
        if name in worker.tools:
            return worker.tools[name]
    for _, tools in state.lost_tools.values():
        if name in tools:
            return tools[name]
    return None


def available(worker: Worker) -> int:
    """How many calls it can take now: by its own word, and never more than it can hold."""
    if worker.is_leaving:
        return 0
    return max(0, min(worker.free, worker.capacity - len(worker.holds)))


def hand_out(state: State, at: float, effects: list[Effect]) -> None:
    """Give waiting calls to workers, those that somebody waits for first."""
    waiting = [
        call
        for call in state.calls.values()
        if call.worker is None
        and not call.waits_for_settling
        and not call.waits_for_tool
        and call.submit is not None
    ]
    if not waiting:
        return
    waiting.sort(key=_urgency)
    active = [call for call in state.calls.values() if call.worker is not None]
    per_tool = Counter(call.submit.tool for call in active if call.submit is not None)
    per_session = Counter(call.key[0] for call in active)
    for call in waiting:
        assert call.submit is not None
        tool = tool_of(state, call)
        if tool is None:
            continue  # its workers are being restarted; its deadline bounds the wait
        if tool.concurrency is not None and per_tool[tool.name] >= tool.concurrency:
            continue
        if per_session[call.key[0]] >= state.limits.running_per_session:
            continue
        worker = _choose(state, call, tool.name)
        if worker is None:
            continue
        per_tool[tool.name] += 1
        per_session[call.key[0]] += 1
        _give(at, call, worker, effects)


def _urgency(call: Call) -> tuple[bool, int]:
    return (call.submit is not None and call.submit.background, call.order)


def _choose(state: State, call: Call, tool: str) -> Worker | None:
    """Least loaded, then least recently used."""
    assert call.submit is not None
    # Background work leaves each worker one place for a caller who waits in silence.
    spare = 1 if call.submit.background else 0
    able = [
        worker
        for worker in state.workers.values()
        if tool in worker.tools and available(worker) > (spare if worker.capacity > 1 else 0)
    ]
    return min(able, key=lambda one: (len(one.holds), one.used_at), default=None)


def _give(at: float, call: Call, worker: Worker, effects: list[Effect]) -> None:
    assert call.submit is not None
    call.worker = worker.peer
    call.attempt += 1
    call.given_at = at
    worker.holds.add(call.key)
    worker.free -= 1
    worker.sent += 1
    worker.used_at = at
    effects.append(
        TellWorker(
            worker.peer,
            work.Call(
                session_id=call.key[0],
                call_id=call.key[1],
                tool=call.submit.tool,
                args=call.submit.args,
                epoch=call.submit.epoch,
                budget_ms=max(1, round((call.deadline_at - at) * 1000)),
                attempt=call.attempt,
            ),
        )
    )
