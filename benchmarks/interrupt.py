"""Interrupt: how soon everything knows: subscribers, the player, the running tool."""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from voicebus.benchmarks.figures import Result, Table, ages
from voicebus.benchmarks.harness import Broken, Provider, Scale, cell
from voicebus.cli.testing import Stack
from voicebus.client import Event, RealtimeClient, RealtimeSession, Sound, SoundFlush

PATIENCE_S = 10.0
PLACES = ("flush at the player", "event at a subscriber", "tool has seen it")


class _Ears:
    """When an event or a flush came last."""

    def __init__(self, session: RealtimeSession) -> None:
        self.kinds: dict[str, int] = {}
        self.flushed_ns = 0
        self.sounded_ns = 0
        self.should_be_silent = False
        self.late = 0
        """Pieces of sound that came after the flush of their answer."""
        self._changed = asyncio.Event()
        self.tasks = [
            asyncio.create_task(self._events(session)),
            asyncio.create_task(self._sound(session)),
        ]

    async def _events(self, session: RealtimeSession) -> None:
        async for event in session.events():
            self._note(event)

    def _note(self, event: Event) -> None:
        self.kinds[event.kind] = time.monotonic_ns()
        self._changed.set()

    async def _sound(self, session: RealtimeSession) -> None:
        async for heard in session.audio_output():
            if isinstance(heard, SoundFlush):
                self.flushed_ns = time.monotonic_ns()
                self.should_be_silent = True
            elif isinstance(heard, Sound):
                self.sounded_ns = time.monotonic_ns()
                self.late += self.should_be_silent
            self._changed.set()

    def has_sounded(self, since_ns: int) -> bool:
        """Whether sound has come since."""
        return self.sounded_ns > since_ns

    def has_flushed(self, since_ns: int) -> bool:
        """Whether the player was told to stop since."""
        return self.flushed_ns > since_ns

    def has_heard(self, kind: str, since_ns: int) -> bool:
        """Whether such an event has come since."""
        return self.kinds.get(kind, 0) > since_ns

    async def until(self, what: str, met: Callable[[], bool]) -> None:
        """Wait for something to come."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not met():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Broken(f"interrupt: no {what} within {PATIENCE_S:g} s") from None


def noted_ns(path: Path, what: str) -> int:
    """When a tool noted something, 0 if it has not."""
    if path.is_file():
        for line in path.read_text().splitlines():
            word, at_ns, _ = line.split()
            if word == what:
                return int(at_ns)
    return 0


async def until_noted(path: Path, what: str) -> int:
    """Wait for a tool's note."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        at_ns = noted_ns(path, what)
        if at_ns:
            return at_ns
        await asyncio.sleep(0.005)
    raise Broken(f"interrupt: the tool has not noted {what!r} within {PATIENCE_S:g} s")


async def _rounds(
    provider: Provider, stack: Stack, tool: str, how: str, rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Milliseconds until each place knew, and how much sound came after its flush."""
    found: dict[str, list[float]] = {place: [] for place in PLACES}
    with tempfile.TemporaryDirectory(prefix="vb") as folder:
        async with RealtimeClient(stack.run_dir) as client:
            session = await client.connect({"lease_s": 600.0})
            ears = _Ears(session)
            await ears.until("session", lambda: "session_opened" in ears.kinds)
            for number in range(rounds):
                note = Path(folder) / f"{how}-{tool}-{number}"
                provider.do("call", names=[tool], arguments={"note": str(note)})
                ears.should_be_silent = False
                provider.do("sound", seconds=5.0)
                await until_noted(note, "begun")
                before_ns = time.monotonic_ns()
                await ears.until("sound", partial(ears.has_sounded, before_ns))
                await asyncio.sleep(0.1)
                if how == "manual":
                    at_ns = time.monotonic_ns()
                    await session.interrupt()
                else:
                    # Without waiting for its answer: this is the loop that listens.
                    at_ns = time.monotonic_ns()
                    provider.tell(json.dumps({"do": "speech"}))
                await ears.until("flush", partial(ears.has_flushed, at_ns))
                await ears.until("event", partial(ears.has_heard, "interrupted", at_ns))
                seen_ns = await until_noted(note, "seen")
                if how == "barge-in":
                    at_ns = json.loads(provider.line())["at_ns"][0]
                for place, when_ns in zip(
                    PLACES, (ears.flushed_ns, ears.kinds["interrupted"], seen_ns), strict=True
                ):
                    found[place].append((when_ns - at_ns) / 1e6)
                provider.do("speech_over")
                provider.do("sound", seconds=0)
                await asyncio.sleep(0.3)
            for task in ears.tasks:
                task.cancel()
            await session.close()
    return found, ears.late


def run(scale: Scale) -> Result:
    """By the caller's voice, and by a command; with a busy and with a sleeping tool."""
    table = Table(
        "Interrupt: from the cause to everybody who must know",
        ("cause", "tool", "what", "count", "p50 ms", "p99 ms", "max ms", "sound after it"),
        note="barge-in: from the provider's speech_started. manual: from the command's sending. "
        "busy: a Python loop that calls ctx.check(); sleeping: ctx.sleep(). sound after it: frames "
        "of the answer that came to the player behind its flush; the provider goes on sending "
        "until it knows.",
    )
    result = Result([table])
    with Provider() as provider, cell(provider) as stack:
        for how in ("barge-in", "manual"):
            for tool, name in (("watches", "busy"), ("waits", "sleeping")):
                found, late = uvloop.run(_rounds(provider, stack, tool, how, scale.rounds))
                for place, values in found.items():
                    of = ages(values)
                    sound = late if place == PLACES[0] else ""
                    table.add(how, name, place, of.frames, of.p50, of.p99, of.max, sound)
                    result.note(f"interrupt.{how}.{place}.p50", of.p50)
                    result.note(f"interrupt.{how}.{place}.p99", of.p99)
    return result
