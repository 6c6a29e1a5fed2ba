"""Workers come, report and are lost; what becomes of the calls of a lost one."""

from typing import assert_never

from voicebus.bus.messages import work
from voicebus.services.tools import offer
from voicebus.services.tools.bounds import PROGRESS_LIMIT
from voicebus.services.tools.dispatch import breaker, choice, endings, expectation
from voicebus.services.tools.dispatch.effects import (
    Effect,
    Note,
    RememberWorkers,
    TellSession,
    TellWorker,
)
from voicebus.services.tools.dispatch.state import Call, Key, State, Worker

PROGRESS_A_SECOND = 40
"""More for a call is left out. Tool hosts tell half as many, which may come late and together."""
LEFT_LIMIT = 256
"""So many workers that left, or were replaced, are remembered."""


def said(
    state: State, at: float, peer: str, message: work.ANY_TO_POOL, effects: list[Effect]
) -> None:
    """A worker's message."""
    if isinstance(message, work.WorkerHello):
        _hello(state, at, peer, message, effects)
        return
    worker = state.workers.get(peer)
    if worker is None:
        if peer not in state.left.values():  # else it is what was on its way when it left
            effects.append(TellWorker(peer, work.Reset()))
        return
    worker.heard_at = at
    match message:
        case work.Credit():
            _credit(state, worker, message.free, message.received)
        case work.Started():
            call = _call_at(state, worker, message)
            if call is not None and not call.is_started:
                call.is_started = True
                _forward(
                    call,
                    work.CallStarted(
                        session_id=call.key[0], call_id=call.key[1], worker=worker.name
                    ),
                    effects,
                )
        case work.Progress():
            call = _call_at(state, worker, message)
            if call is not None and _may_tell(call, at):
                text = message.text[:PROGRESS_LIMIT]
                told = work.CallProgress(session_id=call.key[0], call_id=call.key[1], text=text)
                _forward(call, told, effects)
        case work.Result():
            _result(state, at, worker, message, effects)
            if message.free is not None:
                _credit(state, worker, message.free, message.received)
        case work.Heartbeat():
            effects.append(TellWorker(peer, work.PoolHeartbeat()))
        case work.Bye():
            _left(state, worker)
            lost(state, at, peer, "bye", effects)
        case _:
            assert_never(message)


def _credit(state: State, worker: Worker, free: int, received: int | None) -> None:
    worker.free = free - _on_the_way(state, worker, received)


def _on_the_way(state: State, worker: Worker, received: int | None) -> int:
    """Calls it did not know of when it counted its free places."""
    if received is None:
        return 0
    # What was lost on the way must not count for ever: at most those that may still come.
    silent = sum(key in state.calls and not state.calls[key].is_started for key in worker.holds)
    return min(max(0, worker.sent - received), silent)


def _call_at(state: State, worker: Worker, message: work.Started | work.Progress) -> Call | None:
    call = state.calls.get((message.session_id, message.call_id))
    return call if call is not None and call.worker == worker.peer else None


def _may_tell(call: Call, at: float) -> bool:
    """Progress becomes events that are written down: not more of them than anyone can read."""
    if at - call.second_at >= 1.0:
        call.second_at, call.told_in_it = at, 0
    call.told_in_it += 1
    return call.told_in_it <= PROGRESS_A_SECOND


def _forward(
    call: Call, message: work.CallStarted | work.CallProgress, effects: list[Effect]
) -> None:
    if call.peer is not None:
        effects.append(TellSession(call.peer, message))


# --- coming -----------------------------------------------------------------------------------


def _hello(
    state: State, at: float, peer: str, message: work.WorkerHello, effects: list[Effect]
) -> None:
    if f"{message.name}/{message.inc}" in state.left:
        return  # it repeats its hello all the time, and has ended since
    welcome = TellWorker(peer, work.PoolWelcome(inc=state.inc, credit_in_results=True))
    known = state.workers.get(peer)
    if known is not None and known.inc == message.inc:
        # It repeats its hello because our welcome took long, or as its sign of life. What we sent
        # meanwhile it has not counted, so nothing may be concluded from what it does not name.
        known.heard_at = at
        if message.free is not None:
            _credit(state, known, message.free, message.received)
        effects.append(welcome)
        return
    before = _forget_predecessor(state, at, message, effects)
    worker = Worker(
        peer=peer,
        name=message.name,
        inc=message.inc,
        capacity=message.capacity,
        tools=_usable(message, effects),
        heard_at=at,
        sent=message.received,
        free=message.free or 0,
    )
    state.workers[peer] = worker
    state.left = {label: over for label, over in state.left.items() if over != peer}
    state.missing.discard(worker.label)
    state.lost_tools.pop(message.name, None)
    remember(state, effects)
    effects.append(welcome)
    for reference in (*message.running, *message.unacked):
        _attach(state, at, worker, (reference.session_id, reference.call_id), effects)
    for key in before - worker.holds:
        # The same incarnation does not name it: it certainly never got it.
        call = state.calls.get(key)
        if call is not None:
            call.is_started = False
            _loss(state, at, call, worker, effects)
    effects.append(Note("worker.joined", (("worker", worker.label), ("tools", len(worker.tools)))))
    publish_catalogue(state, effects)


