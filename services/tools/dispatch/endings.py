"""How calls end: exactly one outcome each, told until the session knows, then forgotten."""

import msgspec

from voicebus.bus.messages import work
from voicebus.services.tools.dispatch import breaker, expectation
from voicebus.services.tools.dispatch.effects import Effect, Note, TellSession, TellWorker
from voicebus.services.tools.dispatch.state import Call, Ended, Key, State

LATE_MEMORY = 256
"""So many late results are remembered, to tell each once."""


def end(
    state: State,
    at: float,
    call: Call,
    status: work.Status,
    words: str,
    effects: list[Effect],
    label: str | None = None,
) -> None:
    """The call ends here, by our own decision; after a report of its worker (`label`), if any."""
    outcome = work.Outcome(
        session_id=call.key[0],
        call_id=call.key[1],
        status=status,
        failure=work.Failure(message=words),
    )
    _settle(state, at, call, outcome, label, effects)


def end_with(
    state: State,
    at: float,
    call: Call,
    result: work.Result,
    label: str | None,
    effects: list[Effect],
) -> None:
    """The call ends with what its worker (`label`) reported."""
    expectation.observe(state, at, call)
    _settle(state, at, call, outcome_of(result), label, effects, ran=result.started)


def outcome_of(result: work.Result) -> work.Outcome:
    """A worker's report, in the words for sessions."""
    return work.Outcome(
        session_id=result.session_id,
        call_id=result.call_id,
        status=result.status,
        result=result.result,
        failure=result.failure,
        duration_ms=result.duration_ms,
        cancel_seen_us=result.cancel_seen_us,
    )


def _settle(
    state: State,
    at: float,
    call: Call,
    outcome: work.Outcome,
    label: str | None,
    effects: list[Effect],
    *,
    ran: bool = True,
) -> None:
    state.calls.pop(call.key, None)
    holder = state.workers.get(call.worker or "")
    if holder is not None:
        holder.holds.discard(call.key)
    state.ended[call.key] = Ended(
        outcome=outcome,
        peer=call.peer,
        keepers={label} if label is not None else set(),
        at=at,
        repeat_at=at + state.limits.repeat_s,
        lost_attempts=frozenset(call.lost_attempts),
    )
    _tell(call.peer, outcome, effects)
    effects.append(
        Note(
            "call.ended",
            (
                ("session_id", call.key[0]),
                ("call_id", call.key[1]),
                ("tool", call.submit.tool if call.submit else ""),
                ("status", outcome.status),
                ("attempt", call.attempt),
            ),
            is_detail=outcome.status == "ok" and call.attempt == 1,
        )
    )
    if ran and breaker.ended(state, at, call, outcome.status, effects):
        _refuse_waiting(state, at, call, effects)


def _refuse_waiting(state: State, at: float, failed: Call, effects: list[Effect]) -> None:
    """Its tool is left alone: those that wait for it would only wait for the same."""
    assert failed.submit is not None
    waiting = [
        one
        for one in state.calls.values()
        if one.submit is not None
        and one.submit.tool == failed.submit.tool
        and one.worker is None
        and one.attempt == 0
        and not (one.waits_for_settling or one.submit.resubmit)
    ]
    for call in waiting:
        end(state, at, call, "busy", breaker.refusal(state, at, call) or "", effects)


def _tell(peer: str | None, outcome: work.Outcome, effects: list[Effect]) -> None:
    if peer is not None:
        effects.append(TellSession(peer, outcome))


def told_again(state: State, at: float, key: Key, effects: list[Effect]) -> None:
    """The session asks for an outcome that it does not have."""
    ended = state.ended[key]
    ended.repeat_at = at + state.limits.repeat_s
    _tell(ended.peer, ended.outcome, effects)


def repeat(state: State, at: float, key: Key, effects: list[Effect]) -> None:
    """The session has not acknowledged in time: again, less and less often, then no more."""
    ended = state.ended[key]
    if at - ended.at >= state.limits.keep_s:
        # Nobody asked for ten minutes: the conversation is over.
        acknowledge(state, at, key, effects)
        return
    ended.repeats += 1
    ended.repeat_at = at + min(state.limits.repeat_s * 2**ended.repeats, 30.0)
    _tell(ended.peer, ended.outcome, effects)


def acknowledge(state: State, at: float, key: Key, effects: list[Effect]) -> None:
    """The session knows: the workers that keep a result may forget it."""
    ended = state.ended.pop(key, None)
    if ended is None:
        return
    state.acknowledged.pop(key, None)  # to the end: the order is that of forgetting
    state.acknowledged[key] = at + state.limits.remember_s
    for worker in state.workers.values():
        if worker.label in ended.keepers:
            effects.append(acked(worker.peer, key))


def acked(peer: str, key: Key) -> TellWorker:
    """The worker need not keep its result any longer."""
    return TellWorker(peer, work.Acked(session_id=key[0], call_id=key[1]))


def late(
    state: State, at: float, result: work.Result, label: str, peer: str, effects: list[Effect]
) -> None:
    """A worker reports a call that has ended already."""
    key = (result.session_id, result.call_id)
    ended = state.ended.get(key)
    if ended is not None and label in ended.keepers:
        return  # it repeats what we are still telling
    if ended is not None:
        ended.keepers.add(label)
    else:
        effects.append(acked(peer, key))
    if (key, label) in state.told_late:
        return  # it repeated itself before our first word reached it
    state.told_late[key, label] = None
    while len(state.told_late) > LATE_MEMORY:
        del state.told_late[next(iter(state.told_late))]
    followers = {one.shard: name for name, one in state.followers.items()}
    if result.status == "ok" or result.started:
        shard = key[0].removeprefix("s").split("-", 1)[0]
        to = ended.peer if ended is not None else None
        if to is None and shard.isascii() and shard.isdigit():
            to = followers.get(int(shard))
        # Told once: a late result is news, not an answer that anything waits for.
        _tell(to, msgspec.structs.replace(outcome_of(result), late=True), effects)
