"""Tool calls and their batches: exactly one outcome, and one output or a deleted item, per call.

    collecting ─▶ ready ─(its response completed)─▶ [asking ─▶] running ─▶ ended
                    │                                            │  ▲
                    └─(its response did not)─▶ ended         cancelling

A batch is all calls of one response. It holds its own turn; nothing is decided by which response is
current when its tools end. Outputs go to the model in the order of the response, then one response.
"""

from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from voicebus.bus.messages.events import (
    ApprovalRequested,
    FailureReason,
    ToolBatchSubmitted,
    ToolCallArgsDelta,
    ToolCallCompleted,
    ToolCallDispatched,
    ToolCallFailed,
    ToolCallLateResult,
    ToolCallProgress,
    ToolCallStarted,
)
from voicebus.bus.messages.work import Failure
from voicebus.services.session.core import arguments as written
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import items, responses
from voicebus.services.session.core.draft import Draft, with_, without
from voicebus.services.session.core.state import Batch, Call

ROUND_LIMIT = 8
"""Tool rounds per user turn; the follow-up of the last one must do without tools."""
POOL_GRACE_MS = 4_000
"""How much longer than a call's time and grace the session waits for the pool's word. The
dispatcher waits 3 s for a worker; what it then says of the call is more exact."""
CANCEL_GRACE_MS = 5_000
"""The same for a call that was told to stop: longer than its grace."""
KEPT = 64
"""Ended calls that are remembered, so that a late result is known for what it is."""


# --- collecting -------------------------------------------------------------------------------


def began(d: Draft, event: i.OutputItemAdded) -> None:
    """The model began to write a call."""
    if not responses.is_over(d, event.response_id):
        _collect(d, event.response_id, event.output_index, event.item)


def wrote(d: Draft, event: i.OutputItemDone) -> None:
    """The call is written. One of a response that was given up is nobody's: it must not dangle."""
    if not responses.is_over(d, event.response_id):
        closed(d, event.response_id, event.output_index, event.item)
    elif responses.is_out_of_band(d, event.response_id):
        pass  # it stands in no conversation
    elif _is_ours(d, event.item) and event.item.call_id not in d.s.calls:
        _forget_item(d, event.item.item_id, event.item.call_id or "")


def _is_ours(d: Draft, item: i.Item) -> bool:
    """Whether this is a call to us, and not one that the provider runs itself."""
    if item.type != "function_call":
        return False
    return item.name in d.s.tools or not d.s.capabilities.runs_tools


def _collect(d: Draft, response_id: str, output_index: int, item: i.Item) -> Call | None:
    if not _is_ours(d, item) or not item.call_id:
        return None
    known = d.s.calls.get(item.call_id)
    if known is not None:
        return known
    call = Call(
        call_id=item.call_id,
        item_id=item.item_id,
        response_id=response_id,
        output_index=output_index,
        name=item.name or "",
        generation=d.s.generation,
        told="apart" if responses.is_out_of_band(d, response_id) else "no",
    )
    d.s.calls = with_(d.s.calls, call.call_id, call)
    d.publish(ToolCallStarted(turn_id=response_id, call_id=call.call_id, name=call.name))
    return call


def arguments(d: Draft, event: i.ArgumentsWords) -> None:
    """A piece of the arguments, for those who show them; the whole comes with the closed item."""
    known = event.call_id in d.s.calls
    if known and event.delta and not responses.is_interrupted(d, event.response_id):
        d.publish(ToolCallArgsDelta(call_id=event.call_id, delta=event.delta))


def closed(d: Draft, response_id: str, output_index: int, item: i.Item) -> None:
    """The call is written; it runs only if it and its response completed."""
    call = _collect(d, response_id, output_index, item)
    if call is None or call.phase not in ("collecting", "ready"):
        return
    if item.status not in (None, "completed"):
        return
    d.s.calls = with_(
        d.s.calls,
        call.call_id,
        replace(
            call,
            phase="ready",
            name=item.name or call.name,
            arguments=item.arguments if item.arguments is not None else call.arguments,
        ),
    )


# --- running ----------------------------------------------------------------------------------


