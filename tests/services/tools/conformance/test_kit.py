"""The kit finds a good worker good, and each deliberately wrong one by the rule it breaks."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import voicebus
from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.services.tools.conformance import kit
from voicebus.services.tools.conformance.checks import CHECKS, Sample, Samples

WORKER = Path(voicebus.__file__).parents[2] / "examples" / "workers" / "worker.py"
SAMPLES = Samples(
    quick=Sample("shout", {"text": "hi"}),
    slow=Sample("shout", {"text": "hi", "seconds": 30}),
    large=Sample("shout", {"text": "ho", "times": 1_000_000}),
    crash=Sample("shout", {"text": ""}),
)
BREAKS = {
    "registration": ('"type": "object", "required"', '"type": "array", "required"'),
    "credit": ("CAPACITY - len(running), received", "9, received"),
    "heartbeat": ("0.25 if welcome", "2.5 if welcome"),
    "ordinary_call": ("received += 1", "pass"),
    "repeated_after_its_end": ("if key in unacked:", "if False:"),
    "unknown_tool": ('call["tool"] != "shout"', "False"),
    "progress": ('text="taking', 'note="taking'),
    "repeated_while_it_runs": (
        'send("started", session_id=key[0], call_id=key[1])\n    elif key in cancelled',
        "pass\n    elif key in cancelled",
    ),
    "cancel": ('finish(key, "cancelled", f"cancelled ({message[\'reason\']})")', "pass"),
    "cancel_before_its_call": ("elif key in cancelled:", "elif False:"),
    "deadline": ('now >= call["ends_at"]', "False"),
    "oversize_result": ("len(words) > LONGEST", "False"),
    "crash": ('if call["text"] else ("error", "no text")', 'if call["text"] else sys.exit(1)'),
    "reset": ("unacked=names(unacked)", "unacked=[]"),
    "dispatcher_restart": ("running=names(running), unacked", "running=[], unacked"),
    "silent_dispatcher": ("welcome = welcome and now - heard_at < 2", ""),
    "restart_of_the_worker": ("INC = os.urandom(4).hex()", 'INC = "always"'),
    "drain": ("draining = True", "sys.exit(0)"),
}
"""Rule -> what is changed in the example worker to break it."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with testing.run_folder() as path:
        yield path


async def check(folder: Path, worker: Path, *only: str) -> list[kit.Finding]:
    command = shlex.join([sys.executable, str(worker), str(folder)])
    return await kit.check(Endpoints(folder).workers, SAMPLES, command, only=only)


async def test_the_example_worker_keeps_every_rule(folder: Path) -> None:
    findings = await check(folder, WORKER)

    assert [(one.rule, one.verdict, one.why) for one in findings] == [
        (one.__name__, "kept", "") for one in CHECKS
    ]


@pytest.mark.parametrize("rule", BREAKS)
async def test_a_worker_that_breaks_a_rule_is_found_by_it(folder: Path, rule: str) -> None:
    good, bad = BREAKS[rule]
    text = WORKER.read_text("utf-8")
    assert good in text
    wrong = folder / "wrong.py"
    wrong.write_text(text.replace(good, bad), "utf-8")

    findings = {one.rule: one for one in await check(folder, wrong, rule)}

    assert findings[rule].verdict == "broken"
    assert findings[rule].why


def test_every_rule_has_a_worker_that_breaks_it() -> None:
    assert [one.__name__ for one in CHECKS] == list(BREAKS)


async def test_the_tool_host_itself_keeps_every_rule(folder: Path) -> None:
    tools = folder / "tools.py"
    tools.write_text(
        '''
import os
from voicebus import ToolContext, tool

@tool(grace_s=0.2)
def shout(ctx: ToolContext, text: str, seconds: float = 0, times: int = 1) -> str:
    """Say it loudly."""
    if not text:
        os._exit(7)
    ctx.progress("taking a deep breath")
    ctx.sleep(seconds)
    return text.upper() * times
''',
        "utf-8",
    )
    command = (
        f"env VOICEBUS_RUN={folder} {shlex.quote(sys.executable)} -P "
        f"-m voicebus.services.tools.toolhost --tools {tools}"
    )

    findings = await kit.check(Endpoints(folder).workers, SAMPLES, command)

    assert [(one.rule, one.why) for one in findings if one.verdict != "kept"] == []


async def test_a_worker_that_nobody_starts_is_waited_for_and_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voicebus.services.tools.conformance.checks.START_S", 0.1)

    findings = await kit.check(Endpoints(folder).workers, SAMPLES)

    assert findings[0].verdict == "broken"
    assert "expected 'hello' within 0.1 s; it said nothing" in findings[0].why
    assert {one.verdict for one in findings[1:]} == {"not tried"}
