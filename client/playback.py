"""A player in real time: hears a session's sound as a caller would, and reports what was heard."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from voicebus.bus.messages import events
from voicebus.bus.messages.commands import ReportPlayback
from voicebus.bus.messages.sound import milliseconds
from voicebus.client.errors import ClientError, Lagged, NoReply
from voicebus.client.player import Key, Played, Player, Step
from voicebus.client.ring import Reader
from voicebus.client.session import RealtimeSession
from voicebus.client.sound import Heard, Sound, SoundEnd, SoundFlush

GRACE_S = 1.0
"""How long sound may come after the event that says it is complete; the two travel apart."""
REPORT_DEADLINE_S = 1.0
"""A report of playing is worth nothing once the next one is due."""


class Playback:
    """Use it in `async with`, once per talker. `heard` gets the sound as it is heard."""

    def __init__(
        self,
        session: RealtimeSession,
        *,
        heard: Callable[[Played], None] = lambda played: None,
        came: Callable[[Heard], None] = lambda piece: None,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`came` gets sound, ends and flushes the moment they arrive; `settled` is called each
        time that everything announced so far has been heard or flushed. When one of them raises,
        nothing more is played, and `quiet` and the end of the context raise the same."""
        self._session = session
        self._heard = heard
        self._came = came
        self._settled = settled
        self._player = Player()
        self._sound = session.audio_output()
        self._events = session.events()
        self._due: set[Key] = set()
        """Items that must still be heard to their end."""
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._grace: set[asyncio.TimerHandle] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._error: Exception | None = None

    @property
    def missing_ms(self) -> int:
        """Sound that was dropped on the way, in milliseconds: played as silence."""
        return milliseconds(self._player.missing_samples, self._session.output_format)

    @property
    def is_quiet(self) -> bool:
        """Everything that was announced has been heard or flushed."""
        return self._quiet.is_set()

    async def quiet(self) -> None:
        """Wait until everything that was announced has been heard or flushed."""
        await self._quiet.wait()
        if self._error is not None:
            raise self._error

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._each(self._sound, self._on_sound)),
            asyncio.create_task(self._each(self._events, self._on_event)),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in (self._timer, *self._grace):
            if handle is not None:
                handle.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._do(self._tick)
        if self._timer is not None:
            self._timer.cancel()
        if self._error is not None and error is None:
            raise self._error

    def _do(self, act: Callable[..., None], *what: Any) -> None:
        """What may call the program's functions: what they raise is told where it waits for us."""
        if self._error is not None:
            return
        try:
            act(*what)
        except Exception as error:
            self._error = error
            if not self._quiet.is_set():
                self._quiet.set()
                with contextlib.suppress(Exception):
                    self._settled()

    async def _each(self, reader: Reader[Any], handle: Callable[[Any], None]) -> None:
        while True:
            try:
                async for one in reader:
                    self._do(handle, one)
                return
            except Lagged:
                continue  # the player shows it as a hole
            except ClientError:
                return  # the session ended; whoever reads its events is told why

    def _on_sound(self, piece: Heard) -> None:
        self._came(piece)
        now = self._time()
        match piece:
            case Sound():
                self._apply(self._player.receive(piece, now))
            case SoundEnd():
                self._apply(self._player.end((piece.item_id, piece.content_index), now))
            case SoundFlush():
                self._apply(self._player.flush(piece.responses, now))

    def _on_event(self, event: Any) -> None:
        match event.data:
            case events.AssistantAudioDone(item_id=item, content_index=index, samples=samples):
                if samples and not self._player.has_finished((item, index)):
                    self._due.add((item, index))
                self._later(lambda: self._complete((item, index)))
            case events.AssistantTurnCompleted(turn_id=turn):
                self._later(lambda: self._apply(self._player.end_turn(turn, self._time())))
            case events.Interrupted(responses=responses):
                self._apply(self._player.flush(responses, self._time()))
            case _:
                return
        self._settle()

    def _complete(self, key: Key) -> None:
        """The item's end on the audio lane was lost, if it has not come by now."""
        if not self._player.knows(key):
            self._due.discard(key)  # flushed before it began
        self._apply(self._player.end(key, self._time()))

    def _later(self, act: Callable[[], None]) -> None:
        def run() -> None:
            self._grace.discard(handle)
            self._do(act)

        handle = asyncio.get_running_loop().call_later(GRACE_S, run)
        self._grace.add(handle)

    def _apply(self, step: Step) -> None:
        for played in step.played:
            self._heard(played)
        for report in step.reports:
            if report.state != "playing":
                self._due.discard((report.item_id, report.content_index))
            if self._session.reports_playback and not self._session.is_over:
                self._session.in_background(self._report(report))
        self._settle()

    async def _report(self, report: ReportPlayback) -> None:
        if report.state != "playing":
            await self._session.report_playback(report)
            return
        with contextlib.suppress(NoReply):  # the next one says more
            await self._session.report_playback(report, deadline_s=REPORT_DEADLINE_S)

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._player.deadline()
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(deadline + 0.0005, self._do, self._tick)
        if not self._player.is_idle or self._due:
            self._quiet.clear()
        elif not self._quiet.is_set():
            self._quiet.set()
            self._settled()

    def _tick(self) -> None:
        self._apply(self._player.advance(self._time()))

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()
