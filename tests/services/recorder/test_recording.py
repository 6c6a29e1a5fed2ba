import asyncio
import json
import shutil
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from voicebus.bus import ids
from voicebus.bus.messages import events
from voicebus.bus.messages.base import Message, encode, plain, wire_name
from voicebus.bus.messages.commands import Replayed
from voicebus.bus.messages.sound import CallerAudio
from voicebus.client.errors import CommandRefused
from voicebus.services.recorder.files import Files, Saved
from voicebus.services.recorder.recording import PENDING_BYTES, Recording
from voicebus.services.recorder.timeline import Chunk, Mute

SID = ids.session_id(0)


class Owner:
    """The session process: what it published, and what of that it still has."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.inc = "i"
        self.lost_upto = 0
        self.is_unknown = False

    def happen(self, data: Message) -> bytes:
        header = events.EventHeader(
            kind=wire_name(type(data)),
            session_id=SID,
            seq=len(self.log) + 1,
            inc=self.inc,
            at_us=1,
            data=plain(data),
        )
        self.log.append(encode(header))
        return self.log[-1]

    async def replay(self, session_id: str, first: int, last: int | None, limit: int) -> Replayed:
        if self.is_unknown:
            raise CommandRefused("replay", "no_such_session", "there is none", False)
        if first <= self.lost_upto:
            raise CommandRefused("replay", "gone", "it is gone", False)
        found = self.log[first - 1 : last]
        return Replayed(events=[msgspec.Raw(one) for one in found], next=None)


class Desk:
    """A recording, moved on by hand: time is what the test says."""

    def __init__(self, folder: Path, disk: ThreadPoolExecutor) -> None:
        self.folder = folder / SID
        self.disk = disk
        self.owner = Owner()
        self.now_s = asyncio.get_running_loop().time()

    def record(
        self, files: Files | None = None, *, max_s: float = 3600.0, at_us: int = 1
    ) -> Recording:
        return Recording(
            SID,
            files or Files(self.folder),
            self.disk,
            self.owner.replay,
            max_s=max_s,
            now_s=self.now_s,
            now_us=at_us,
        )

    async def until(self, recording: Recording, met: Callable[[], Any]) -> None:
        """Save again and again, as the recorder does, until that is so."""
        async with asyncio.timeout(10):
            while not met():
                self.now_s += 0.5
                recording.save(self.now_s)
                await asyncio.sleep(0.005)

    async def written(self, recording: Recording) -> None:
        """Until the disk has done what it was given."""
        while recording.waited_s(self.now_s + 1):
            await asyncio.get_running_loop().run_in_executor(self.disk, int)
            await asyncio.sleep(0)

    async def opened(self, recording: Recording) -> None:
        await self.until(recording, lambda: (self.folder / "recording.json").exists())

    def account(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "recording.json").read_text())
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(one) for one in (self.folder / "events.jsonl").read_text().splitlines()]

    def speak(self, recording: Recording, count: int, *, first: int = 1) -> None:
        for at in range(first, first + count):
            self.now_s += 0.02
            header = CallerAudio(session_id=SID, inc="t", seq=at, n=at, format="pcm16")
            recording.caller(header, b"\5\0" * 480, self.now_s)


@pytest.fixture
def disk() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as one:
        yield one


def _closed() -> events.SessionClosed:
    return events.SessionClosed(reason="client")


async def test_events_that_nobody_has_any_more_are_one_plain_line(
    tmp_path: Path, disk: ThreadPoolExecutor
) -> None:
    desk = Desk(tmp_path, disk)
    for text in ("a", "b", "c"):
        desk.owner.happen(events.UserTranscript(item_id="i", text=text))
    desk.owner.lost_upto = 2
    last = desk.owner.happen(_closed())
    recording = desk.record()
    await desk.opened(recording)

    recording.event(desk.owner.log[2], desk.now_s)
    recording.event(last, desk.now_s)
    await desk.until(recording, lambda: recording.is_written)

    gone, third, closed = desk.lines()
    assert gone == {"kind": "gone", "session_id": SID, "from": 1, "to": 2}
    assert (third["seq"], closed["kind"]) == (3, "session_closed")
    assert desk.account()["events_gone"] == [[1, 2]]
    assert not desk.account()["is_complete"]


async def test_numbers_that_a_new_session_process_uses_anew_are_new_events(
    tmp_path: Path, disk: ThreadPoolExecutor
) -> None:
    desk = Desk(tmp_path, disk)
    recording = desk.record()
    await desk.opened(recording)
    for text in ("a", "b"):
        recording.event(
            desk.owner.happen(events.UserTranscript(item_id="i", text=text)), desk.now_s
        )

    desk.owner.log.pop()  # its journal could not be written
    desk.owner.inc = "j"
    recording.head(1, "j")
    recording.event(desk.owner.happen(_closed()), desk.now_s)
    await desk.until(recording, lambda: recording.is_written)

    assert [(one["seq"], one["inc"]) for one in desk.lines()] == [(1, "i"), (2, "i"), (2, "j")]


class FullAtFirst(Files):
    """A disk that takes nothing until the test has made room. What is empty needs none."""

    is_full = True

    def save(
        self,
        rate_hz: int | None,
        chunk: Chunk | None,
        mutes: list[Mute],
        lines: bytes,
        account: bytes | None,
    ) -> Saved:
        if self.is_full:
            return Saved(sound=chunk is None, events=not lines, why="it is full")
        return super().save(rate_hz, chunk, mutes, lines, account)


async def test_what_a_full_disk_did_not_take_is_fetched_again_and_its_sound_is_named(
    tmp_path: Path, disk: ThreadPoolExecutor
) -> None:
    desk = Desk(tmp_path, disk)
    files = FullAtFirst(desk.folder)
    recording = desk.record(files)
    await desk.until(recording, lambda: recording.trouble)
    recording.event(desk.owner.happen(events.UserTranscript(item_id="i", text="a")), desk.now_s)
    desk.speak(recording, 50)
    desk.now_s += 2
    await desk.until(recording, recording.take_dropped_ms)
    files.is_full = False
    recording.event(desk.owner.happen(_closed()), desk.now_s)
    await desk.until(recording, lambda: recording.is_written)

    assert [one["seq"] for one in desk.lines()] == [1, 2]
    assert recording.trouble is None
    account = desk.account()
    assert {(gap["channel"], gap["why"]) for gap in account["gaps"]} == {
        ("both", "the disk did not take it")
    }
    assert account["missing_ms"]["caller"] >= 1000


async def test_what_the_disk_refused_counts_neither_as_written_nor_as_the_end(
    tmp_path: Path, disk: ThreadPoolExecutor
) -> None:
    desk = Desk(tmp_path, disk)
    files = FullAtFirst(desk.folder)
    recording = desk.record(files)
    await desk.until(recording, lambda: recording.trouble)
    desk.now_s = asyncio.get_running_loop().time()
    recording.event(desk.owner.happen(events.UserTranscript(item_id="i", text="a")), desk.now_s)
    recording.event(desk.owner.happen(_closed()), desk.now_s)
    for files.is_full in (True, False):
        recording.save(desk.now_s)
        await desk.written(recording)
    await desk.until(recording, lambda: recording.is_written)

    assert [one["seq"] for one in desk.lines()] == [1, 2]


async def test_more_events_than_may_wait_for_the_disk_are_fetched_again(
    tmp_path: Path, disk: ThreadPoolExecutor
) -> None:
    desk = Desk(tmp_path, disk)
    recording = desk.record()
    await desk.opened(recording)
    text = "a" * (PENDING_BYTES // 3)
    for _ in range(5):
        said = desk.owner.happen(events.UserTranscript(item_id="i", text=text))
        recording.event(said, desk.now_s)
    await asyncio.sleep(0)
    recording.event(desk.owner.happen(_closed()), desk.now_s)
    await desk.until(recording, lambda: recording.is_written)

    assert [one["seq"] for one in desk.lines()] == [1, 2, 3, 4, 5, 6]


async def test_sound_beyond_the_limit_is_left_out_and_events_go_on(
    tmp_path: Path, disk: ThreadPoolExecutor
) -> None:
    desk = Desk(tmp_path, disk)
    recording = desk.record(max_s=2.0)
    await desk.opened(recording)
    desk.speak(recording, 200)
    recording.event(desk.owner.happen(_closed()), desk.now_s)
    await desk.until(recording, lambda: recording.is_written)

    with wave.open(str(desk.folder / "sound.wav")) as file:
        assert file.getnframes() <= 2.1 * 24_000
    assert desk.account()["limit"].endswith("hours (max_hours)")
    assert [one["kind"] for one in desk.lines()] == ["session_closed"]


async def test_a_session_that_nobody_knows_any_more_is_ended_as_vanished(
    tmp_path: Path, disk: ThreadPoolExecutor
) -> None:
    desk = Desk(tmp_path, disk)
    first = desk.record()
    await desk.opened(first)
    await first.leave(desk.now_s)

    desk.owner.is_unknown = True
    second = desk.record(at_us=60_000_001)
    await desk.until(second, lambda: second.is_written)

    assert desk.account()["ended_by"] == "vanished"
    assert not desk.account()["is_complete"]


async def test_the_next_recorder_goes_on_where_the_last_one_left(
    tmp_path: Path, disk: ThreadPoolExecutor
) -> None:
    desk = Desk(tmp_path, disk)
    first = desk.record()
    await desk.opened(first)
    desk.speak(first, 50)
    first.event(desk.owner.happen(events.UserTranscript(item_id="i", text="a")), desk.now_s)
    await first.leave(desk.now_s)
    seconds = desk.account()["seconds"]

    desk.owner.happen(events.UserTranscript(item_id="i", text="b"))
    desk.now_s = asyncio.get_running_loop().time()
    second = desk.record(at_us=1 + int((seconds + 10) * 1e6))
    began_s = desk.now_s
    await desk.until(second, lambda: len(desk.lines()) == 2)
    back_ms = (asyncio.get_running_loop().time() - began_s) * 1000
    desk.speak(second, 50, first=51)
    second.event(desk.owner.happen(_closed()), desk.now_s)
    await desk.until(second, lambda: second.is_written)

    account = desk.account()
    assert [one["seq"] for one in desk.lines()] == [1, 2, 3]
    (gap,) = account["gaps"]
    assert (gap["channel"], gap["why"]) == ("both", "the recorder was away")
    assert -1000 < gap["to_ms"] - gap["from_ms"] - 10_000 < 1000 + back_ms
    assert account["seconds"] > seconds + 10


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("taken", ["deleted", "moved", "made anew"])
async def test_a_recording_that_was_taken_away_is_let_go_and_not_begun_again(
    tmp_path: Path, disk: ThreadPoolExecutor, taken: str, has_ended: bool
) -> None:
    desk = Desk(tmp_path, disk)
    recording = desk.record()
    await desk.opened(recording)
    desk.speak(recording, 50)
    if taken == "moved":
        desk.folder.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(desk.folder)
    if taken == "made anew":
        desk.folder.mkdir()
    if has_ended:
        recording.event(desk.owner.happen(_closed()), desk.now_s)
    await desk.until(recording, lambda: recording.is_over)
    recording.event(desk.owner.happen(events.UserTranscript(item_id="i", text="a")), desk.now_s)
    desk.speak(recording, 50)
    recording.save(desk.now_s)
    await desk.written(recording)

    assert recording.is_removed
    assert recording.trouble is None
    assert recording.waited_s(desk.now_s + 1) == 0
    assert not desk.folder.exists() or not list(desk.folder.iterdir())
