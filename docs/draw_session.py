"""Draws the pictures and the policy table of docs/session.md by running the core.

    python docs/draw_session.py          writes them into docs/session.md
    python docs/draw_session.py --check  says whether they are stale

From an opened conversation every input of a small menu is tried in every situation that is found,
until no new situation comes up; what changed is an arrow.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

from voicebus.bus.messages.commands import OnInterrupt, SessionConfig
from voicebus.bus.messages.work import ToolOnInterrupt
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.state import State
from voicebus.services.session.core.step import deadline
from voicebus.services.session.testing import (
    Stage,
    call,
    created,
    done,
    of,
    tool,
    tool_failed,
    tool_ok,
)

PAGE = Path(__file__).parent / "session.md"
BEGIN, END = "<!-- drawn: {} -->", "<!-- end: {} -->"
Deed = Callable[[Stage], object]


# --- trying everything everywhere -------------------------------------------------------------


def _announced(stage: Stage) -> None:
    create = stage.state.creating
    stage.play(created("r1", create.tag if create else None))


def _ask(stage: Stage) -> None:
    if response_of(stage.state) == "none":
        stage.command("send_text", text="Hello")


def _done(rate_limited: bool) -> Deed:
    def deed(stage: Stage) -> None:
        if "r1" in stage.state.responses:
            stage.play(
                done("r1", "failed" if rate_limited else "completed", rate_limited=rate_limited)
            )

    return deed


def _next_deadline(stage: Stage) -> None:
    due_us = deadline(stage.state)
    if due_us is not None:
        stage.now_us = max(stage.now_us, due_us)
        stage.play(i.TimePassed())


def _dialled(stage: Stage) -> None:
    stage.play(i.ProviderConnected(generation=stage.state.generation))


def _lost(stage: Stage) -> None:
    lost = i.ProviderDisconnected(generation=stage.state.generation, code=1006)
    stage.play(lost)


def _refused_for_good(stage: Stage) -> None:
    stage.play(i.ProviderDisconnected(generation=stage.state.generation, http_status=401))


LINK: dict[str, Deed] = {
    "socket opened": _dialled,
    "introduced": lambda stage: stage.play(i.ProviderSessionCreated()),
    "configuration confirmed": lambda stage: stage.play(i.ProviderSessionUpdated(session={})),
    "socket lost": _lost,
    "refused for good": _refused_for_good,
    "close": lambda stage: stage.command("close"),
    "time": _next_deadline,
}
RESPONSE: dict[str, Deed] = {
    "send_text": _ask,
    "announced": _announced,
    "refused, another is active": lambda stage: stage.play(
        i.ProviderRefused(code="active", message="", meaning="already_active")
    ),
    "interrupt": lambda stage: stage.command("interrupt"),
    "done": _done(rate_limited=False),
    "done, rate limited": _done(rate_limited=True),
    "time": _next_deadline,
}
CALL: dict[str, Deed] = {
    "announced": lambda stage: stage.play(created("r1")),
    "call begun": lambda stage: stage.play(call("r1", "c1", "plain")[0]),
    "call written": lambda stage: stage.play(*call("r1", "c1", "plain")),
    "call written, needs approval": lambda stage: stage.play(*call("r1", "c1", "asks")),
    "response completed": lambda stage: stage.play(done("r1")),
    "response cut short": lambda stage: stage.play(done("r1", "incomplete")),
    "approved": lambda stage: stage.command("approve", call_id="c1", approve=True),
    "denied": lambda stage: stage.command("approve", call_id="c1", approve=False),
    "interrupt": lambda stage: stage.command("interrupt"),
    "outcome": lambda stage: stage.play(tool_ok("c1")),
    "time": _next_deadline,
}


def link_of(state: State) -> str:
    """Where the link stands."""
    return state.phase


def response_of(state: State) -> str:
    """Where the response to the one question stands."""
    response = state.responses.get("r1")
    if state.queue:
        return "waiting" if state.queue[0].not_before_us else "wanted"
    if state.creating is not None:
        return "unwanted" if state.creating.unwanted else "asked"
    if response is None:
        return "none"
    if not response.active:
        return "over"
    return "stopping" if response.interrupted or response.cancelling else "active"


def call_of(state: State) -> str:
    """Where the one call stands."""
    one = state.calls.get("c1")
    return "none" if one is None else one.phase


def arrows(
    start: Stage, deeds: dict[str, Deed], where: Callable[[State], str]
) -> dict[tuple[str, str], list[str]]:
    """(from, to) -> what leads there, found by trying everything everywhere."""
    found: dict[tuple[str, str], list[str]] = {}
    seen = {_situation(start.state, where)}
    open_ = [start]
    while open_:
        stage = open_.pop(0)
        for name, deed in deeds.items():
            after = copy.copy(stage)
            after.effects = list(stage.effects)
            deed(after)
            step = (where(stage.state), where(after.state))
            if step[0] != step[1] and name not in found.setdefault(step, []):
                found[step].append(name)
            situation = _situation(after.state, where)
            if situation not in seen and len(seen) < 400:
                seen.add(situation)
                open_.append(after)
    return found


def _situation(state: State, where: Callable[[State], str]) -> tuple[object, ...]:
    return (
        where(state),
        state.phase,
        response_of(state),
        call_of(state),
        state.calls["c1"].name if "c1" in state.calls else "",
        len(state.queue),
        min(state.attempt, 9),
        any(one.what == "configure" for one in state.asked.values()),
    )


def mermaid(found: dict[tuple[str, str], list[str]], first: str) -> str:
    """The arrows as a state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for (before, after), names in sorted(found.items()):
        lines.append(f"    {before} --> {after}: {', '.join(sorted(names))}")
    return "\n".join([*lines, "```"])


