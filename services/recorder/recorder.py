"""The recorder's shell: hears everything, and hands it to one recording per session."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from voicebus.bus import ids, topics
from voicebus.bus.messages import events
from voicebus.bus.messages.sound import CallerAudio, SoundWelcome
from voicebus.client.commands import Commander
from voicebus.config.settings import RecorderSettings
from voicebus.services.recorder import files
from voicebus.services.recorder.recording import Recording
from voicebus.services.runtime import Runtime

T = TypeVar("T")

EVENTS = b"event/"
LOOK_S = 0.1
"""How often the sound is moved on."""
SAVE_S = 0.5
"""How often it is written."""
STALL_S = 0.5
"""Who did not look for so long stood still."""
SLOW_S = 2.0
"""A write that takes longer is told."""
QUEUE = 50_000
"""Messages that may wait while this process stands still: sound has no replay."""
RETENTION_S = 3600.0
REMEMBERED = 10_000
STOP_S = 5.0
JOIN_S = 10.0
"""So long a publisher is waited for that confirms no subscription."""

_headers = msgspec.json.Decoder(events.EventHeader)
_callers = msgspec.json.Decoder(CallerAudio)
_sound_welcomes = msgspec.json.Decoder(SoundWelcome)


class Recorder:
    """Every conversation of the cell, each in a folder of its own."""

    def __init__(self, runtime: Runtime[RecorderSettings], folder: Path) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._log = runtime.log
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._recordings: dict[str, Recording] = {}
        self._over: dict[str, None] = {}
        """Ended and written, or taken away: what is still told of them is left alone."""
        self._looked_s = self._loop.time()
        self._saved_s = 0.0
        self._tidied_s = self._loop.time()
        self._commander = Commander(lambda: runtime.sockets, runtime.endpoints)
        self._welcomes: set[str] = set()
        """Of the publishers that have confirmed the subscription: of events and of sound."""
        self._welcomed = asyncio.Event()
        self._has_joined = False
        self._publishers = runtime.cell.shards + runtime.cell.transports

    async def begin(self) -> None:
        """Go on with what an earlier recorder left, then listen."""
        for session_id in await self._on_disk(self._left_open):
            self._recording(session_id)
        await self._on_disk(self._tidy)
        cell, endpoints = self._runtime.cell, self._runtime.endpoints
        self._runtime.sockets.subscriber(
            [endpoints.events(n) for n in range(cell.shards)],
            [EVENTS],
            self._event,
            queue=QUEUE,
        )
        self._runtime.sockets.subscriber(
            [endpoints.audio_out(n) for n in range(cell.transports)],
            [topics.ALL_SOUND],
            self._sound,
            queue=QUEUE,
        )

    async def joined(self) -> None:
        """Until every publisher has confirmed: from then on nothing is missed.

        One that is away, or of a version that welcomes nobody, is not waited for long.
        """
        runtime = self._runtime
        runtime.waiting("publishers of events and sound have not confirmed the subscriptions yet")
        waits = [asyncio.create_task(one.wait()) for one in (self._welcomed, runtime.stopping)]
        await asyncio.wait(waits, timeout=JOIN_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self._welcomed.is_set():
            self._log.warning(
                "recorder.unconfirmed", confirmed=len(self._welcomes), of=self._publishers
            )
        self._has_joined = True

    async def look_for_ever(self) -> None:
        """Move on in time."""
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = self._now()
            for recording in tuple(self._recordings.values()):
                recording.advance(now_s)
            if now_s - self._saved_s >= SAVE_S:
                self._saved_s = now_s
                self._save(now_s)
            if now_s - self._tidied_s >= RETENTION_S:
                self._tidied_s = now_s
                self._loop.run_in_executor(self._disk, self._tidy)

    async def stop(self) -> None:
        """Write what is there; those that go on are continued by the next recorder."""
        now_s = self._now()
        saving = [one.leave(now_s) for one in self._recordings.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await asyncio.gather(*saving, return_exceptions=True)
        self._disk.shutdown(wait=False, cancel_futures=True)

    # --- what is heard ------------------------------------------------------------------------

    def _event(self, frames: list[bytes]) -> None:
        if len(frames) < 2:
            return
        if frames[0] == EVENTS:
            self._welcome(frames[1])
            return
        topic = topics.parse(frames[0])
        recording = self._recording(topic.owner) if topic is not None else None
        if recording is not None:
            recording.event(frames[1], self._now())

    def _welcome(self, raw: bytes) -> None:
        """So far go the sessions that are there."""
        try:
            header = _headers.decode(raw)
            heads = header.data
            heads = msgspec.json.decode(heads) if not isinstance(heads, dict) else heads
            found = msgspec.convert(heads, events.Welcome).heads
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            self._malformed("welcome", error)
            return
        for session_id, head in found.items():
            recording = self._recording(session_id)
            if recording is not None:
                recording.head(head, header.inc)
        self._confirmed(f"events {header.inc}")

    def _sound(self, frames: list[bytes]) -> None:
        if frames[0] == topics.ALL_SOUND and len(frames) > 1:
            self._sound_welcome(frames[1])
            return
        topic = topics.parse(frames[0])
        if topic is None or len(frames) < 2:
            return
        recording = self._recording(topic.owner)
        if recording is None:
            return
        now_s = self._now()
        if topic.what == "out":
            recording.assistant(frames[1:], now_s)
            return
        try:
            header = _callers.decode(frames[1])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._malformed("caller_audio", error)
            return
        if len(frames) > 2:
            recording.caller(header, frames[2], now_s)

    def _sound_welcome(self, raw: bytes) -> None:
        try:
            welcome = _sound_welcomes.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._malformed("welcome", error)
            return
        self._confirmed(f"sound {welcome.inc}")

    def _confirmed(self, publisher: str) -> None:
        if self._has_joined:
            return
        self._welcomes.add(publisher)
        if len(self._welcomes) >= self._publishers:
            self._welcomed.set()

    def _malformed(self, what: str, error: Exception) -> None:
        self._runtime.count("malformed")
        self._log.warning("message.dropped", what=what, why=type(error).__name__)

    def _now(self) -> float:
        """The loop's time; if nobody looked at it for long, that is told to the recordings."""
        now_s = self._loop.time()
        since_s, self._looked_s = self._looked_s, now_s
        if now_s - since_s > STALL_S:
            self._runtime.count("stalls")
            self._log.warning("recorder.stalled", ms=round((now_s - since_s) * 1000))
            for recording in self._recordings.values():
                recording.late(since_s, now_s)
        return now_s

    # --- recordings ---------------------------------------------------------------------------

    def _recording(self, session_id: str) -> Recording | None:
        """Of that session; None if it is over, or no session."""
        recording = self._recordings.get(session_id)
        if recording is None and session_id not in self._over:
            if ids.shard_of(session_id) is None:
                return None
            recording = Recording(
                session_id,
                files.Files(
                    self._folder / session_id,
                    keep_free_bytes=self._settings.keep_free_mb * files.MB,
                ),
                self._disk,
                self._commander.replay,
                max_s=self._settings.max_hours * 3600,
                now_s=self._loop.time(),
                now_us=time.time_ns() // 1000,
            )
            self._recordings[session_id] = recording
        return recording

    def _save(self, now_s: float) -> None:
        why: str | None = None
        dropped_ms = 0
        for session_id, recording in tuple(self._recordings.items()):
            recording.save(now_s)
            waited_s = recording.waited_s(now_s)
            if waited_s > SLOW_S:
                why = f"{self._folder} takes more than {SLOW_S:g} s for a write"
            why = recording.trouble or why
            dropped_ms += recording.take_dropped_ms()
            if recording.is_removed:
                self._runtime.count("recordings_removed")
            if recording.is_over:
                del self._recordings[session_id]
                self._over[session_id] = None
                if len(self._over) > REMEMBERED:
                    del self._over[next(iter(self._over))]
        if dropped_ms:
            self._runtime.count("sound_dropped_ms", dropped_ms)
        if why is None and self._has_joined:
            self._runtime.ready()
        elif why is not None:
            self._runtime.failing(f"{why}; calls go on, their sound is not recorded meanwhile")

    # --- in the disk's thread -----------------------------------------------------------------

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._disk, work)

    def _left_open(self) -> list[str]:
        found = []
        for path in sorted(self._folder.iterdir()):
            if ids.shard_of(path.name) is None or not path.is_dir():
                continue
            account = files.read_account(path)
            if account is None or account.ended_at_us is None:
                found.append(path.name)
        return found

    def _tidy(self) -> None:
        """Delete what is older than it may become."""
        if not self._settings.keep_days:
            return
        before_us = time.time_ns() // 1000 - int(self._settings.keep_days * 86_400_000_000)
        for path in self._folder.iterdir():
            if ids.shard_of(path.name) is None or not path.is_dir():
                continue
            account = files.read_account(path)
            if account is None or account.ended_at_us is None or account.ended_at_us > before_us:
                continue
            try:
                files.delete(path)
            except OSError as error:
                self._log.warning("recording.not_deleted", session_id=path.name, why=str(error))
            else:
                self._log.info("recording.deleted", session_id=path.name)
