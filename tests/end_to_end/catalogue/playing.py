"""Plays a scenario to a cell: the simulator runs inside the test, at the provider's address."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tests.end_to_end.support import Caller, Scene, scene
from tests.ports import free_port
from voicebus.cli.testing import Stack
from voicebus.services.simulator.scenario import Rule
from voicebus.services.simulator.server import Options, load_scenario, running

SCENARIOS = Path(__file__).parent
PORT = free_port()
SILENCE = bytes(960)
"""20 ms of pcm16."""
ASK = {"type": "function", "name": "ask_me", "description": "Ask the caller's own program."}
"""A tool that the test answers itself."""


@contextlib.asynccontextmanager
async def playing(cell: Stack, name: str, *, hurry: int = 1) -> AsyncIterator[Scene]:
    """A scene whose provider plays that scenario: one of this folder, or a built-in one.

    `hurry`: its waits are so many times shorter than the file says.
    """
    file = SCENARIOS / f"{name}.toml"
    scenario = load_scenario(str(file) if file.is_file() else name)
    if hurry != 1:
        scenario = replace(scenario, on=[_hurried(rule, hurry) for rule in scenario.on])
    options = Options(port=PORT, pace=0).with_scenario(scenario)
    async with running(options), scene(cell) as on:
        yield on


def _hurried(rule: Rule, times: int) -> Rule:
    deeds = [
        deed if deed.wait_ms is None else replace(deed, wait_ms=deed.wait_ms // times)
        for deed in rule.do
    ]
    return replace(rule, do=deeds)


@contextlib.asynccontextmanager
async def calling(on: Scene) -> AsyncIterator[Caller]:
    """A caller who need not wait until the provider is ready."""
    caller = Caller(await on.client.connect())
    try:
        yield caller
    finally:
        await caller.close()


async def sent(on: Scene, caller: Caller, type: str) -> list[Any]:
    """The frames of that type that went to the provider, up to what the caller knows."""
    await on.caught_up(caller)
    return on.tape.sent_to_provider(caller.id, type)


async def came(on: Scene, session_id: str, type: str, *, nth: int = 1) -> Any:
    """The nth frame of that type that came from the provider."""

    def there() -> Any:
        found = [
            frame
            for _, header, frame in on.tape.raw
            if (header["session_id"], header["kind"], header["dir"]) == (session_id, type, "up")
        ]
        return found[nth - 1] if len(found) >= nth else None

    return await on.tape.until(there, f"{type} number {nth}")


async def speak(caller: Caller, frames: int = 1) -> None:
    """Say something; what is to be heard in it, the scenario says."""
    for _ in range(frames):
        await caller.session.send_audio(SILENCE)


async def completed(caller: Caller, nth: int = 1, **fields: Any) -> Any:
    """What is told of the nth answer that has ended."""
    return (await caller.event("assistant_turn_completed", nth=nth, **fields)).data
