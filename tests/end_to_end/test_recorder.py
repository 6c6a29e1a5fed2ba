"""Recordings: what was said and heard is in them, and the recorder's end costs no call anything."""

import asyncio
import json
import os
import shutil
import signal
import stat
import tempfile
import wave
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.cells import SCENARIO, SPEECH
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import WITHIN_S, Caller, scene, voicebus
from voicebus.bus.testing import next_state
from voicebus.cli import stack
from voicebus.cli.testing import Stack
from voicebus.client.microphone import Microphone
from voicebus.client.wav import read

RATE_HZ = 24_000
WIDTH = 2
LATE_MS = 400
"""What a recorder has not yet read when an interruption is told, it may lack without a word."""


class Recordings:
    """The recorder's folder, and the cell that it runs in."""

    def __init__(self, cell: Stack, folder: Path) -> None:
        self.cell = cell
        self.folder = folder

    async def of(self, session_id: str) -> "Recorded":
        """When it is written to its end."""
        return Recorded(self.folder / session_id, await self.account(session_id))

    async def account(self, session_id: str) -> dict[str, Any]:
        """The last one. A file tells nobody: it is looked at again."""
        path = self.folder / session_id / "recording.json"
        async with asyncio.timeout(WITHIN_S):
            while True:
                found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
                if found.get("ended_at_us"):
                    return found
                await asyncio.sleep(0.05)

    async def has(self, session_id: str, ms: int) -> None:
        """Until so much sound of it is in the file."""
        path = self.folder / session_id / "sound.wav"
        async with asyncio.timeout(WITHIN_S):
            while not path.exists() or path.stat().st_size < ms * RATE_HZ * 4 // 1000:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def answered(self, session_id: str, samples: int) -> None:
        """Until so many samples of the assistant's that are not silent are in the file."""
        path = self.folder / session_id / "sound.wav"
        async with asyncio.timeout(WITHIN_S):
            while len(_voice(_channels(path)[1])) < samples:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


class Recorded:
    """What is in a recording."""

    def __init__(self, folder: Path, account: dict[str, Any]) -> None:
        self.folder = folder
        self.account = account
        lines = (folder / "events.jsonl").read_text("utf-8").splitlines()
        self.events = [json.loads(line) for line in lines]
        self.left, self.right = _channels(folder / "sound.wav")

    def gaps(self) -> set[tuple[str, str]]:
        """Channel and reason of what is missing."""
        return {(gap["channel"], gap["why"]) for gap in self.account["gaps"]}


@pytest.fixture(scope="module")
def recordings(start_shared_stack: StartStack) -> Iterator[Recordings]:
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as name:
        folder = Path(name) / "recordings"
        cell = start_shared_stack(
            scenario=SCENARIO,
            settings={
                "VOICEBUS_RECORDER_FOLDER": str(folder),
                "VOICEBUS_RECORDER_KEEP_FREE_MB": "0",
            },
        )
        yield Recordings(cell, folder)


def _channels(path: Path) -> tuple[bytes, bytes]:
    """The caller and the assistant."""
    with wave.open(str(path)) as file:
        assert file.getparams()[:3] == (2, WIDTH, RATE_HZ)
        stereo = array("h", file.readframes(file.getnframes()))
    return stereo[0::2].tobytes(), stereo[1::2].tobytes()


def _published(caller: Caller) -> bytes:
    """All of the assistant's sound, of which nothing is missing."""
    sound = b""
    expected: dict[str, int] = {}
    for _, piece in caller.pieces():
        assert piece.offset_samples == expected.get(piece.item_id, 0), "sound is missing"
        expected[piece.item_id] = piece.offset_samples + piece.count
        sound += piece.samples
    return sound


def _voice_ms(caller: Caller) -> float:
    return sum(piece.count for _, piece in caller.pieces()) * 1000 / RATE_HZ


def _voice(sound: bytes) -> list[int]:
    """The samples that are not silent: pauses of a busy machine do not count."""
    return [one for one in array("h", sound) if one]


def _as_heard(caller: Caller) -> list[Any]:
    return [json.loads(event.raw) for event in caller.events]


