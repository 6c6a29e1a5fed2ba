"""The dispatcher's step: what happened, in; what to send, out."""

from typing import assert_never

import msgspec

from voicebus.bus.messages import work
from voicebus.services.tools.dispatch import breaker, choice, expectation, workers
from voicebus.services.tools.dispatch.effects import Effect, TellSession, TellWorker
from voicebus.services.tools.dispatch.endings import acknowledge, end, repeat, told_again
from voicebus.services.tools.dispatch.events import (
    Drained,
    Event,
    SessionSaid,
    Ticked,
    WorkerSaid,
    WorkerUnreachable,
)
from voicebus.services.tools.dispatch.state import Call, Key, State

TICK_S = 0.25
"""While there are workers, so often at least: how the dispatcher knows that it was not asleep."""
ASLEEP_S = 0.75
"""A longer gap between two steps means that we were stopped, and says nothing of the workers."""


def step(state: State, event: Event) -> tuple[State, list[Effect]]:
    """The state afterwards (the same object, changed) and what to do, in this order."""
    effects: list[Effect] = []
    at = event.at
    if at - state.last_at > ASLEEP_S:
        for worker in state.workers.values():
            worker.heard_at = at
    state.last_at = at
    match event:
        case SessionSaid(_, peer, message):
            _session_said(state, at, peer, message, effects)
        case WorkerSaid(_, peer, message):
            workers.said(state, at, peer, message, effects)
        case WorkerUnreachable(_, peer):
            workers.lost(state, at, peer, "unreachable", effects)
        case Drained():
            state.is_draining = True
        case Ticked():
            pass
        case _:
            assert_never(event)
    if at >= state.look_at or not _is_ordinary(event):
        _time_passes(state, at, effects)
        state.look_at = _next_look(state)
    else:
        state.look_at = min(state.look_at, _soonest(state, event))
    if not _frees_nothing(event):
        choice.hand_out(state, at, effects)
    return state, effects


def deadline(state: State) -> float | None:
    """When to tick next, in the clock of the events; None if nothing waits for time.

    It may be earlier than needed: what has been settled meanwhile is not looked for.
    """
    return state.look_at if state.look_at < float("inf") else None


def _is_ordinary(event: Event) -> bool:
    """What happens with every call, and makes nothing due before the time of `_soonest`.

    Looking through all calls at each of these was a seventh of what a call costs here, and more
    the more calls wait.
    """
    match event:
        case WorkerSaid(_, _, work.Result(status=status)):
            return status == "ok"
        case WorkerSaid(_, _, message):
            return isinstance(message, work.Started | work.Progress | work.Credit | work.Heartbeat)
        case SessionSaid(_, _, message):
            return isinstance(message, work.SubmitCall | work.OutcomeAck)
        case _:
            return False


def _soonest(state: State, event: Event) -> float:
    """No sooner than this anything becomes due by an ordinary event."""
    budget_s = state.limits.repeat_s
    if isinstance(event, SessionSaid) and isinstance(event.message, work.SubmitCall):
        budget_s = min(budget_s, event.message.budget_ms / 1000)
    return event.at + budget_s


def _frees_nothing(event: Event) -> bool:
    """Whether no waiting call can begin because of it."""
    return isinstance(event, SessionSaid | WorkerSaid) and isinstance(
        event.message, work.OutcomeAck | work.Started | work.Progress | work.Heartbeat
    )


def _next_look(state: State) -> float:
    times: list[float] = []
    if not state.is_settled:
        times.append(state.settle_until)
    if state.workers:
        times.append(state.last_at + TICK_S)
    times += [_due(state, call) for call in state.calls.values()]
    times += [ended.repeat_at for ended in state.ended.values()]
    times += [forget_at for forget_at, _ in state.lost_tools.values()]
    for forget_at in state.acknowledged.values():
        times.append(forget_at)  # in order: the first is the earliest
        break
    return min(times, default=float("inf"))


def _due(state: State, call: Call) -> float:
    if call.worker is None:
        if call.waits_for_settling and call.submit is not None and call.submit.resubmit:
            # Whoever has it may yet say so: until then nothing true can be told of it.
            return max(call.deadline_at, state.settle_until)
        return call.deadline_at
    tool = choice.tool_of(state, call)
    grace_s = tool.grace_s if tool is not None else 0.0
    return call.deadline_at + grace_s + state.limits.overdue_s


# --- sessions ---------------------------------------------------------------------------------


def _session_said(
    state: State,
    at: float,
    peer: str,
    message: work.ANY_TO_DISPATCHER,
    effects: list[Effect],
) -> None:
    match message:
        case work.Follow():
            _follow(state, peer, message, effects)
        case work.SubmitCall():
            _submit(state, at, peer, message, effects)
        case work.CancelCalls():
            for call_id in message.call_ids:
                _cancel(state, at, (message.session_id, call_id), message.reason, effects)
        case work.OutcomeAck():
            acknowledge(state, at, (message.session_id, message.call_id), effects)
            workers.remember(state, effects)
        case _:
            assert_never(message)