def response_done(d: Draft, event: i.ResponseDone) -> None:
    """Run the calls of a completed response; those of any other end here, unrun."""
    for index, item in enumerate(event.output):
        closed(d, event.response_id, index, item)
    mine = sorted(
        (
            call
            for call in d.s.calls.values()
            if call.response_id == event.response_id and call.phase in ("collecting", "ready")
        ),
        key=lambda call: call.output_index,
    )
    if not mine:
        return
    if event.status != "completed":
        for call in mine:
            why = f"its response ended as {event.status} ({event.reason or 'no reason given'})"
            _end(d, call, "cancelled", failure=Failure(message=f"not run: {why}"))
            _delete(d, d.s.calls[call.call_id])
        return
    batch = Batch(
        response_id=event.response_id,
        call_ids=tuple(call.call_id for call in mine),
        apart=responses.is_out_of_band(d, event.response_id),
    )
    if responses.is_interrupted(d, event.response_id):
        # Interrupted while it was being finished: its calls never had a turn.
        for call in mine:
            _end(d, call, "cancelled", failure=Failure(message="interrupted before it ran"))
        _tell_by_policy(d, replace(batch, interrupted_us=d.now_us))
        return
    d.s.batches = with_(d.s.batches, batch.response_id, batch)
    for call in mine:
        _run(d, call)
    _settle(d, event.response_id)


def _run(d: Draft, call: Call) -> None:
    spec = d.s.tools.get(call.name)
    if spec is None:
        known = ", ".join(sorted(d.s.tools)) or "none"
        message = f"there is no tool {call.name!r}; there are: {known}"
        _end(d, call, "unknown_tool", failure=Failure(message=message))
        return
    by: Literal["pool", "client"] = "client" if call.name in d.s.client_tools else "pool"
    call = replace(call, by=by, policy=spec.on_interrupt, effects=spec.effects)
    args: dict[str, Any] | str | None
    if call.phase == "collecting":
        args = "the call was not written to its end"
    else:
        args = written.parse(call.arguments)
        if by == "client" and isinstance(args, dict):
            args = written.mismatch(args, spec.parameters) or args
    if isinstance(args, str):
        _end(d, call, "invalid_arguments", failure=Failure(message=args))
        return
    timeout_s = spec.timeout_s
    if d.s.config.tool_timeout_s is not None:
        timeout_s = min(timeout_s, d.s.config.tool_timeout_s)
    grace_ms = int(spec.grace_s * 1000) if by == "pool" else 0
    call = replace(call, args=args, timeout_ms=int(timeout_s * 1000), grace_ms=grace_ms)
    if spec.approval:
        wait_ms = int(d.s.config.approval_timeout_s * 1000)
        call = replace(call, phase="asking", until_us=d.now_us + wait_ms * 1000)
        d.s.calls = with_(d.s.calls, call.call_id, call)
        d.publish(
            ApprovalRequested(call_id=call.call_id, name=call.name, args=args, timeout_ms=wait_ms)
        )
        return
    _dispatch(d, call)


def _dispatch(d: Draft, call: Call) -> None:
    more_ms = call.grace_ms + POOL_GRACE_MS if call.by == "pool" else 0
    until_us = d.now_us + (call.timeout_ms + more_ms) * 1000
    call = replace(
        call,
        phase="running",
        background=call.told == "apart",
        began_us=d.now_us,
        until_us=until_us,
    )
    d.s.calls = with_(d.s.calls, call.call_id, call)
    d.publish(
        ToolCallDispatched(
            call_id=call.call_id,
            name=call.name,
            args=call.args,
            by=call.by,
            timeout_ms=call.timeout_ms,
        )
    )
    if call.by == "pool":
        d.do(
            fx.Submit(
                call.call_id,
                call.name,
                call.args,
                d.s.epoch,
                call.timeout_ms,
                background=call.background,
            )
        )


def approved(d: Draft, call_id: str, yes: bool, reason: str | None) -> bool:
    """A person decided. Returns whether the call was waiting for that."""
    call = d.s.calls.get(call_id)
    if call is None or call.phase != "asking":
        return False
    if yes:
        _dispatch(d, call)
    else:
        why = reason or "a person did not allow it"
        _end(d, call, "denied", failure=Failure(message=f"not run: {why}"))
        _settle(d, call.response_id)
    return True


def progressed(d: Draft, event: i.ToolSaid) -> None:
    """A running tool said how far it is."""
    call = d.s.calls.get(event.call_id)
    if call is not None and call.phase in ("running", "cancelling"):
        d.publish(ToolCallProgress(call_id=call.call_id, name=call.name, text=event.text))


# --- ending -----------------------------------------------------------------------------------


def ended(d: Draft, event: i.ToolEnded) -> None:
    """The pool's word on a call. The first terminal outcome stands."""
    call = d.s.calls.get(event.call_id)
    d.do(fx.ForgetOutcome(event.call_id))
    if call is None:
        return
    if call.phase not in ("running", "cancelling", "ended"):
        return  # nobody was asked to run it
    if call.phase == "ended":
        _ended_late(d, call, event)
        return
    _end(
        d,
        call,
        event.status,
        result=event.result,
        failure=event.failure,
        duration_ms=event.duration_ms,
        cancel_seen_us=event.cancel_seen_us,
    )
    _settle(d, call.response_id)