# --- the policy table -------------------------------------------------------------------------

SESSION_POLICIES: tuple[OnInterrupt, ...] = ("drop", "submit", "submit-completed-only")
TOOL_POLICIES: tuple[ToolOnInterrupt, ...] = ("cancel", "finish", "detach")
WHEN = ("queued", "running", "finished")


def cell(session: OnInterrupt, policy: ToolOnInterrupt, when: str) -> tuple[str, ...]:
    """Interrupt while a call is queued, running or finished and its sibling still runs."""
    config = SessionConfig(turn_detection="none", on_interrupt=session)
    stage = Stage(config, [tool("a", on_interrupt=policy), tool("b", effects="none")])
    stage.play(created(), *call("r1", "c1", "a"), *call("r1", "c2", "b", 1), done())
    if when == "running":
        stage.play(i.ToolBegan(call_id="c1"))
    elif when == "finished":
        stage.play(tool_ok("c1"))
    first = stage.command("interrupt")
    stopped = any("c1" in told.call_ids for told in of(first, fx.Broadcast))
    later = stage.play(tool_failed("c2", "cancelled"))
    if when != "finished":
        unrun = stopped and when == "queued"
        later += stage.play(tool_failed("c1", "cancelled") if unrun else tool_ok("c1"))
    fate = "-" if when == "finished" else "stopped" if stopped else "goes on"
    answered = "yes" if of([*first, *later], fx.CreateResponse) else "no"
    return (session, policy, when, fate, _told(first), _told(later), answered)


def _told(effects: list[fx.Effect]) -> str:
    said = [
        "“running”" if '"running"' in one.output else "output"
        for one in of(effects, fx.AddOutput)
        if one.call_id == "c1"
    ]
    if fx.DeleteItem("item-c1") in of(effects, fx.DeleteItem):
        said.append("item deleted")
    if of(effects, fx.AddContext):
        said.append("context")
    return ", ".join(said) or "-"


def policy_table() -> str:
    """The table, one row per cell."""
    head = (
        "| session | tool | the call is | its tool | told at the interrupt | told later "
        "| a response follows |"
    )
    rows = [
        "| " + " | ".join(cell(session, policy, when)) + " |"
        for session in SESSION_POLICIES
        for policy in TOOL_POLICIES
        for when in WHEN
    ]
    return "\n".join([head, "| --- " * 7 + "|", *rows])


# --- the page ---------------------------------------------------------------------------------


def pictures() -> dict[str, str]:
    """Every drawn part of the page by its name."""
    manual = SessionConfig(turn_detection="none", lease_s=10_000)
    tools = [tool("plain"), tool("asks", approval=True)]
    return {
        "link": mermaid(arrows(Stage(manual, ready=False), LINK, link_of), "connecting"),
        "response": mermaid(arrows(Stage(manual), RESPONSE, response_of), "none"),
        "call": mermaid(arrows(Stage(manual, tools), CALL, call_of), "none"),
        "policies": policy_table(),
    }


def drawn(page: str) -> str:
    """The page with its pictures as they are now."""
    for name, picture in pictures().items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{PAGE} has no place for {name}: {begin} … {end}")
        page = f"{before}{begin}\n{picture}\n{end}{after}"
    return page


def main() -> None:
    """Write the page, or say that it is stale."""
    old = PAGE.read_text("utf-8")
    new = drawn(old)
    if "--check" in sys.argv:
        if new != old:
            raise SystemExit(f"{PAGE} is stale: run python docs/draw_session.py")
        return
    PAGE.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
