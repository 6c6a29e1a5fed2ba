"""The session processes of a cell: which are there, and which of them opens the next session."""

import asyncio
import random
from typing import Any

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.commands import Reply
from voicebus.client.commands import FIRST_RETRY_S, LONGEST_RETRY_S, Commander
from voicebus.client.errors import ClientError, CommandRefused, NobodyAnswers, NoReply

ANSWER_S = 0.5
"""One that does not answer for so long is being restarted: another one opens the session."""
ABSENT_S = 2.0
"""So long it is not asked again, while there are others."""
ELSEWHERE = frozenset({"busy", "draining"})
"""Refusals of one process that say nothing about the others."""


class Shards:
    """Goes around them: each takes its turn, and whoever is full or away is left out."""

    def __init__(
        self, commander: Commander, endpoints: Endpoints, *, count: int | None, only: int | None
    ) -> None:
        """`count`: so many; None: those whose sockets are there. `only`: this one."""
        self._commander = commander
        self._endpoints = endpoints
        self._count = count
        self._only = only
        # Where each client is short-lived, their first choices must differ.
        self._next = random.randrange(1 << 16)
        self._absent: dict[int, float] = {}

    def there(self) -> tuple[int, ...]:
        """Their numbers; never none, since the first may be on its way."""
        if self._only is not None:
            return (self._only,)
        if self._count is not None:
            return tuple(range(self._count))
        return self._endpoints.shards() or (0,)

    async def any(self) -> int:
        """One that answers, else the first."""
        there = self.there()
        if len(there) > 1:
            for shard in there:
                if await self._answers(shard):
                    return shard
        return there[0]

    async def open(self, data: dict[str, Any], deadline_s: float) -> Reply:
        """A session on any of them. Raises as Commander.ask; `busy` only when all are."""
        there = self.there()
        if len(there) == 1:
            return await self._commander.ask(there[0], "open", data, deadline_s=deadline_s)
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + deadline_s, FIRST_RETRY_S
        while True:
            refused: ClientError | None = None
            for shard in self._in_turn(there):
                # Asked before: a command that was sent may be performed, answered or not.
                if not await self._answers(shard):
                    continue
                left_s = max(end - loop.time(), ANSWER_S)
                try:
                    return await self._commander.ask(
                        shard, "open", data, deadline_s=left_s, patient=False
                    )
                except CommandRefused as error:
                    if error.code not in ELSEWHERE:
                        raise
                    refused = error
            if loop.time() + pause >= end:
                raise refused or self._silence(there, deadline_s)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY_S)

    def _in_turn(self, there: tuple[int, ...]) -> list[int]:
        self._next += 1
        first = self._next % len(there)
        turn = [*there[first:], *there[:first]]
        now = asyncio.get_running_loop().time()
        present = [one for one in turn if now - self._absent.get(one, -ABSENT_S) >= ABSENT_S]
        return present or turn

    async def _answers(self, shard: int) -> bool:
        try:
            await self._commander.ask(shard, "ping", deadline_s=ANSWER_S)
        except (NobodyAnswers, NoReply):
            self._absent[shard] = asyncio.get_running_loop().time()
            return False
        self._absent.pop(shard, None)
        return True

    def _silence(self, there: tuple[int, ...], deadline_s: float) -> NobodyAnswers:
        names = ", ".join(f"session-{shard}" for shard in there)
        return NobodyAnswers(
            f"none of {names} in {self._endpoints.run_dir} answered within {deadline_s:g} s: "
            "is Voicebus running? (voicebus status)"
        )
