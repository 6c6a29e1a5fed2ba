"""A caller made of recordings: silence, and what it is given to say, at the speed of time."""

import asyncio
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from voicebus.client.errors import ClientError
from voicebus.client.session import RealtimeSession
from voicebus.client.wav import PCM16_HZ, Recording

FRAME_S = 0.02
FRAME_BYTES = int(PCM16_HZ * FRAME_S) * 2
TOO_LATE_S = 0.5
"""Further behind than that, the lost time is left out instead of being caught up in a burst."""

ENDED = "the session ended before all was said"
CLOSED = "the microphone was closed before all was said"
NOT_OPEN = "the microphone is not open: use it in `async with`"


class Said(NamedTuple):
    """When a recording was spoken, in the loop's time."""

    began: float
    """When its first voiced frame was sent."""
    ended: float
    """When its last voiced frame was sent."""


@dataclass(eq=False)
class _Saying:
    samples: bytes
    done: "asyncio.Future[float]"
    """When its first frame was sent."""
    began: float = 0.0
    place: int = 0
    """What of it has been taken."""

    def next_frame(self, now: float) -> bytes:
        """Silence fills up the last one."""
        if not self.place:
            self.began = now
        at, self.place = self.place, self.place + FRAME_BYTES
        return self.samples[at : self.place].ljust(FRAME_BYTES, b"\0")

    @property
    def is_all_taken(self) -> bool:
        return self.place >= len(self.samples)


class Microphone:
    """Use it in `async with`: it sends a frame each 20 ms, for pcm16 sessions, until the end."""

    def __init__(self, session: RealtimeSession) -> None:
        self._session = session
        self._queue: deque[_Saying] = deque()
        self._task: asyncio.Task[None] | None = None
        self._why_off: Exception = ClientError(NOT_OPEN)

    async def say(self, recording: Recording) -> Said:
        """Speak it; returns when the last frame is out. Who is cancelled says no more of it.

        Raises ClientError if the session or the microphone ends before, or takes no such sound.
        """
        if self._session.is_over:
            raise ClientError(ENDED)
        if self._task is None or self._task.done():
            raise self._why_off
        done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        saying = _Saying(recording.samples, done)
        self._queue.append(saying)
        try:
            start = await done
        finally:
            if saying in self._queue:
                self._queue.remove(saying)
        first, last = recording.voiced()
        return Said(start + first, start + last)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._send())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self) -> None:
        self._why_off = ClientError(CLOSED)
        try:
            await self._send_frames()
            self._why_off = ClientError(ENDED)
        except Exception as error:  # raised where somebody speaks
            self._why_off = error
        finally:
            for left in self._queue:
                if not left.done.done():
                    left.done.set_exception(self._why_off)

    async def _send_frames(self) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time()
        while not self._session.is_over:
            saying = self._queue[0] if self._queue else None
            frame = saying.next_frame(loop.time()) if saying else bytes(FRAME_BYTES)
            # With its rate, other sessions refuse it instead of taking it for their format.
            await self._session.send_audio(frame, rate_hz=PCM16_HZ)
            if saying is not None and saying.is_all_taken and not saying.done.done():
                self._queue.popleft()
                saying.done.set_result(saying.began)
            at += FRAME_S
            late = loop.time() - at
            if late > TOO_LATE_S:
                at += late
            await asyncio.sleep(max(at - loop.time(), 0.0))
