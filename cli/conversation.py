"""A conversation held by a command: one turn after the other, each waited for to its end."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages import events
from voicebus.cli.problems import Problem
from voicebus.client import ClientError, Event, Heard, Lagged, RealtimeClient, RealtimeSession
from voicebus.client.playback import Playback
from voicebus.client.player import Played
from voicebus.client.ring import Reader
from voicebus.client.turns import Turns, expect, fold

FIRST_ANSWER_S = 3.0
"""A session process answers a ping in milliseconds; a starting one gets this long."""
FAREWELL_S = 1.0


class TimedOut(Problem):
    """What was waited for did not come in time."""


class Conversation:
    """One session, its player and its events. Leaving its `async with` closes the session."""

    def __init__(
        self,
        session: RealtimeSession,
        show: Callable[[Event], None],
        *,
        timeout_s: float,
        heard: Callable[[Played], None] = lambda played: None,
        came: Callable[[Heard], None] = lambda piece: None,
    ) -> None:
        """`show` gets each event; `heard` and `came` get the sound, as in Playback."""
        self.session = session
        self.turns = Turns()
        self._show = show
        self._timeout_s = timeout_s
        self._changed = asyncio.Event()
        self._cause: str | None = None
        """The command whose failure is the turn's."""
        self._refused: dict[str, str] = {}
        """What the provider said against a command, which may come before its reply does."""
        self.has_spoken = False
        """Whether the provider has heard the caller's voice."""
        self._opened = False
        self._failure: str | None = None
        self._last_error: str | None = None
        self._broken: Exception | None = None
        """What showing an event raised: whoever read our output has gone, say."""
        self._heard = heard
        self._heard_at = 0.0
        self._playback = Playback(
            session, heard=self._on_heard, came=came, settled=self._changed.set
        )
        self._watching: asyncio.Task[None] | None = None

    async def opened(self) -> None:
        """Wait until the provider has confirmed the configuration. Raises Problem."""
        await self.until(lambda: self._opened, "the provider to confirm the configuration")

    async def turn(self, say: Callable[[], Awaitable[object]]) -> None:
        """Say something, and wait until the answer has been given and heard. Raises Problem.

        `say` returns the id of its command if that is what it sends.
        """
        before = self.turns.last
        self.turns = expect(self.turns)
        try:
            cause = await say()
        except ClientError as error:
            raise Problem(await self._reason(error)) from None
        self._cause = cause if isinstance(cause, str) else None
        what = "an answer" if cause is not None else "an answer to what was spoken"
        await self.until(lambda: self.turns.is_quiet and self.turns.last is not before, what)
        # A long answer takes its time; only while nothing is heard does the clock run.
        hearing = "the answer to be heard to its end"
        await self.until(lambda: self._playback.is_quiet, hearing, while_silent=True)
        self._check_last()

    async def until(
        self, met: Callable[[], bool], what: str, *, while_silent: bool = False
    ) -> None:
        """Wait for what events and sound bring about. Raises Problem when it cannot come."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while not met():
            end = max(begun, self._heard_at if while_silent else 0.0) + self._timeout_s
            failure = self._failure or self._refused.get(self._cause or "")
            if failure is not None:
                raise Problem(failure)
            if self._broken is not None:
                raise self._broken
            if loop.time() >= end:
                seen = f"; the last error was {self._last_error}" if self._last_error else ""
                raise TimedOut(f"waited {self._timeout_s:g} s for {what}{seen}")
            self._changed.clear()
            change = asyncio.create_task(self._changed.wait())
            await asyncio.wait([change], timeout=end - loop.time())
            change.cancel()

    async def __aenter__(self) -> Self:
        await self._playback.__aenter__()
        self._watching = asyncio.create_task(self._watch(self.session.events()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._playback.__aexit__(kind, error, trace)
        finally:  # a file that cannot be written, say
            await self.session.close()
            if self._watching is not None:
                await asyncio.wait([self._watching], timeout=FAREWELL_S)
                self._watching.cancel()

    async def _watch(self, reader: Reader[Event]) -> None:
        while True:
            try:
                async for event in reader:
                    self._show(event)
                    self._note(event)
                    self._changed.set()
                self._fail("the session ended before the answer did")
                return
            except Lagged as error:
                sys.stderr.write(f"{error}\n")
            except ClientError as error:
                self._fail(str(error))
                return
            except Exception as error:
                self._broken = error
                self._changed.set()
                return

    async def _reason(self, error: ClientError) -> str:
        """Why nothing can be said: the session's last events tell it better than what failed."""
        if self.session.is_over and self._watching is not None:
            await asyncio.wait([self._watching], timeout=FAREWELL_S)
        return self._failure or str(error)

    def _on_heard(self, played: Played) -> None:
        self._heard(played)
        self._heard_at = asyncio.get_running_loop().time()
        self._changed.set()

    def _note(self, event: Event) -> None:
        self.turns = fold(self.turns, event.data)
        match event.data:
            case events.SessionOpened():
                self._opened = True
            case events.UserSpeechStarted():
                self.has_spoken = True
            case events.SessionClosed(reason=reason, message=message):
                why = message or self._last_error or reason
                self._fail(f"the session was closed ({reason}): {why}")
            case events.Error(code=code, error=text, recoverable=recoverable):
                self._last_error = f"{code}: {text}"
                if event.cause is not None:
                    self._refused[event.cause] = f"the provider refused: {self._last_error}"
                if not recoverable:
                    self._fail(self._last_error)
            case events.RateLimited(reset_ms=reset):
                self._last_error = f"rate limited, for {reset} ms"
            case _:
                pass

    def _fail(self, text: str) -> None:
        if self._failure is None:
            self._failure = text
        self._changed.set()

    def _check_last(self) -> None:
        last = self.turns.last
        if last is None or last.status == "completed":
            return
        why = last.error.get("message") if last.error else None
        raise Problem(
            f"the last answer was not completed but {last.status}: "
            f"{why or last.reason or self._last_error or 'no reason was given'}"
        )


@asynccontextmanager
async def client_of(endpoints: Endpoints) -> AsyncIterator[RealtimeClient]:
    """A client of the stack that runs there. Raises Problem where none runs, and for whatever
    the client says went wrong."""
    where = endpoints.run_dir
    if not endpoints.shards():
        raise Problem(
            f"Voicebus does not run in {where}: start it with `voicebus up --run-dir {where}`"
        )
    try:
        async with RealtimeClient(endpoints) as client:
            await client.ping(deadline_s=FIRST_ANSWER_S)
            yield client
    except ClientError as error:
        raise Problem(str(error)) from None


def settings(**given: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in given.items() if value is not None}
