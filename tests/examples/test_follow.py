"""Every language follows a call, finds what it lost, and says when nothing is missing."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from queue import Queue

import pytest

from voicebus.bus import ids
from voicebus.bus.messages.events import SessionClosed, UserTranscript
from voicebus.bus.testing import run_folder
from voicebus.cli.testing import Stack
from voicebus.client import Event, RealtimeClient
from voicebus.client.ring import Reader
from voicebus.client.testing import FakeCell

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

    def warning(self) -> str:
        """The next line of its standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

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


@pytest.fixture
async def stand_in() -> AsyncIterator[FakeCell]:
    with run_folder() as folder, FakeCell(folder) as cell:
        yield cell


@pytest.mark.parametrize("language", COMMANDS)
async def test_a_session_that_is_long_over_is_shown_whole(
    language: str, stand_in: FakeCell, need: Need
) -> None:
    """No welcome and no head tells of it; and it has more events than come in one page."""
    environment = need(language)
    session_id = stand_in.begin()
    stand_in.publish(session_id, *(_said(f"word {n}") for n in range(249)))
    stand_in.publish(session_id, SessionClosed(reason="client"))
    stand_in.let_go(session_id)

    example = Example([*COMMANDS[language], _folder(stand_in), session_id], environment)
    try:
        assert await asyncio.to_thread(example.end) == 0, example.errors()
        assert [line for line in example.lines if line.startswith("caller: ")] == [
            f"caller: word {n}" for n in range(249)
        ]
        assert example.lines[-1] == "complete: 250 events, 250 of them asked for again"
    finally:
        example.close()


@pytest.mark.parametrize("language", COMMANDS)
async def test_a_session_that_nobody_knows_ends_it_with_what_the_owner_says(
    language: str, stand_in: FakeCell, need: Need
) -> None:
    environment = need(language)
    unknown = f"s0-{'0' * 26}"

    example = Example([*COMMANDS[language], _folder(stand_in), unknown], environment)
    try:
        assert await asyncio.to_thread(example.end) != 0
        assert f"no session {unknown} here" in example.errors()
    finally:
        example.close()


@pytest.mark.parametrize("language", COMMANDS)
async def test_where_nothing_answers_it_says_so_and_waits(language: str, need: Need) -> None:
    environment = need(language)
    with run_folder() as folder:
        session_id = ids.session_id(0)
        example = Example([*COMMANDS[language], str(folder), session_id], environment)
        try:
            said = await asyncio.to_thread(example.warning)
            with FakeCell(folder) as cell:
                cell.log[session_id] = []
                cell.publish(session_id, _said("here at last"), SessionClosed(reason="client"))

                assert await asyncio.to_thread(example.end) == 0, example.errors()
                at = f"ipc://{folder}/session-0.events"
                assert said.startswith(f"nothing answers at {at}: is voicebus up")
                assert "caller: here at last" in example.lines
        finally:
            example.close()


@pytest.mark.parametrize("language", COMMANDS)
async def test_what_comes_under_numbers_used_before_is_shown_after_a_lost_journal(
    language: str, stand_in: FakeCell, need: Need
) -> None:
    environment = need(language)
    session_id = stand_in.begin()
    stand_in.publish(session_id, *map(_said, ("one", "two", "three")))

    example = Example([*COMMANDS[language], _folder(stand_in), session_id], environment)
    try:
        await asyncio.to_thread(example.until, "caller: three")
        stand_in.kill()
        del stand_in.log[session_id][1:]  # which could not be written
        pages = stand_in.replayed
        stand_in.start()
        await stand_in.until(lambda: stand_in.replayed > pages)  # asked at its welcome
        stand_in.publish(session_id, _said("another two"), SessionClosed(reason="client"))

        assert await asyncio.to_thread(example.end) == 0, example.errors()
        said = [line for line in example.lines if line.startswith("caller: ")]
        assert said == ["caller: one", "caller: two", "caller: three", "caller: another two"]
        assert example.lines[-1].startswith("complete: 3 events")
    finally:
        example.close()


def _said(text: str) -> UserTranscript:
    return UserTranscript(item_id="item_1", text=text)


def _folder(cell: FakeCell) -> str:
    return str(cell.endpoints.run_dir)


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