def _usable(message: work.WorkerHello, effects: list[Effect]) -> dict[str, work.ToolSpec]:
    """Its tools, without those that no provider takes: a session that offers one is refused."""
    found: dict[str, work.ToolSpec] = {}
    for tool in message.tools:
        why = offer.fault(tool)
        if why is None:
            found[tool.name] = tool
        else:
            effects.append(
                Note("worker.tool_refused", (("worker", message.name[:100]), ("why", why)))
            )
    return found


def _forget_predecessor(
    state: State, at: float, message: work.WorkerHello, effects: list[Effect]
) -> set[Key]:
    """The calls that this very incarnation had over an earlier connection, now without worker."""
    calls: set[Key] = set()
    for peer, worker in list(state.workers.items()):
        if worker.name != message.name:
            continue
        if worker.inc == message.inc:
            del state.workers[peer]
            for key in _had(state, worker):
                state.calls[key].worker = None
                calls.add(key)
        elif f"{message.name}/{message.inc}" in state.replaced:
            # It is alive, and so may the other be: two run under one name.
            effects.append(Note("worker.name_shared", (("worker", message.name[:100]),)))
        else:
            lost(state, at, peer, "replaced", effects)
            state.replaced[worker.label] = None
            if len(state.replaced) > LEFT_LIMIT:
                del state.replaced[next(iter(state.replaced))]
    return calls


def _attach(state: State, at: float, worker: Worker, key: Key, effects: list[Effect]) -> None:
    """The worker has this call, or its result: whoever submits it again finds it."""
    if key in state.ended or key in state.acknowledged:
        return  # its result will come and be late
    call = state.calls.get(key)
    if call is None:
        call = Call(
            key=key,
            submit=None,
            peer=None,
            deadline_at=at + state.limits.keep_s,
            order=state.next_order,
        )
        state.next_order += 1
        state.calls[key] = call
    if call.worker is not None:
        return  # meanwhile another one runs it; the first result counts
    call.worker = worker.peer
    call.waits_for_settling = False
    call.is_started = True
    call.is_lost = False  # if it was, the report comes again
    call.attempt = max(call.attempt, 1)
    worker.holds.add(key)
    if call.cancel_reason is not None:
        effects.append(
            TellWorker(
                worker.peer,
                work.CancelCall(session_id=key[0], call_id=key[1], reason=call.cancel_reason),
            )
        )


# --- results ----------------------------------------------------------------------------------


def _result(
    state: State, at: float, worker: Worker, result: work.Result, effects: list[Effect]
) -> None:
    key = (result.session_id, result.call_id)
    worker.holds.discard(key)
    call = state.calls.get(key)
    if call is None:
        endings.late(state, at, result, worker.label, worker.peer, effects)
        return
    if call.worker != worker.peer:
        if result.status not in ("ok", "error") or worker.label not in call.lost_attempts:
            # The failure of an attempt that has been replaced.
            effects.append(endings.acked(worker.peer, key))
            return
        if call.worker is not None:
            # The lost attempt was not lost: its result counts, the second one is stopped.
            effects.append(
                TellWorker(
                    call.worker,
                    work.CancelCall(session_id=key[0], call_id=key[1], reason="answered"),
                )
            )
        endings.end_with(state, at, call, result, worker.label, effects)
        return
    if result.status == "lost":
        # The worker lives but the call's process does not, through no fault of the call's own;
        # or the worker could not take it.
        call.is_started = result.started
        call.is_lost = True
        if call.submit is not None:
            judge(state, at, call, effects)
        return
    endings.end_with(state, at, call, result, worker.label, effects)


# --- leaving ----------------------------------------------------------------------------------


def _left(state: State, worker: Worker) -> None:
    """Bye is the last word of an incarnation. Whoever took it in again for a word that came later
    would give calls to a process that is gone, until it had been silent for long enough."""
    state.left[worker.label] = worker.peer
    if len(state.left) > LEFT_LIMIT:
        del state.left[next(iter(state.left))]


# --- losing -----------------------------------------------------------------------------------


