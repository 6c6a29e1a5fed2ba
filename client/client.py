"""The way in: opens and joins conversations of one run folder."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from voicebus.bus import ids
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.base import BadMessage, convert
from voicebus.bus.messages.commands import Opened, SessionConfig
from voicebus.bus.sockets import Keys, Sockets
from voicebus.client.commands import DEADLINE_S, Commander
from voicebus.client.errors import ClientError
from voicebus.client.logs import log
from voicebus.client.session import EVERY_RIGHT, RealtimeSession, Right, as_config
from voicebus.client.shards import Shards


class RealtimeClient:
    """Opens sessions on the Voicebus that runs in a run folder.

    async with RealtimeClient("var/run") as client:
        async with client.connect({"instructions": "Be brief."}) as session:
            await session.send_text("Hello!")
            async for event in session.events():
                print(event.kind)
    """

    def __init__(
        self,
        run_dir: str | Path | Endpoints = "var/run",
        *,
        shard: int | None = None,
        shards: int | None = None,
        deadline_s: float = DEADLINE_S,
        keys: Keys | None = None,
    ) -> None:
        """A Voicebus elsewhere: `RealtimeClient(Elsewhere(host, port), keys=read_keys(file))`.

        New sessions go around the session processes whose sockets are in the run folder, or around
        so many `shards`; one that is full or away is left out. `shard` names the only one."""
        self.endpoints = run_dir if isinstance(run_dir, Endpoints) else Endpoints(run_dir)
        self._deadline_s = deadline_s
        self._keys = keys
        self._made: Sockets | None = None
        self.commander = Commander(self.sockets, self.endpoints)
        self._shards = Shards(self.commander, self.endpoints, count=shards, only=shard)
        self._sessions: WeakSet[RealtimeSession] = WeakSet()
        """Those that were joined by this client, as long as somebody has them."""

    @property
    def shards(self) -> tuple[int, ...]:
        """The numbers of the session processes."""
        return self._shards.there()

    def sockets(self) -> Sockets:
        """This client's sockets, made at first use inside the running loop."""
        if self._made is None:
            self._made = Sockets(failed=_failed, keys=self._keys)
        return self._made

    def connect(
        self, config: SessionConfig | dict[str, Any] | None = None, **settings: Any
    ) -> "Joining":
        """Open a session: `await` it, or use it in `async with`, which closes it at the end.

        Settings are those of `SessionConfig`, as one value or by name.
        """
        return Joining(lambda: self._connect({**as_config(config), **settings}))

    def attach(
        self,
        session_id: str,
        *,
        rights: tuple[Right, ...] = EVERY_RIGHT,
        from_seq: int | None = 1,
    ) -> "Joining":
        """Join a session that exists; leaving it does not end it.

        Whoever joins with the right to talk is its talker from then on: its lease and the reports
        of what was heard are his. Who only listens asks for `rights=("listen",)`: then everything
        that would change the session raises CommandRefused, and it does not keep it alive.
        `from_seq`: where its events begin here; None for only what is new.
        """
        return Joining(lambda: self._attach(session_id, rights, from_seq))

    async def sessions(self, shard: int | None = None) -> list[dict[str, Any]]:
        """The open sessions of all shards, or of one."""
        wanted = self.shards if shard is None else (shard,)
        answers = await asyncio.gather(*(self._ask(one, "list") for one in wanted))
        return [session for answer in answers for session in _list_of(answer, "sessions")]

    async def catalogue(self, shard: int | None = None) -> list[dict[str, Any]]:
        """The tools of the pool, as any shard knows them, or this one."""
        asked = await self._shards.any() if shard is None else shard
        return _list_of(await self._ask(asked, "catalogue"), "tools")

    async def schema(self, name: str | None = None, shard: int | None = None) -> dict[str, Any]:
        """The protocol: `names` of its files, and the `schema` of the one that was named."""
        asked = await self._shards.any() if shard is None else shard
        data = await self._ask(asked, "schema", {"name": name})
        return data if isinstance(data, dict) else {}

    async def ping(self, shard: int | None = None, *, deadline_s: float | None = None) -> None:
        """Is any session process there, or this one? Raises NobodyAnswers."""
        asked = await self._shards.any() if shard is None else shard
        await self._ask(asked, "ping", deadline_s=deadline_s)

    def close(self) -> None:
        """Close all sockets; sessions that were not closed end when their lease does."""
        for session in list(self._sessions):
            session.stop()
        self.commander.close()
        if self._made is not None:
            self._made.close()
            self._made = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _ask(
        self,
        shard: int,
        command: str,
        data: dict[str, Any] | None = None,
        *,
        session_id: str | None = None,
        deadline_s: float | None = None,
    ) -> Any:
        deadline = self._deadline_s if deadline_s is None else deadline_s
        reply = await self.commander.ask(
            shard, command, data, session_id=session_id, deadline_s=deadline
        )
        return reply.data

    async def _connect(self, config: dict[str, Any]) -> RealtimeSession:
        reply = await self._shards.open({"config": config}, self._deadline_s)
        opened = _opened(reply.data)
        try:
            session = RealtimeSession(self.sockets(), self.commander, opened, config=config)
        except OSError:  # nobody would ever hang up
            shard = ids.shard_of(opened.session_id) or 0
            with contextlib.suppress(ClientError):
                await self._ask(shard, "close", session_id=opened.session_id)
            raise
        return await self._joined(session, session.close)

    async def _attach(
        self, session_id: str, rights: tuple[Right, ...], from_seq: int | None
    ) -> RealtimeSession:
        shard = ids.shard_of(session_id)
        if shard is None:
            raise ClientError(f"{session_id!r} is no session id (s<shard>-<26 characters>)")
        if from_seq is not None and from_seq < 1:
            raise ClientError(
                f"from_seq is {from_seq}: events count from 1; None has only new ones"
            )
        data = {"rights": list(rights)}
        opened = _opened(await self._ask(shard, "attach", data, session_id=session_id))
        state = await self._ask(shard, "snapshot", session_id=session_id)
        config = state.get("config", {}) if isinstance(state, dict) else {}
        session = RealtimeSession(
            self.sockets(),
            self.commander,
            opened,
            config=config,
            from_seq=from_seq,
            owns=False,
            rights=rights,
        )
        return await self._joined(session, session.detach)

    async def _joined(
        self, session: RealtimeSession, leave: Callable[[], Awaitable[None]]
    ) -> RealtimeSession:
        self._sessions.add(session)
        try:
            return await session.joined()
        except (ClientError, asyncio.CancelledError):
            await leave()
            raise


class Joining(Awaitable[RealtimeSession]):
    """A session on its way: await it, or enter it."""

    def __init__(self, join: Callable[[], Awaitable[RealtimeSession]]) -> None:
        self._join = join
        self._session: RealtimeSession | None = None

    def __await__(self) -> Generator[Any, None, RealtimeSession]:
        return self._join().__await__()

    async def __aenter__(self) -> RealtimeSession:
        self._session = await self._join()
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.__aexit__(kind, error, trace)


def _opened(data: Any) -> Opened:
    try:
        return convert(data, Opened, what="the session's reply")
    except BadMessage as error:
        raise ClientError(f"{error}: is another version of voicebus running there?") from None


def _list_of(data: Any, name: str) -> list[dict[str, Any]]:
    found = data.get(name, []) if isinstance(data, dict) else data
    return list(found) if isinstance(found, list) else []


def _failed(error: Exception) -> None:
    """A handler raised: a bug of ours that must not end the program that uses us."""
    log.error("client.failed", exc_info=error)
