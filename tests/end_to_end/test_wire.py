"""What the processes say to each other follows the published schemas, as it passes on the wire."""

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import scene
from tests.end_to_end.tap import Messages, tapped
from voicebus.bus import schemas
from voicebus.bus.planes import BY_NAME
from voicebus.cli.testing import Stack

SOCKETS = {
    "transport-0.link": ("link-down", "link-up"),
    "tools.calls": ("calls-down", "calls-up"),
    "tools.workers": ("worker-up", "worker-down"),
}
"""Per socket the plane towards the process that binds it, and the one back."""
SEEN = {
    "link-down": {"hello", "ack", "dial", "send", "release", "grant", "flush", "hangup"},
    "link-up": {"welcome", "down_ack", "opened", "frame", "sound", "closed"},
    "calls-down": {"follow", "submit", "cancel", "outcome_ack"},
    "calls-up": {"catalogue", "started", "outcome"},
    "worker-up": {"hello", "credit", "started", "result", "heartbeat"},
    "worker-down": {"welcome", "call", "acked", "heartbeat"},
}
"""What one conversation with tools and an interruption must show at least."""
AMPLE_S = 20.0


class Wire:
    """Every message that passed, checked against the schema of its plane."""

    def __init__(self) -> None:
        self.seen: dict[str, Counter[str]] = {plane: Counter() for plane in SEEN}
        self.faults: set[str] = set()

    def lacking(self) -> dict[str, set[str]]:
        """What should have passed and has not."""
        return {plane: kinds - set(self.seen[plane]) for plane, kinds in SEEN.items()}

    def check(self, plane: str) -> Messages:
        """A listener for one direction."""
        validators = _validators(BY_NAME[plane].file)

        def told(frames: list[bytes]) -> None:
            header = json.loads(frames[0])
            kind = header.get("kind")
            self.seen[plane][kind] += 1
            if kind not in validators:
                self.faults.add(f"{plane}: no schema for {kind!r}")
                return
            for error in validators[kind].iter_errors(header):
                self.faults.add(f"{plane} {kind} {error.json_path}: {error.message[:200]}")

        return told


def _validators(file: str) -> dict[str, jsonschema.Draft202012Validator]:
    """Per kind: as committed, that is what a stranger has."""
    whole = json.loads((Path(schemas.FOLDER) / file).read_text("utf-8"))
    found: dict[str, Any] = {}
    for definition in whole["$defs"].values():
        for kind in definition.get("properties", {}).get("kind", {}).get("enum", ()):
            found[kind] = jsonschema.Draft202012Validator({**definition, "$defs": whole["$defs"]})
    return found


@pytest.fixture
def acts(tmp_path: Path) -> Acts:
    return Acts(tmp_path)


@pytest.fixture
def cell(start_stack: StartStack, acts: Acts) -> Stack:
    return start_stack(scenario=SCENARIO, tools=acts.specs)


async def test_link_calls_and_workers_speak_as_published(cell: Stack, acts: Acts) -> None:
    wire = Wire()
    async with contextlib.AsyncExitStack() as taps:
        for name, (there, back) in SOCKETS.items():
            path = cell.run_dir / name
            await taps.enter_async_context(tapped(path, wire.check(there), wire.check(back)))
        for name in ("session-0", "toolhost-0"):  # they come back through the taps
            before = cell.kill(name)
            await cell.ready(name, after=before)
        async with scene(cell) as on:
            caller = await on.caller()
            await caller.turn("tally")
            await caller.session.send_text("story and patience")
            await caller.until(lambda: len(caller.pieces()) > 5, "some of the story")
            call = await caller.event("tool_call_dispatched", nth=2)
            await acts.ran(call.data.call_id)
            await caller.session.interrupt()
            await caller.event("interrupted")
            await caller.turn("tally and weather")
        # The last of it comes after the last event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AMPLE_S):
                while any(wire.lacking().values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    assert not wire.faults
    assert not any(wire.lacking().values()), f"not seen: {wire.lacking()}; seen: {wire.seen}"
