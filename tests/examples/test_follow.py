"""Every language follows a call, finds what it lost, and says when nothing is missing."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue

import pytest

from voicebus.cli.testing import Stack
from voicebus.client import Event, RealtimeClient
from voicebus.client.ring import Reader

Need = Callable[[str], dict[str, str]]

EXAMPLES = Path(__file__).parents[2] / "examples"
CACHE = EXAMPLES.parent / "var" / "examples"
QUESTION = "What is the weather in Berlin?"
ANSWER = "It is twenty one degrees and sunny in Berlin."

COMMANDS: dict[str, list[str]] = {
    "python": [sys.executable, "-P", str(EXAMPLES / "python" / "follow.py")],
    "node": ["node", str(EXAMPLES / "node" / "follow.js")],
    "c": [str(CACHE / "c" / "follow")],
    "perl": ["perl", str(EXAMPLES / "perl" / "follow.pl")],
    "ruby": ["ruby", str(EXAMPLES / "ruby" / "follow.rb")],
}


class Example:
    """A running example; its lines as they come."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._queue: Queue[str | None] = Queue()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def until(self, start: str) -> str:
        """The next line that begins so."""
        while (line := self._queue.get(timeout=30)) is not None:
            self.lines.append(line)
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended before {start!r}: {self.lines}, {self.errors()}")

    def end(self) -> int:
        """Wait for its own end."""
        while (line := self._queue.get(timeout=30)) is not None:
            self.lines.append(line)
        return self.process.wait(10)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.mark.parametrize("language", COMMANDS)
async def test_it_shows_what_is_said_and_finds_what_it_lost(
    language: str, cell: Stack, need: Need
) -> None:
    environment = need(language)
    async with RealtimeClient(cell.run_dir) as client:
        session = await client.connect(headless=True)
        events = session.events()
        await session.send_text(QUESTION)
        await _over(events)
        before = len(await _journal(client, session.id))
        # Nothing happens until it has shown all of that: what comes next comes to it live.
        command = [*COMMANDS[language], str(cell.run_dir), session.id, str(before + 1)]
        example = Example(command, environment)
        try:
            example.until(f"assistant: {ANSWER}")
            await session.send_text(QUESTION)
            await _over(events)
            await session.close()
            total = len(await _journal(client, session.id))

            assert example.end() == 0, example.errors()
            assert example.lines[0] == f"following {session.id}"
            assert example.lines.count(f"assistant: {ANSWER}") == 2
            assert any(line.startswith(f"events {before + 1} to ") for line in example.lines)
            told = example.lines[-1].split()
            assert told[:3] == ["complete:", str(total), "events,"]
            assert int(told[3]) > before
        finally:
            example.close()


async def _over(events: Reader[Event]) -> None:
    """Until nothing more comes of an answer: its two last events, in whichever order."""
    last = {"rate_limits", "assistant_heard"}
    async for event in events:
        last.discard(event.kind)
        if not last:
            return


async def _journal(client: RealtimeClient, session_id: str) -> list[object]:
    """What the journal has."""
    reply = await client.commander.ask(0, "replay", {"from": 1}, session_id=session_id)
    found: list[object] = reply.data["events"]
    return found
