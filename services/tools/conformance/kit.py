"""Runs the checks against one worker, and says of each rule: kept, broken, or not tried."""

import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Literal

from voicebus.services.tools.conformance.bench import Bench, Broken
from voicebus.services.tools.conformance.checks import (
    CHECKS,
    ESSENTIAL,
    Samples,
    Skipped,
    Subject,
)

Verdict = Literal["kept", "broken", "not tried"]


@dataclass(frozen=True)
class Finding:
    """What became of one rule."""

    rule: str
    """Its name, such as `cancel_before_its_call`."""
    says: str
    """What a worker does that keeps it."""
    verdict: Verdict
    why: str = ""


async def check(
    endpoint: str,
    samples: Samples,
    command: str | None = None,
    *,
    tell: Callable[[Finding], None] = lambda _finding: None,
    only: Collection[str] = (),
) -> list[Finding]:
    """Be the dispatcher at `endpoint` (ipc or tcp) for one worker, and try every rule.

    `command` starts the worker; without it, it is waited for. `only` names the rules to try, by
    default all; those that the others need are always among them. Ends the process it started.
    """
    bench = Bench(endpoint)

    def start() -> subprocess.Popen[bytes]:
        assert command is not None
        return subprocess.Popen(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno()
        )

    subject = Subject(bench, samples, start if command is not None else None)
    findings: list[Finding] = []
    try:
        if subject.start is not None:
            subject.process = subject.start()
        for one in CHECKS:
            name, says = one.__name__, (one.__doc__ or "").strip()
            if only and name not in only and name not in ESSENTIAL:
                continue
            if any(f.verdict == "broken" and f.rule in ESSENTIAL for f in findings):
                finding = Finding(name, says, "not tried", "it needs the rules before")
            elif subject.process is not None and (code := subject.process.poll()) is not None:
                finding = Finding(name, says, "broken", f"its process has ended ({code})")
            else:
                finding = await _try(name, says, one(subject))
            if bench.faults:
                finding = Finding(name, says, "broken", f"no message: {bench.faults.pop(0)}")
            findings.append(finding)
            tell(finding)
    finally:
        bench.close()
        if subject.process is not None and subject.process.poll() is None:
            subject.process.kill()
            subject.process.wait()
    return findings


async def _try(name: str, says: str, attempt: Awaitable[None]) -> Finding:
    try:
        await attempt
    except Skipped as skipped:
        return Finding(name, says, "not tried", str(skipped))
    except Broken as broken:
        return Finding(name, says, "broken", str(broken))
    return Finding(name, says, "kept")
