"""How long a call would wait for its turn, by what earlier calls of each tool took."""

import heapq
from collections import Counter

from voicebus.bus.messages import work
from voicebus.services.tools.dispatch import choice
from voicebus.services.tools.dispatch.state import Call, State

KNOWN_AFTER = 5
"""So many calls of a tool, before which nothing is expected of it."""
WEIGHT = 0.2
"""Of the latest call in the mean."""


def observe(state: State, at: float, call: Call) -> None:
    """A call has ended at its worker: so long it had one of its places."""
    if call.submit is None or call.given_at is None:
        return
    took_s = at - call.given_at
    count, mean_s = state.service_s.get(call.submit.tool, (0, took_s))
    state.service_s[call.submit.tool] = (count + 1, mean_s + WEIGHT * (took_s - mean_s))


def wait_s(state: State, at: float, call: Call) -> float:
    """Until this call, which comes after all that wait, could begin: rather too short than long.

    What is not known counts as nothing: tools that were seldom called, background work's
    places, calls that have run longer than usual, calls whose session has reached its limit.
    """
    assert call.submit is not None
    tool = choice.tool_of(state, call)
    assert tool is not None
    offering = [one for one in state.workers.values() if tool.name in one.tools]
    ahead = _ahead(state, call)
    if not ahead and tool.concurrency is None and any(map(choice.available, offering)):
        return 0.0
    peers = {one.peer for one in offering}
    running = [one for one in state.calls.values() if one.worker in peers]
    places = sum(one.capacity for one in offering)
    together = [one for one in ahead if one.submit and _shares(state, one.submit.tool, peers)]
    found = _queue(state, at, running, together, places)
    if tool.concurrency is not None:
        own = [one for one in ahead if one.submit and one.submit.tool == tool.name]
        busy = [
            one
            for one in state.calls.values()
            if one.worker is not None and one.submit and one.submit.tool == tool.name
        ]
        found = max(found, _queue(state, at, busy, own, tool.concurrency))
    return found


def _ahead(state: State, call: Call) -> list[Call]:
    """Those whose turn comes before, as far as their sessions and tools let them run now."""
    is_background = call.submit is not None and call.submit.background
    active = [one for one in state.calls.values() if one.worker is not None]
    per_session = Counter(one.key[0] for one in active)
    found = []
    for one in state.calls.values():
        if one.worker is not None or one is call or one.submit is None:
            continue
        if one.submit.background and not is_background:
            continue
        if per_session[one.key[0]] < state.limits.running_per_session:
            per_session[one.key[0]] += 1
            found.append(one)
    return found


def _shares(state: State, tool: str, peers: set[str]) -> bool:
    """Whether only the same workers can run it: others might take it otherwise."""
    offering = {one.peer for one in state.workers.values() if tool in one.tools}
    return bool(offering) and offering <= peers


def _queue(state: State, at: float, running: list[Call], ahead: list[Call], places: int) -> float:
    """When a place is free after those ahead have had theirs, each the one that is free first."""
    if places < 1:
        return 0.0  # nobody is there to run it; its deadline bounds the wait
    if places > len(running) + len(ahead):
        return 0.0  # and no list of as many places as a worker claims to have
    free_in = [max(0.0, _service_s(state, one) - _age(at, one)) for one in running][:places]
    free_in += [0.0] * (places - len(free_in))
    heapq.heapify(free_in)
    for one in ahead:
        heapq.heapreplace(free_in, free_in[0] + _service_s(state, one))
    return free_in[0]


def _age(at: float, call: Call) -> float:
    return at - call.given_at if call.given_at is not None else 0.0


def _service_s(state: State, call: Call) -> float:
    """The usual time of its tool, but no longer than it may take."""
    if call.submit is None:
        return 0.0
    count, mean_s = state.service_s.get(call.submit.tool, (0, 0.0))
    return min(mean_s, call.submit.budget_ms / 1000) if count >= KNOWN_AFTER else 0.0


def forget(state: State, offered: dict[str, work.ToolSpec]) -> None:
    """Of tools that nobody offers any more nothing needs to be known."""
    state.service_s = {name: one for name, one in state.service_s.items() if name in offered}