def _ended_late(d: Draft, call: Call, event: i.ToolEnded) -> None:
    """Another word on a call that has ended: a repetition, or how it ended after all."""
    if event.status == call.status or call.late_status is not None:
        return  # outcomes are repeated until the pool hears that they were heard
    is_told = call.effects == "once" and call.told != "apart"
    if event.status != "ok" and not is_told:
        return
    d.s.calls = with_(d.s.calls, call.call_id, replace(call, late_status=event.status))
    if event.status == "ok":
        d.publish(ToolCallLateResult(call_id=call.call_id, name=call.name, result=event.result))
        output = _ok_text(event.result)
    else:
        output = _failure_text(call, event.status, event.failure or _WORDLESS)
    if is_told:
        # It was told to check what the tool has done; from its next turn on it need not.
        args = msgspec.json.encode(call.args).decode()
        d.tell(
            f"The tool {call.name}, asked for with {args}, counted as {call.status}. How it ended "
            f"was heard too late for that ({event.status}): {output} What the user said since "
            "then is newer; mention this only if it helps.",
            ref=call.call_id,
        )


def client_ended(d: Draft, call_id: str, result: Any, error: str | None) -> bool:
    """The client's answer for its own tool. Returns whether it was waited for."""
    call = d.s.calls.get(call_id)
    if call is None or call.by != "client" or call.phase not in ("running", "cancelling"):
        return False
    if error is None:
        _end(d, call, "ok", result=result)
    else:
        _end(d, call, "error", failure=Failure(message=error))
    _settle(d, call.response_id)
    return True


def _end(
    d: Draft,
    call: Call,
    status: Literal["ok"] | FailureReason,
    *,
    result: Any = None,
    failure: Failure | None = None,
    duration_ms: float | None = None,
    cancel_seen_us: int | None = None,
) -> None:
    failure = failure or _WORDLESS
    output = _ok_text(result) if status == "ok" else _failure_text(call, status, failure)
    d.s.calls = with_(
        d.s.calls,
        call.call_id,
        replace(call, phase="ended", status=status, output=output, ended_us=d.now_us),
    )
    if status == "ok":
        d.publish(
            ToolCallCompleted(
                call_id=call.call_id, name=call.name, result=result, duration_ms=duration_ms
            )
        )
    else:
        d.publish(
            ToolCallFailed(
                call_id=call.call_id,
                name=call.name,
                reason=status,
                error=failure.message or _IN_WORDS[status],
                exit_code=failure.exit_code,
                signal=failure.signal,
                stderr_tail=failure.stderr_tail,
                duration_ms=duration_ms,
                cancel_seen_us=cancel_seen_us,
            )
        )
    if call.told == "placeholder" or (call.told == "deleted" and _must_be_known(call, status)):
        _announce(d, call, status, output)
    if call.told == "placeholder":
        # The user was promised the result.
        responses.want(d, automatic=True, tool_choice=_follow_up_choice(d))


def _must_be_known(call: Call, status: str) -> bool:
    """A tool with effects that may have happened is not passed over in silence."""
    return (
        call.effects == "once"
        and call.phase != "asking"
        and status
        in (
            "ok",
            "unknown",
            "timeout",
            "crashed",
            "error",
        )
    )


def _announce(d: Draft, call: Call, status: str, output: str) -> None:
    d.tell(
        f"The tool {call.name}, asked for before the user interrupted, has ended ({status}): "
        f"{output} What the user said since then is newer; mention this only if it helps.",
        ref=call.call_id,
    )


_WORDLESS = Failure(message="")
_RUNNING = '{"status":"running","message":"its result will be told later"}'
_WITHDRAWN = '{"error":"cancelled","message":"the call was withdrawn because the user interrupted"}'
_IN_WORDS: dict[str, str] = {
    "error": "the tool failed",
    "invalid_arguments": "the arguments do not fit the tool",
    "unknown_tool": "there is no such tool",
    "timeout": "the tool did not answer in time and was stopped",
    "crashed": "the tool's process crashed",
    "cancelled": "the call was cancelled because the user interrupted",
    "lost": "the tool certainly did not finish and will not be tried again",
    "unknown": "the tool may or may not have done its work; check before trying again",
    "busy": "the tool is busy; try again a little later",
    "denied": "the call was not allowed",
}


