"""What the cell's processes say of themselves, kept for /health and /metrics."""

import asyncio
from collections.abc import Mapping

from voicebus.bus.frames import Codec
from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.system import State
from voicebus.client import ClientError, RealtimeClient
from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway import wellness
from voicebus.services.gateway.wellness import Word
from voicebus.services.runtime import Runtime

TOOLHOSTS = 2
"""While tools are restarted there are two generations."""
ASK_S = 1.0
"""A shard that has not answered by then is left out; and nobody is asked more often."""

_states: Codec[State] = Codec(State, what="state")


class States:
    """Listens to every role's state socket; asks the shards how many sessions they hold."""

    def __init__(self, runtime: Runtime[GatewaySettings], client: RealtimeClient) -> None:
        self._runtime = runtime
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._words: dict[str, Word] = {}
        self._sessions: dict[int, tuple[int, int]] = {}
        self._asked_at = -ASK_S
        self._asking: asyncio.Task[None] | None = None
        cell, endpoints = runtime.cell, runtime.endpoints
        counts = {
            "session": cell.shards,
            "transport": cell.transports,
            "dispatcher": 1,
            "toolhost": max(cell.toolhosts, TOOLHOSTS),
            "health": 1,
            "relay": 1,
            "recorder": 1,
            "gateway": 1,
        }
        client.sockets().subscriber(
            [endpoints.state(role, n) for role, count in counts.items() for n in range(count)],
            [b"system/"],
            self._heard,
        )

    def missing(self) -> str | None:
        """Why new conversations would not work now; None when they would."""
        cell = self._runtime.cell
        return wellness.missing(
            self._words, shards=cell.shards, transports=cell.transports, now_s=self._loop.time()
        )

    def processes(self) -> list[dict[str, object]]:
        """How each process is."""
        return wellness.processes(self._words, self._loop.time())

    async def metrics(self, connections: int) -> str:
        """For Prometheus."""
        return wellness.metrics(
            self._words,
            now_s=self._loop.time(),
            is_well=self.missing() is None,
            sessions=await self._count(),
            connections=connections,
        )

    async def _count(self) -> Mapping[int, tuple[int, int]]:
        """Asked at most once a second, however many want to know."""
        if self._asking is None and self._loop.time() - self._asked_at >= ASK_S:
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            await asyncio.shield(self._asking)
        return self._sessions

    async def _ask(self) -> None:
        shards = range(self._runtime.cell.shards)
        try:
            found = await asyncio.gather(*map(self._of_shard, shards))
            self._sessions = {n: one for n, one in zip(shards, found, strict=True) if one}
        finally:
            self._asked_at = self._loop.time()
            self._asking = None

    async def _of_shard(self, shard: int) -> tuple[int, int] | None:
        try:
            reply = await self._client.commander.ask(shard, "list", deadline_s=ASK_S)
        except ClientError:
            return None
        found = reply.data.get("sessions", []) if isinstance(reply.data, dict) else []
        return len(found), sum(bool(one.get("silent")) for one in found)

    def _heard(self, frames: list[bytes]) -> None:
        if not frames[0].endswith(b"/state"):
            return
        try:
            state, _ = _states.decode(frames[1:])
        except BadMessage:
            self._runtime.count("states_malformed")
            return
        self._words[f"{state.role}-{state.instance}"] = Word(state, self._loop.time())
