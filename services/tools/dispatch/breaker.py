"""Leaves a tool alone that fails again and again, so that callers need not wait for each failure.

closed ──(failures in a row)──▶ open ──(cooling time)──▶ half open ──(it goes well)──▶ closed
                                 ▲                           │
                                 └────(its one call fails)───┘
"""

from voicebus.bus.messages import work
from voicebus.services.tools.dispatch.effects import Effect, Note
from voicebus.services.tools.dispatch.state import Breaker, Call, State

FAILURES = frozenset({"crashed", "lost", "timeout"})
"""What its process or its backend is to blame for. An error that it raised is an answer."""
ANSWERS = frozenset({"ok", "error"})


def refusal(state: State, at: float, call: Call) -> str | None:
    """Why this call may not run now, in words for the model; None if it may."""
    assert call.submit is not None
    breaker = state.breakers.get(call.submit.tool)
    if breaker is None or breaker.failures < state.limits.breaker_failures:
        return None
    if at < breaker.open_until:
        left_s = max(1, round(breaker.open_until - at))
        when = f"for another {left_s} s"
    elif breaker.trial is None or breaker.trial not in state.calls:
        breaker.trial = call.key
        return None
    else:
        when = "until a call that is being tried has ended"
    return (
        f"'{call.submit.tool}' has failed {breaker.failures} times in a row "
        f"(last: {breaker.last}) and is left alone {when}; it did not run: go on without it, "
        "or tell the user that it does not work at the moment"
    )


def ended(state: State, at: float, call: Call, status: work.Status, effects: list[Effect]) -> bool:
    """A call that had begun has ended. Returns whether its tool is left alone from now on."""
    limit = state.limits.breaker_failures
    if call.submit is None or call.attempt == 0 or not limit:
        return False
    name = call.submit.tool
    breaker = state.breakers.get(name)
    if status in ANSWERS:
        if breaker is not None:
            del state.breakers[name]
            if breaker.failures >= limit:
                effects.append(Note("tool.resumed", (("tool", name),)))
        return False
    if status not in FAILURES:
        return False
    if breaker is None:
        breaker = state.breakers[name] = Breaker()
    breaker.failures += 1
    breaker.last = status
    if breaker.failures < limit or at < breaker.open_until:
        return False  # not yet; or it was on its way before the tool was left alone
    breaker.open_until = at + state.limits.breaker_cooling_s
    breaker.trial = None
    fields = (
        ("tool", name),
        ("failures", breaker.failures),
        ("last", status),
        ("for_s", state.limits.breaker_cooling_s),
    )
    effects.append(Note("tool.suspended", fields))
    return True


def suspended(state: State) -> list[str]:
    """The tools that are left alone now, or tried with one call."""
    limit = state.limits.breaker_failures
    return [name for name, one in state.breakers.items() if limit and one.failures >= limit]


def forget(state: State, offered: dict[str, work.ToolSpec]) -> None:
    """A tool that comes back, with another host or other code, begins anew."""
    state.breakers = {name: one for name, one in state.breakers.items() if name in offered}