def _ok_text(result: Any) -> str:
    return result if isinstance(result, str) else msgspec.json.encode(result).decode()


def _failure_text(call: Call, status: FailureReason, failure: Failure) -> str:
    words = _IN_WORDS[status]
    # How it crashed helps a developer, not a model: only the message goes to it.
    detail = f": {failure.message}" if failure.message and status != "crashed" else ""
    return msgspec.json.encode({"error": status, "message": f"{words}{detail}"}).decode()


# --- telling the model ------------------------------------------------------------------------


def _settle(d: Draft, response_id: str) -> None:
    """When all calls of a batch have ended: outputs in order, then one response."""
    batch = d.s.batches.get(response_id)
    if batch is None or batch.settled:
        return
    mine = [d.s.calls[call_id] for call_id in batch.call_ids]
    if any(call.phase != "ended" and call.told in ("no", "apart") for call in mine):
        return
    told = [call.call_id for call in mine if call.told == "no"]
    for call_id in told:
        _output(d, call_id)
    _finish(d, batch, told, respond=bool(told))


def _finish(d: Draft, batch: Batch, told: list[str], *, respond: bool) -> None:
    d.s.batches = with_(d.s.batches, batch.response_id, replace(batch, settled=True))
    if told or batch.apart:
        d.publish(ToolBatchSubmitted(turn_id=batch.response_id, call_ids=told))
    if respond:
        d.s.rounds += 1
        responses.want(d, automatic=True, tool_choice=_follow_up_choice(d))


def _follow_up_choice(d: Draft) -> str | None:
    if d.s.rounds >= ROUND_LIMIT:
        return "none"
    # A forced choice would force the same call again, for ever.
    config = d.s.config
    choice = config.provider_extras.get("tool_choice", config.tool_choice)
    return None if choice in ("auto", "none") else "auto"


def _output(d: Draft, call_id: str, text: str | None = None) -> None:
    call = d.s.calls[call_id]
    output = call.output if text is None else text
    if call.generation == d.s.generation:
        d.ask(fx.AddOutput(call_id, output), "add_output", ref=call_id)
    elif text is None:
        # The new connection never saw the call: an output without one would be refused.
        _as_context(d, call, output)
    if text is None:
        call = replace(call, told="output")
    else:
        call = replace(call, told="placeholder", background=True)
    d.s.calls = with_(d.s.calls, call_id, call)


def of_output(d: Draft, item: i.Item) -> Call | None:
    """The call whose output, as we gave it, this item is."""
    if item.type != "function_call_output":
        return None
    call = d.s.calls.get(item.call_id or "")
    return call if call is not None and call.told == "output" else None


def _delete(d: Draft, call: Call) -> None:
    if call.told == "apart":
        return
    if call.generation == d.s.generation:
        _forget_item(d, call.item_id, call.call_id)
    background = call.phase == "running"
    call = replace(call, told="deleted", background=background)
    d.s.calls = with_(d.s.calls, call.call_id, call)


def _forget_item(d: Draft, item_id: str, call_id: str) -> None:
    if d.s.capabilities.delete and item_id:
        items.delete(d, item_id)
    else:
        d.ask(fx.AddOutput(call_id, _WITHDRAWN), "add_output", ref=call_id)


def output_refused(d: Draft, call_id: str) -> None:
    """The provider does not know this call, any more or yet: the model hears it as context, of one
    that was promised for later when it has ended, as any such."""
    call = d.s.calls.get(call_id)
    if call is not None and call.told == "output":
        _as_context(d, call, call.output)


def _as_context(d: Draft, call: Call, output: str) -> None:
    d.tell(as_context(call, output), ref=call.call_id)


def as_context(call: Call, output: str) -> str:
    """What a connection is told that never saw the call."""
    args = msgspec.json.encode(call.args).decode()
    return f"The tool {call.name}, asked for with {args}, has answered: {output}"


# --- interruption -----------------------------------------------------------------------------


def uninterrupted(d: Draft) -> list[Batch]:
    """The batches at work that no interruption has met yet."""
    return [
        batch
        for batch in d.s.batches.values()
        if not batch.settled and not batch.interrupted_us and not batch.apart
    ]


def stoppable(d: Draft, batches: list[Batch]) -> list[str]:
    """Their running calls whose tools may be stopped by an interrupt."""
    return [
        call_id
        for batch in batches
        for call_id in batch.call_ids
        if (call := d.s.calls[call_id]).phase in ("asking", "running") and call.policy == "cancel"
    ]


