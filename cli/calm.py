"""Waiting for conversations: for a silence of all of them, or for the end of the last."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.system import State
from voicebus.bus.sockets import Sockets
from voicebus.cli import processes
from voicebus.client import ClientError, RealtimeClient
from voicebus.services.supervisor import Silent, Supervisor

Sessions = list[dict[str, Any]]

_states: Codec[State] = Codec(State, what="state")

LOOK_S = 0.1
FIRST_TELL_S = 1.0
TELL_S = 5.0
ANSWER_S = 2.0


async def until(
    endpoints: Endpoints,
    met: Callable[[Sessions], bool],
    within_s: float,
    tell: Callable[[Sessions], None],
) -> Sessions:
    """Look at the open conversations until they are as wanted, or for so long. Those that are
    there at the end. A session process that is away still has those that it told of before: it
    comes back with them."""
    begun = time.monotonic()
    known: dict[int, Sessions] = {}
    tell_at = begun + FIRST_TELL_S
    async with RealtimeClient(endpoints, deadline_s=ANSWER_S) as client:
        while True:
            answers = await _answers(client, known)
            if known.keys() - answers.keys() and not is_supervised(endpoints):
                known = {}  # nobody brings them back
            known |= answers
            found = [session for sessions in known.values() for session in sessions]
            now = time.monotonic()
            if met(found) or now - begun >= within_s:
                return found
            if now >= tell_at:
                tell_at = now + TELL_S
                tell(found)
            await asyncio.sleep(LOOK_S)


def is_supervised(endpoints: Endpoints) -> bool:
    """Whether there is a supervisord, answering or not."""
    try:
        if Supervisor(endpoints.run_dir).pid() is not None:
            return True
    except (Silent, OSError):
        return True
    return processes.recorded_supervisor(endpoints.run_dir) is not None


async def _answers(client: RealtimeClient, known: Iterable[int]) -> dict[int, Sessions]:
    """By shard, of those that answer. One that is just being started has no socket to be found."""
    shards = sorted({*client.shards, *known})
    asked: list[Awaitable[Sessions]] = [client.sessions(shard) for shard in shards]
    found: dict[int, Sessions] = {}
    for shard, answer in zip(
        shards, await asyncio.gather(*asked, return_exceptions=True), strict=True
    ):
        if isinstance(answer, ClientError):
            continue
        if isinstance(answer, BaseException):
            raise answer
        found[shard] = answer
    return found


def are_silent(sessions: Sessions) -> bool:
    """Nobody speaks and nothing is about to be said."""
    return all(one.get("silent", False) for one in sessions)


def take_no_more(sockets: Sockets, endpoints: Endpoints, shards: Iterable[int]) -> None:
    """The session processes refuse new conversations from now on; those that are there go on. While
    the sockets are open it holds for successors, too: who was killed comes back without knowing."""

    def heard(frames: list[bytes]) -> None:
        with contextlib.suppress(BadMessage, ProcessLookupError):
            state, _ = _states.decode(frames[1:])
            # Not before: until a process says how it is, the signal would end it.
            if state.state in {"ready", "failing"}:
                os.kill(state.pid, signal.SIGUSR2)

    sockets.subscriber([endpoints.state("session", one) for one in shards], [b"system/"], heard)