async def test_a_spoken_turn_is_written_down_as_it_was_said_and_heard(
    recordings: Recordings,
) -> None:
    said = read(SPEECH / "stop.wav").samples
    async with scene(recordings.cell) as on:
        caller = await on.caller(plays=True, turn_detection="none")
        async with Microphone(caller.session) as microphone:
            await microphone.say(read(SPEECH / "stop.wav"))
        await caller.session.commit_audio()
        await caller.event("assistant_heard", complete=True)
        await caller.close()
        recorded = await recordings.of(caller.id)
        answer = _published(caller)

    assert _voice(recorded.left) == _voice(said)
    assert _voice(recorded.right) == _voice(answer)
    heard_at = len(recorded.right) - len(recorded.right.lstrip(b"\0"))
    assert heard_at > len(recorded.left.rstrip(b"\0")), "the answer comes after the question"
    assert recorded.events == _as_heard(caller)
    assert recorded.account["is_complete"], recorded.account
    assert recorded.account["ended_by"] == "client"
    assert stat.S_IMODE(recorded.folder.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in recorded.folder.iterdir()}
    assert modes == {0o600}


async def test_an_interrupted_answer_ends_where_it_was_heard(recordings: Recordings) -> None:
    async with scene(recordings.cell) as on:
        caller = await on.caller(plays=True)
        await caller.session.send_text("Tell me a story.")
        await recordings.has(caller.id, 1000)
        await caller.session.interrupt()
        heard = (await caller.event("assistant_heard", complete=False)).data.heard_ms
        await caller.close()
        recorded = await recordings.of(caller.id)
        answer = _published(caller)

    assert 0 < heard < len(answer) // WIDTH * 1000 // RATE_HZ, "it was not interrupted"
    there = _voice(recorded.right)
    meant = _voice(answer[: heard * WIDTH * RATE_HZ // 1000])
    assert there == meant[: len(there)], "something else, or more than was heard"
    assert len(meant) - len(there) <= LATE_MS * RATE_HZ // 1000
    assert recorded.events == _as_heard(caller)
    assert recorded.account["is_complete"], recorded.account


async def test_a_killed_recorder_is_continued_and_says_what_is_missing(
    recordings: Recordings,
) -> None:
    cell = recordings.cell
    async with scene(cell) as on:
        caller = await on.caller(plays=True)
        answering = asyncio.create_task(caller.turn("A slow tone, please."))
        await recordings.has(caller.id, 500)
        missed = caller.session.healed  # the first event may come before our subscription
        pid = cell.kill("recorder-0")
        await cell.ready("recorder-0", after=pid)
        await answering
        await caller.turn("A short tone, please.")
        await caller.event("assistant_heard", nth=2)
        await caller.close()
        recorded = await recordings.of(caller.id)
        answer = _published(caller)

        assert caller.session.healed == missed
    assert recorded.events == _as_heard(caller)
    assert ("both", "the recorder was away") in recorded.gaps()
    assert recorded.account["missing_ms"]["caller"] > 0
    assert not recorded.account["is_complete"]
    second = _voice(answer[-WIDTH * RATE_HZ * 3 // 10 :])
    assert _voice(recorded.right)[-len(second) :] == second, "the second answer"


async def test_a_recorder_that_stands_still_misses_nothing_and_says_so(
    recordings: Recordings,
) -> None:
    cell = recordings.cell
    async with scene(cell) as on:
        caller = await on.caller(plays=True)
        await recordings.has(caller.id, 0)
        missed = caller.session.healed
        pid = cell.kill("recorder-0", signal.SIGSTOP)
        try:
            # Of three seconds. After that long without a sign it would have been given up, and
            # what came meanwhile with it: then nothing but a gap can be told.
            answering = asyncio.create_task(caller.turn("A slow tone, please."))
            await caller.until(lambda: _voice_ms(caller) >= 1500, "half of the tone")
        finally:
            os.kill(pid, signal.SIGCONT)
        await answering
        await caller.event("assistant_heard")
        await caller.turn("A short tone, please.")
        await caller.event("assistant_heard", nth=2)
        answer = _published(caller)
        await caller.close()
        recorded = await recordings.of(caller.id)

        assert cell.pids()["recorder-0"] == pid
        assert caller.session.healed == missed
    assert recorded.events == _as_heard(caller)
    assert recorded.account["gaps"] == []
    (stall,) = recorded.account["stalls"]
    assert stall["to_ms"] - stall["from_ms"] > 1000
    assert _voice(recorded.right) == _voice(answer)


async def test_a_restarted_recorder_goes_on_with_what_it_had(recordings: Recordings) -> None:
    async with scene(recordings.cell) as on:
        caller = await on.caller(plays=True)
        await caller.turn("A short tone, please.")
        await caller.event("assistant_heard")
        # What is not laid yet when it stops is lost, and said to be.
        first = _voice(_published(caller))
        await recordings.answered(caller.id, len(first))
        run_dir = str(recordings.cell.run_dir)
        code, _, err = await voicebus("restart", "recorder", "--run-dir", run_dir)
        await caller.turn("A short tone, please.")
        await caller.event("assistant_heard", nth=2)
        await caller.close()
        recorded = await recordings.of(caller.id)
        answer = _published(caller)

    assert code == 0, err
    assert "recorder-0 is ready again" in err
    assert _voice(answer)[: len(first)] == first
    assert _voice(answer)[len(first) :] != []
    assert _voice(recorded.right) == _voice(answer)
    assert recorded.events == _as_heard(caller)
    assert recorded.gaps() == {("both", "the recorder was away")}


async def test_a_recording_that_is_deleted_under_way_is_let_go_and_the_others_go_on(
    recordings: Recordings,
) -> None:
    async with scene(recordings.cell) as on:
        one, other = await on.caller(), await on.caller()
        for caller in (one, other):
            await recordings.has(caller.id, 0)
        shutil.rmtree(recordings.folder / one.id)
        state = await next_state(
            recordings.cell.endpoints,
            "recorder",
            0,
            lambda state: bool(state.counters.get("recordings_removed")),
        )
        for caller in (one, other):
            await caller.close()
        account = await recordings.account(other.id)

    assert state.state == "ready"
    assert account["is_complete"]
    assert not (recordings.folder / one.id).exists()


async def test_a_forgotten_conversation_leaves_no_word_anywhere(start_stack: StartStack) -> None:
    """Said, called, told, recorded: the journal, its log, the recording, all logs."""
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as name:
        recordings = Path(name) / "recordings"
        scenario = Path(name) / "secret.toml"
        scenario.write_text(SECRETS, "utf-8")
        settings = {
            "VOICEBUS_RECORDER_FOLDER": str(recordings),
            "VOICEBUS_RECORDER_KEEP_FREE_MB": "0",
        }
        cell = await asyncio.to_thread(start_stack, scenario=scenario, settings=settings)
        recorded = Recordings(cell, recordings)
        async with scene(cell) as on:
            on.session_was_killed = True
            gone, kept = await on.caller(plays=True), await on.caller(plays=True)
            for caller in (gone, kept):
                await caller.turn("my word is carpenter" if caller is gone else "mine is walrus")
                await caller.event("assistant_heard")
            await cell.ready("session-0", after=cell.kill("session-0"))
            await gone.turn("once more: carpenter")
            data = str(cell.run_dir / "data")
            code, _, refused = await voicebus("forget", gone.id, "--data", data)
            assert code == 1
            assert "close the call first" in refused
            for caller in (gone, kept):
                await caller.close()
                await recorded.of(caller.id)
        await asyncio.to_thread(stack.stop, cell.run_dir)
        before = _words(cell.run_dir, recordings)

        # Where the recorder wrote is known to the cell alone.
        code, _, err = await voicebus("forget", gone.id, "--run-dir", str(cell.run_dir))
        after = _words(cell.run_dir, recordings)

        assert code == 0, err
        assert before["carpenter"] == {"session-0.db", "events.jsonl"}
        assert after["carpenter"] == set()
        assert before["walrus"] == after["walrus"] == {"session-0.db", "events.jsonl"}
        assert not (recordings / gone.id).exists()
        assert (recordings / kept.id / "sound.wav").exists()


SECRETS = """
about = "What is said goes to a tool and comes back."

[[answer]]
when = { text = "once more" }
say = "The carpenter again."
tone_ms = 100

[[answer]]
when = { text = "carpenter" }
call = { name = "get_weather", arguments = { city = "carpenter" } }

[[answer]]
when = { text = "walrus" }
call = { name = "get_weather", arguments = { city = "walrus" } }

[[answer]]
when = { output = "" }
say = "{output}"
tone_ms = 100
"""


def _words(*folders: Path) -> dict[str, set[str]]:
    """In which files each word stands."""
    files = [path for one in folders for path in one.rglob("*") if path.is_file()]
    return {
        word: {path.name for path in files if word.encode() in path.read_bytes()}
        for word in ("carpenter", "walrus")
    }