def _follow(state: State, peer: str, message: work.Follow, effects: list[Effect]) -> None:
    if message.dispatcher == state.inc:
        state.caught_up.add(message.shard)
        workers.remember(state, effects)
        return
    if state.followers.get(peer) == message:
        return  # its sign of life
    for other, known in list(state.followers.items()):
        if known.shard == message.shard:
            del state.followers[other]
    state.followers[peer] = message
    # A process that was restarted inherits what its predecessor was waiting for.
    for call in state.calls.values():
        if _shard(call.key) == message.shard:
            call.peer = peer
    for ended in state.ended.values():
        if _shard((ended.outcome.session_id, "")) == message.shard:
            ended.peer = peer
    effects.append(
        TellSession(peer, work.ToolCatalogue(inc=state.inc, tools=list(state.catalogue)))
    )


def _shard(key: Key) -> int | None:
    digits = key[0].removeprefix("s").split("-", 1)[0]
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _submit(
    state: State, at: float, peer: str, message: work.SubmitCall, effects: list[Effect]
) -> None:
    key = (message.session_id, message.call_id)
    if key in state.ended:
        state.ended[key].peer = peer
        told_again(state, at, key, effects)
        return
    known = state.calls.get(key)
    if known is not None:
        known.peer = peer
        if known.submit is None:
            known.submit = message
            known.deadline_at = at + message.budget_ms / 1000
        elif known.submit.background != message.background:
            known.submit = msgspec.structs.replace(known.submit, background=message.background)
        if known.is_started:
            effects.append(_started(state, known, peer))
        if known.is_lost:
            workers.judge(state, at, known, effects)
        return
    call = Call(
        key=key,
        submit=message,
        peer=peer,
        deadline_at=at + message.budget_ms / 1000,
        order=state.next_order,
    )
    state.next_order += 1
    state.calls[key] = call
    call.cancel_reason = state.cancelled_early.pop(key, None)
    if key in state.acknowledged:
        words = "this call has ended before, and its session knew how"
        end(state, at, call, "unknown", words, effects)
    elif message.resubmit and not state.is_settled:
        call.waits_for_settling = True
    elif call.cancel_reason is not None:
        _end_cancelled(state, at, call, call.cancel_reason, effects)
    elif state.is_settled or state.is_draining or choice.tool_of(state, call) is not None:
        _admit(state, at, call, effects)
    else:
        call.waits_for_settling = True


def _may_have_run(state: State, call: Call) -> bool:
    """Whether one of those that are missing may have had it from an earlier dispatcher, and it
    matters: a harmless call may run again. Of a tool that nobody offers the worst is assumed."""
    if call.submit is None or not call.submit.resubmit or not state.missing:
        return False
    tool = choice.tool_of(state, call)
    return tool is None or tool.effects == "once"


_MAY_HAVE_RUN = (
    "the tool may or may not have run: the process that had the call is gone. "
    "Check before trying it again"
)


def _cannot_know(state: State, at: float, call: Call, effects: list[Effect]) -> None:
    """Any of those that are missing may have had it."""
    call.lost_attempts |= state.missing
    end(state, at, call, "unknown", _MAY_HAVE_RUN, effects)


def _end_unrun(
    state: State, at: float, call: Call, status: work.Status, words: str, effects: list[Effect]
) -> None:
    """It ends and no worker here has it. The words say that it did not run, if that is certain."""
    if _may_have_run(state, call):
        _cannot_know(state, at, call, effects)
    else:
        end(state, at, call, status, words, effects)


def _end_cancelled(state: State, at: float, call: Call, reason: str, effects: list[Effect]) -> None:
    words = f"cancelled before it began ({reason})"
    _end_unrun(state, at, call, "cancelled", words, effects)


def _admit(state: State, at: float, call: Call, effects: list[Effect]) -> None:
    """Into the queue, unless it may have run before, or a limit says no."""
    assert call.submit is not None
    if state.is_draining:
        words = "the tool pool is being stopped; try again"
        _end_unrun(state, at, call, "busy", words, effects)
        return
    tool = call.submit.tool
    if choice.tool_of(state, call) is None:
        if _may_come(state, at):
            call.waits_for_tool = True  # no longer than until its deadline
            return
        known = ", ".join(one.name for one in state.catalogue) or "none"
        words = f"no tool '{tool}'; known are: {known}"
        _end_unrun(state, at, call, "unknown_tool", words, effects)
        return
    if _may_have_run(state, call):
        _cannot_know(state, at, call, effects)
        return
    waiting = [one for one in state.calls.values() if one.worker is None and one is not call]
    own = sum(one.key[0] == call.key[0] for one in waiting)
    running = sum(
        one.key[0] == call.key[0] for one in state.calls.values() if one.worker is not None
    )
    limits = state.limits
    if len(waiting) >= limits.queued:
        why = f"the tool pool has {len(waiting)} calls waiting, the limit is {limits.queued}"
    elif own + running >= limits.running_per_session + limits.queued_per_session:
        why = (
            f"this conversation has {running} calls running and {own} waiting, "
            f"the limits are {limits.running_per_session} and {limits.queued_per_session}"
        )
    elif call.submit.resubmit:
        return  # it may have been begun before: what follows says that it was not
    elif (alone := breaker.refusal(state, at, call)) is not None:
        end(state, at, call, "busy", alone, effects)
        return
    elif limits.refuses_late and (wait_s := expectation.wait_s(state, at, call)) > (
        left_s := call.deadline_at - at
    ):
        why = (
            f"{len(waiting)} calls wait before it, so that its turn would come in about "
            f"{wait_s:.0f} s, and it has {left_s:.0f} s"
        )
    else:
        return
    end(state, at, call, "busy", f"{why}; try again when some have ended", effects)