def lost(state: State, at: float, peer: str, why: str, effects: list[Effect]) -> None:
    """A worker is gone; its calls run again elsewhere or end, by what they do."""
    worker = state.workers.pop(peer, None)
    if worker is None:
        return
    effects.append(Note("worker.lost", (("worker", worker.label), ("why", why))))
    if why != "bye":
        state.departed.add(worker.label)
        state.lost_tools[worker.name] = (at + state.limits.keep_tools_s, worker.tools)
    for key in sorted(_had(state, worker)):
        call = state.calls[key]
        if call.worker == peer:
            # It may have begun without our hearing of it.
            call.is_started = True
            _loss(state, at, call, worker, effects)
    remember(state, effects)
    publish_catalogue(state, effects)


def _had(state: State, worker: Worker) -> set[Key]:
    """The calls of a worker that is gone: those it holds, and those whose loss it has reported
    before their session asked for them. These take no place of its, but are its to the end."""
    reported = {
        key for key, call in state.calls.items() if call.is_lost and call.worker == worker.peer
    }
    return worker.holds & state.calls.keys() | reported


def judge(state: State, at: float, call: Call, effects: list[Effect]) -> None:
    """What the report that a call's process was lost means. Where it ends the call, the worker
    keeps the report until the session knows: a successor of ours would take the call for one that
    never began, and run it again."""
    worker = state.workers[call.worker or ""]
    call.is_lost = False
    _loss(state, at, call, worker, effects, reported_by=worker.label)
    if call.key not in state.ended:
        effects.append(endings.acked(worker.peer, call.key))


def _loss(
    state: State,
    at: float,
    call: Call,
    worker: Worker,
    effects: list[Effect],
    *,
    reported_by: str | None = None,
) -> None:
    """The attempt is gone. `once` may run again only if it certainly did not begin."""
    worker.holds.discard(call.key)
    tool = choice.tool_of(state, call) or worker.tools.get(
        call.submit.tool if call.submit is not None else ""
    )
    harmless = tool is not None and tool.effects != "once"
    call.lost_attempts.add(worker.label)
    call.worker = None
    if call.submit is None:
        # Nobody has asked us for it yet. Who does will be answered by the rule for resubmits.
        state.missing.add(worker.label)
        del state.calls[call.key]
        return
    if call.is_started and not harmless:
        words = (
            "the tool may or may not have run to its end: its process was lost. "
            "Check before trying it again"
        )
        endings.end(state, at, call, "unknown", words, effects, reported_by)
    elif call.cancel_reason is not None:
        words = f"cancelled ({call.cancel_reason}); its process was lost meanwhile"
        endings.end(state, at, call, "cancelled", words, effects, reported_by)
    elif call.attempt >= state.limits.attempts:
        words = f"its process was lost {call.attempt} times; it did not finish"
        endings.end(state, at, call, "lost", words, effects, reported_by)
    else:
        call.is_started = False


def remember(state: State, effects: list[Effect]) -> None:
    """Keep the list of workers that a successor has to hear before it runs a `once` call again."""
    missing = state.missing
    if state.departed or missing:
        # Of the lost workers only those still matter that had a call which goes on, or whose
        # outcome its session may not know.
        had = {label for call in state.calls.values() for label in call.lost_attempts}
        for ended in state.ended.values():
            had |= ended.lost_attempts | ended.keepers
        state.departed &= had
        if _is_accounted(state):
            missing = missing & had
    here = {worker.label for worker in state.workers.values()}
    names = tuple(sorted(here | missing | state.departed))
    if names != state.remembered:
        state.remembered = names
        effects.append(RememberWorkers(names))


def _is_accounted(state: State) -> bool:
    """Whether all that the predecessor had handed out has been asked for, and judged: then those
    that are missing can have had none of the calls that we were given since."""
    return (
        state.is_settled
        and len(state.caught_up) >= state.shards
        and not any(
            call.worker is None and (call.submit is None or call.submit.resubmit)
            for call in state.calls.values()
        )
    )


# --- catalogue --------------------------------------------------------------------------------


def forget_tools(state: State, at: float, effects: list[Effect]) -> None:
    """Tools whose worker did not come back."""
    due = [name for name, (forget_at, _) in state.lost_tools.items() if at >= forget_at]
    for name in due:
        del state.lost_tools[name]
    if due:
        publish_catalogue(state, effects)


def publish_catalogue(state: State, effects: list[Effect]) -> None:
    """To all sessions, if it changed."""
    tools: dict[str, work.ToolSpec] = {}
    for _, gone in state.lost_tools.values():
        tools |= gone
    for worker in state.workers.values():
        tools |= worker.tools
    catalogue = tuple(tools[name] for name in sorted(tools))
    if catalogue == state.catalogue:
        return
    state.catalogue = catalogue
    breaker.forget(state, tools)
    expectation.forget(state, tools)
    message = work.ToolCatalogue(inc=state.inc, tools=list(catalogue))
    effects.extend(TellSession(peer, message) for peer in state.followers)