def interrupted(d: Draft, batches: list[Batch], stop: list[str], reason: str) -> None:
    """Stop what may be stopped, and decide by policy what the model is told of each call."""
    in_pool: list[str] = []
    for call_id in stop:
        call = d.s.calls[call_id]
        if call.phase == "asking":
            _end(d, call, "cancelled")
            continue
        until_us = min(call.until_us, d.now_us + (call.grace_ms + CANCEL_GRACE_MS) * 1000)
        d.s.calls = with_(d.s.calls, call_id, replace(call, phase="cancelling", until_us=until_us))
        if call.by == "pool":
            in_pool.append(call_id)
    if in_pool:
        d.do(fx.CancelCalls(tuple(in_pool), d.s.epoch, reason))
    for batch in batches:
        _tell_by_policy(d, replace(batch, interrupted_us=d.now_us))


def _tell_by_policy(d: Draft, batch: Batch) -> None:
    policy = d.s.config.on_interrupt
    later: list[str] = []  # what runs on in the pool though no answer waits for it
    for call_id in batch.call_ids:
        call = d.s.calls[call_id]
        if call.told == "no" and call.phase == "running" and call.policy == "detach":
            _output(d, call_id, _RUNNING)
            if call.by == "pool":
                later.append(call_id)
    if policy == "submit":
        d.s.batches = with_(d.s.batches, batch.response_id, batch)
        _settle(d, batch.response_id)
        _defer(d, later)
        return
    told: list[str] = []
    for call_id in batch.call_ids:
        call = d.s.calls[call_id]
        if call.told != "no":
            continue
        if policy == "submit-completed-only" and call.phase == "ended" and call.status == "ok":
            _output(d, call_id)
            told.append(call_id)
        else:
            _delete(d, call)
            if call.phase == "running" and call.by == "pool":
                later.append(call_id)
            elif call.phase == "ended" and _must_be_known(call, call.status or ""):
                _announce(d, call, call.status or "", call.output)
    _finish(d, batch, told, respond=bool(told))
    _defer(d, later)


def _defer(d: Draft, call_ids: list[str]) -> None:
    """Calls that nobody waits for let those of callers who wait go first."""
    if call_ids:
        d.do(fx.Defer(tuple(call_ids)))


# --- time -------------------------------------------------------------------------------------


def expire(d: Draft) -> None:
    """The pool's word did not come: the session ends these calls itself."""
    for call in tuple(d.s.calls.values()):
        if call.phase not in ("asking", "running", "cancelling") or d.now_us < call.until_us:
            continue
        if call.phase == "asking":
            _end(d, call, "denied", failure=Failure(message="nobody approved it in time"))
        elif call.by == "client":
            _end(d, call, "timeout", failure=Failure(message="the client did not answer in time"))
        elif call.phase == "cancelling" and call.effects != "once":
            _end(d, call, "cancelled")
        else:
            status: FailureReason = "unknown" if call.effects == "once" else "lost"
            _end(d, call, status, failure=Failure(message="the tool pool did not answer"))
        _settle(d, call.response_id)


def deadlines(d: Draft) -> list[int]:
    """When expire() wants to be called."""
    return [
        call.until_us
        for call in d.s.calls.values()
        if call.phase in ("asking", "running", "cancelling")
    ]


def close_all(d: Draft) -> None:
    """The session ends: every open call is stopped and gets its outcome."""
    running = [call for call in d.s.calls.values() if call.phase in ("running", "cancelling")]
    pool = tuple(call.call_id for call in running if call.by == "pool")
    if pool:
        d.do(fx.Broadcast("close", d.s.epoch, pool, "session closed"))
        d.do(fx.CancelCalls(pool, d.s.epoch, "session closed"))
    for call in tuple(d.s.calls.values()):
        if call.phase != "ended":
            d.s.calls = with_(d.s.calls, call.call_id, replace(call, told="no"))
            _end(
                d,
                d.s.calls[call.call_id],
                "cancelled",
                failure=Failure(message="the session was closed"),
            )


def prune(d: Draft) -> None:
    """Forget batches that are settled and old calls that ended. At the end of a response is soon
    enough: until then they are in nobody's way."""
    calls = d.s.calls
    over = [
        key
        for key, batch in d.s.batches.items()
        if batch.settled and all(calls[call_id].phase == "ended" for call_id in batch.call_ids)
    ]
    if over:
        d.s.batches = without(d.s.batches, *over)
    if len(d.s.calls) <= KEPT:
        return
    old = [
        key
        for key, call in d.s.calls.items()
        if call.phase == "ended" and call.response_id not in d.s.batches
    ]
    if len(old) > KEPT:
        d.s.calls = without(d.s.calls, *old[:-KEPT])
