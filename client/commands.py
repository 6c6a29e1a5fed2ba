"""Commands: one request, one reply, the same id until it comes."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from voicebus.bus import ids
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.commands import Command, CommandError, Replayed, Reply
from voicebus.bus.sockets import Dealer, Frames, Sockets
from voicebus.client.errors import ClientError, CommandRefused, NobodyAnswers, NoReply, what_to_ask
from voicebus.client.logs import log

FIRST_RETRY_S = 0.25
LONGEST_RETRY_S = 2.0
DEADLINE_S = 10.0
PAGE = 200
"""The most events that one reply holds."""

_replies = msgspec.json.Decoder(Reply)


class Commander:
    """Asks session shards. One DEALER per shard, made when it is first needed."""

    def __init__(self, sockets: Callable[[], Sockets], endpoints: Endpoints) -> None:
        self._sockets = sockets
        self._endpoints = endpoints
        self._dealers: dict[int, Dealer] = {}
        self._heard: set[int] = set()
        """The shards that have answered something."""
        self._waiting: dict[str, asyncio.Future[Reply]] = {}

    async def ask(
        self,
        shard: int,
        command: str,
        data: dict[str, Any] | None = None,
        *,
        session_id: str | None = None,
        token: str | None = None,
        id: str | None = None,
        deadline_s: float = DEADLINE_S,
        patient: bool = True,
    ) -> Reply:
        """The reply, always an ok one. Raises NobodyAnswers, NoReply or CommandRefused.

        It is sent again with the same id after 250 ms, 500 ms, 1 s, 2 s, …: a session does nothing
        twice for one id, so this is always safe. With `patient` False a refusal is raised at once,
        also one after which trying again can help.
        """
        request = Command(
            id=id or ids.ulid(),
            command=command,
            session_id=session_id,
            token=token,
            data=data or {},
        )
        frames = [encode(request)]
        dealer = self._dealer(shard)  # once: after a close nobody would close another
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        pause = FIRST_RETRY_S
        refused: CommandError | None = None
        while True:
            reply = await self._once(dealer, request.id, frames, min(pause, end - loop.time()))
            if reply is not None and reply.error is None:
                return reply
            if reply is not None:
                refused = reply.error
                wait = _wait_before_retry(refused, pause) if patient else None
                if wait is None or loop.time() + wait >= end:
                    break
                await asyncio.sleep(wait)
            if loop.time() >= end:
                break
            pause = min(pause * 2, LONGEST_RETRY_S)
        if refused is not None:
            raise CommandRefused(command, refused.code, refused.message, refused.retry)
        raise self._silence(shard, command, deadline_s)

    async def replay(
        self,
        session_id: str,
        first: int,
        last: int | None = None,
        limit: int = PAGE,
        *,
        token: str | None = None,
    ) -> Replayed:
        """Events as they were published, at most 200, and where to go on. Raises as `ask`."""
        data = {"from": first, "to": last, "limit": limit}
        shard = ids.shard_of(session_id) or 0
        reply = await self.ask(shard, "replay", data, session_id=session_id, token=token)
        try:
            # Headers stay as they came: numbers and fields of newer versions are kept.
            return msgspec.json.decode(encode(reply.data), type=Replayed)
        except msgspec.ValidationError as error:
            raise ClientError(
                f"the reply to replay is not as it should be ({error}): is another version of "
                "voicebus running there?"
            ) from None

    def close(self) -> None:
        """Disconnect; whoever waits gets no reply. What is asked afterwards connects again."""
        for dealer in self._dealers.values():
            dealer.close()
        self._dealers.clear()

    async def _once(self, dealer: Dealer, id: str, frames: Frames, wait_s: float) -> Reply | None:
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[id] = reply
        try:
            dealer.send(frames)  # a full queue is tried again like a lost message
            # A limit is safe here: it waits for a future of our own, not for a socket.
            await asyncio.wait([reply], timeout=max(wait_s, 0.0))
            return reply.result() if reply.done() else None
        finally:
            if self._waiting.get(id) is reply:
                del self._waiting[id]

    def _dealer(self, shard: int) -> Dealer:
        if shard not in self._dealers:

            def received(frames: Frames) -> None:
                self._received(shard, frames)

            self._dealers[shard] = self._sockets().dealer(
                self._endpoints.commands(shard), received, name="client"
            )
        return self._dealers[shard]

    def _received(self, shard: int, frames: Frames) -> None:
        try:
            reply = _replies.decode(frames[-1])
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("reply.dropped", shard=shard, why=str(error))
            return
        self._heard.add(shard)
        waiter = self._waiting.get(reply.id)
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def _silence(self, shard: int, command: str, deadline_s: float) -> NobodyAnswers | NoReply:
        where = self._endpoints.commands(shard)
        if shard not in self._heard:
            return NobodyAnswers(f"nobody answers at {where}: {what_to_ask(where, shard)}")
        return NoReply(
            f"session-{shard} did not answer {command} within {deadline_s:g} s; "
            "it may be restarting (voicebus status)"
        )


def _wait_before_retry(error: CommandError | None, pause: float) -> float | None:
    """Seconds, or None where trying again does not help."""
    # The session has already waited for a tool; a misspelt name does not come by waiting longer.
    if error is None or not error.retry or error.code == "tool_unavailable":
        return None
    return pause if error.after_ms is None else error.after_ms / 1000
