"""A caller made of recordings: silence, and what it is given to say, at the speed of time."""

import asyncio
from collections import deque
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


class Said(NamedTuple):
    """When a recording was spoken, in the loop's time."""

    began: float
    """When its first voiced frame was sent."""
    ended: float
    """When its last voiced frame was sent."""


class _Saying(NamedTuple):
    samples: bytes
    done: "asyncio.Future[float]"
    """When its first frame was sent."""


class Microphone:
    """Use it in `async with`: it sends a frame each 20 ms, for pcm16 sessions, until the end."""

    def __init__(self, session: RealtimeSession) -> None:
        self._session = session
        self._queue: deque[_Saying] = deque()
        self._task: asyncio.Task[None] | None = None

    async def say(self, recording: Recording) -> Said:
        """Speak it; returns when the last frame is out. Raises ClientError if the session ends."""
        if self._session.is_over:
            raise ClientError(ENDED)
        done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._queue.append(_Saying(recording.samples, done))
        start = await done
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
        loop = asyncio.get_running_loop()
        at = loop.time()
        place, began = 0, 0.0
        while not self._session.is_over:
            frame = bytes(FRAME_BYTES)
            if self._queue:
                saying = self._queue[0]
                if place == 0:
                    began = loop.time()
                frame = saying.samples[place : place + FRAME_BYTES].ljust(FRAME_BYTES, b"\0")
                place += FRAME_BYTES
                if place >= len(saying.samples):
                    self._queue.popleft()
                    place = 0
                    if not saying.done.done():
                        saying.done.set_result(began)
            await self._session.send_audio(frame)
            at += FRAME_S
            late = loop.time() - at
            if late > TOO_LATE_S:
                at += late
            await asyncio.sleep(max(at - loop.time(), 0.0))
        for left in self._queue:
            if not left.done.done():
                left.done.set_exception(ClientError(ENDED))
