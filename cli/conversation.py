"""A conversation held by a command: one turn after the other, each waited for to its end."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages import events
from voicebus.cli.problems import Problem
from voicebus.client import ClientError, Event, Lagged, RealtimeClient, RealtimeSession
from voicebus.client.playback import Playback
from voicebus.client.turns import Turns, expect, fold

FIRST_ANSWER_S = 3.0
"""A session process answers a ping in milliseconds; a starting one gets this long."""


class Conversation:
    """Follows a session's events; `turn` waits until the assistant has finished and was heard."""

    def __init__(
        self,
        session: RealtimeSession,
        playback: Playback,
        show: Callable[[Event], None],
        *,
        timeout_s: float,
    ) -> None:
        self.session = session
        self.turns = Turns()
        self._playback = playback
        self._show = show
        self._timeout_s = timeout_s
        self._changed = asyncio.Event()
        self._causes: set[str] = set()
        """The commands whose failure is the turn's."""
        self._opened = False
        self._failure: str | None = None
        self._last_error: str | None = None
        self._watching = asyncio.create_task(self._watch(session.events()))

    async def opened(self) -> None:
        """Wait until the provider has confirmed the configuration. Raises Problem."""
        await self.until(lambda: self._opened, "the provider to confirm the configuration")

    async def turn(self, say: Callable[[], Awaitable[str | None]]) -> None:
        """Say something, and wait for the answer's end. Raises Problem if there is none.

        `say` returns the id of its command, or None if it spoke.
        """
        before = self.turns.last
        self.turns = expect(self.turns)
        cause = await say()
        if cause is not None:
            self._causes.add(cause)
        await self.until(lambda: self.turns.is_quiet and self.turns.last is not before, "an answer")
        await self.until(lambda: self._playback.is_quiet, "the answer to be heard to its end")
        self._check_last()

    async def until(self, met: Callable[[], bool], what: str) -> None:
        """Wait for something that events bring about. Raises Problem when it cannot come."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout_s
        while not met():
            if self._failure is not None:
                raise Problem(self._failure)
            left = end - loop.time()
            if left <= 0:
                seen = f"; the last error was: {self._last_error}" if self._last_error else ""
                raise Problem(
                    f"waited {self._timeout_s:g} s for {what} (--timeout){seen}; "
                    "the logs are in the run folder"
                )
            self._changed.clear()
            if not met() and self._failure is None:
                changed = asyncio.create_task(self._changed.wait())
                quiet = asyncio.create_task(self._playback.quiet())
                # The player says nothing when it goes quiet, so it is looked at, too.
                waiting = [changed] if self._playback.is_quiet else [changed, quiet]
                await asyncio.wait(
                    waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                changed.cancel()
                quiet.cancel()

    def close(self) -> None:
        """Stop following."""
        self._watching.cancel()

    async def _watch(self, reader: AsyncIterator[Event]) -> None:
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

    def _note(self, event: Event) -> None:
        self.turns = fold(self.turns, event.data)
        match event.data:
            case events.SessionOpened():
                self._opened = True
            case events.SessionClosed(reason=reason, message=message):
                why = message or self._last_error or reason
                self._fail(f"the session was closed ({reason}): {why}")
            case events.Error(code=code, error=text, recoverable=recoverable):
                self._last_error = f"{code}: {text}"
                if not recoverable or event.cause in self._causes:
                    self._fail(f"the provider refused: {self._last_error}")
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
async def client_of(endpoints: Endpoints, shards: int) -> AsyncIterator[RealtimeClient]:
    """A client of a running stack. Raises Problem where none runs."""
    where = endpoints.run_dir
    if not any(where.glob("session-*.commands")):
        raise Problem(
            f"Voicebus does not run in {where}: start it with `voicebus up --run-dir {where}`"
        )
    async with RealtimeClient(endpoints, shards=shards) as client:
        try:
            await client.ping(deadline_s=FIRST_ANSWER_S)
        except ClientError as error:
            raise Problem(str(error)) from None
        yield client


@asynccontextmanager
async def reporting() -> AsyncIterator[None]:
    """What the client says becomes what the command says."""
    try:
        yield
    except ClientError as error:
        raise Problem(str(error)) from None


def settings(**given: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in given.items() if value is not None}