def _may_come(state: State, at: float) -> bool:
    """Whether a worker that an earlier dispatcher knew has yet to come back, with its tools."""
    if at >= state.settle_until + state.limits.keep_tools_s:
        return False
    here = {worker.name for worker in state.workers.values()}
    return any(label.rsplit("/", 1)[0] not in here for label in state.missing)


def _look_for_tool(state: State, at: float, call: Call, effects: list[Effect]) -> None:
    """Its tool may have come back, or it is too late for that."""
    if call.worker is None and choice.tool_of(state, call) is None and _may_come(state, at):
        return
    call.waits_for_tool = False
    if call.worker is None:  # else who came back has it already
        _admit(state, at, call, effects)


def _started(state: State, call: Call, peer: str) -> TellSession:
    worker = state.workers.get(call.worker or "")
    return TellSession(
        peer,
        work.CallStarted(
            session_id=call.key[0], call_id=call.key[1], worker=worker.name if worker else ""
        ),
    )


def _cancel(state: State, at: float, key: Key, reason: str, effects: list[Effect]) -> None:
    call = state.calls.get(key)
    if call is None:
        if key not in state.ended and key not in state.acknowledged:
            state.cancelled_early[key] = reason
            while len(state.cancelled_early) > 256:
                del state.cancelled_early[next(iter(state.cancelled_early))]
        return
    if call.worker is not None:
        call.cancel_reason = call.cancel_reason or reason
        effects.append(
            TellWorker(
                call.worker, work.CancelCall(session_id=key[0], call_id=key[1], reason=reason)
            )
        )
    elif call.waits_for_settling:
        # A worker may have it and say so in a moment; then it is told.
        call.cancel_reason = call.cancel_reason or reason
    else:
        _end_cancelled(state, at, call, reason, effects)


# --- time -------------------------------------------------------------------------------------


def _time_passes(state: State, at: float, effects: list[Effect]) -> None:
    for peer, worker in list(state.workers.items()):
        if at - worker.heard_at >= state.limits.silent_s:
            workers.lost(state, at, peer, "silent", effects)
    workers.forget_tools(state, at, effects)
    if not state.is_settled and at >= state.settle_until:
        _settle(state, at, effects)
    for call in [one for one in state.calls.values() if one.waits_for_tool]:
        _look_for_tool(state, at, call, effects)
    if at >= state.settle_until + state.limits.keep_s:
        # Whatever the predecessor had handed out has been asked for by now, or never will be.
        state.missing.clear()
    for call in list(state.calls.values()):
        if call.key in state.calls and at >= _due(state, call):
            _overdue(state, at, call, effects)
    for key in [key for key, ended in state.ended.items() if at >= ended.repeat_at]:
        repeat(state, at, key, effects)
    while state.acknowledged:
        key = next(iter(state.acknowledged))
        if at < state.acknowledged[key]:
            break
        del state.acknowledged[key]


def _settle(state: State, at: float, effects: list[Effect]) -> None:
    """All who were there have spoken: what nobody has may now run, or is beyond knowing."""
    state.is_settled = True
    for call in [one for one in state.calls.values() if one.waits_for_settling]:
        call.waits_for_settling = False
        if call.worker is not None:
            continue
        if call.cancel_reason is not None:
            _end_cancelled(state, at, call, call.cancel_reason, effects)
        else:
            _admit(state, at, call, effects)


def _overdue(state: State, at: float, call: Call, effects: list[Effect]) -> None:
    if call.submit is None:
        # A stranger's call whose session never came back: its worker will report it, or not.
        if call.is_lost:
            # It has, and the report need not be kept for a conversation that is over.
            workers.judge(state, at, call, effects)
            return
        call.deadline_at = at + state.limits.keep_s
        return
    budget_s = call.submit.budget_ms / 1000
    if call.worker is None:
        words = f"no runner was free for it within {budget_s:g} s; it did not run"
        _end_unrun(state, at, call, "timeout", words, effects)
        return
    # It may do its work yet: a successor of ours must hear its worker before it says otherwise.
    call.lost_attempts.add(state.workers[call.worker].label)
    effects.append(
        TellWorker(
            call.worker,
            work.CancelCall(session_id=call.key[0], call_id=call.key[1], reason="timeout"),
        )
    )
    words = f"it did not end within {budget_s:g} s and its worker does not answer for it"
    end(state, at, call, "timeout", words, effects)
