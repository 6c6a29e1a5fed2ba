"""What the end-to-end tests share: a caller, a plain command line, a tape of the whole bus."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import msgspec

from voicebus.bus import ids
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Frames, Sockets
from voicebus.cli.testing import Stack
from voicebus.client import Event, RealtimeClient, RealtimeSession
from voicebus.client.playback import Playback
from voicebus.client.sound import Heard, Sound, SoundFlush
from voicebus.client.turns import Turns, expect, fold

WITHIN_S = 20.0
"""How long a test waits for what should take a fraction of that."""

Header = dict[str, Any]

log = logging.getLogger("measured")


def measured(what: str, ms: float) -> None:
    """For people: pytest --log-cli-level=INFO shows it. The numbers that count are benchmarks'."""
    log.info("%s: %.1f ms", what, ms)


async def until(
    met: Callable[[], Any], changed: asyncio.Event, what: Callable[[], str], within_s: float
) -> Any:
    """The first true value of `met`. Raises TimeoutError that tells what is there instead."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while not (found := met()):
        left = end - loop.time()
        if left <= 0:
            raise TimeoutError(f"waited {within_s:g} s for {what()}")
        changed.clear()
        change = asyncio.create_task(changed.wait())
        await asyncio.wait([change], timeout=left)
        change.cancel()
    return found


class Tape:
    """Everything that the session and the transport of a cell publish, as it comes."""

    def __init__(self, endpoints: Endpoints, sockets: Sockets) -> None:
        self.events: list[Header] = []
        """Headers of the event lane, of all sessions."""
        self.sound: list[tuple[float, Header, int]] = []
        """When (the loop's time), header, payload bytes: of the audio lane."""
        self.cancels: list[tuple[float, Header]] = []
        self.raw: list[tuple[float, Header, Any]] = []
        """When, header, the provider's frame."""
        self.system: list[Header] = []
        self.changed = asyncio.Event()
        shards = endpoints.shards() or (0,)
        transports = endpoints.transports() or (0,)
        self._publishers = len(shards) + len(transports)
        self._welcomed: set[str] = set()
        self.before: frozenset[str] = frozenset()
        """Sessions of earlier tests: one that failed may have left them as they should not be."""
        self._loop = asyncio.get_running_loop()
        lanes = [b"event/", b"cancel/", b"raw/"]
        sockets.subscriber([endpoints.events(n) for n in shards], lanes, self._heard)
        voices = [endpoints.audio_out(n) for n in transports]
        sockets.subscriber(voices, [b"audio/"], self._heard)
        roles = ("session", "transport", "dispatcher", "toolhost")
        states = [endpoints.state(role, 0) for role in roles]
        sockets.subscriber(states, [b"system/"], self._heard)

    def _heard(self, frames: list[bytes]) -> None:
        lane = frames[0].split(b"/", 1)[0]
        header = json.loads(frames[1])
        now = self._loop.time()
        if header.get("kind") == "welcome":  # it comes on each lane that somebody subscribes to
            if lane in (b"event", b"audio"):
                self._welcomed.add(f"{lane!r} {header['inc']}")
            if lane != b"audio":
                lane = b"event"
        match lane:
            case b"event":
                self.events.append(header)
            case b"audio":
                self.sound.append((now, header, len(frames[2]) if len(frames) > 2 else 0))
            case b"cancel":
                self.cancels.append((now, header))
            case b"raw":
                self.raw.append((now, header, _frame(frames[2]) if len(frames) > 2 else None))
            case _:
                self.system.append(header)
        self.changed.set()

    async def until(self, met: Callable[[], Any], what: str, *, within_s: float = WITHIN_S) -> Any:
        """The first true value of `met`, looked at after each message."""

        def seen() -> str:
            return f"{what}; heard: {[one['kind'] for one in self.events][-40:]}"

        return await until(met, self.changed, seen, within_s)

    async def ready(self) -> None:
        """Until each publisher has confirmed the subscription."""
        await self.until(lambda: len(self._welcomed) >= self._publishers, "all welcomes")
        welcomes = [one for one in self.events if one["kind"] == "welcome"]
        self.before = frozenset(name for one in welcomes for name in one["data"]["heads"])

    def of(self, session_id: str, kind: str | None = None) -> list[Header]:
        """The numbered events of a session, in the order in which they came."""
        return [
            one
            for one in self.events
            if one["session_id"] == session_id
            and one.get("seq") is not None
            and kind in (None, one["kind"])
        ]

    def sound_of(self, session_id: str) -> list[tuple[float, Header, int]]:
        """The audio lane of a session."""
        return [one for one in self.sound if one[1]["session_id"] == session_id]

    def sent_to_provider(self, session_id: str, type: str) -> list[Any]:
        """Frames of that type that went down to the provider."""
        return [
            frame
            for _, header, frame in self.raw
            if header["session_id"] == session_id
            and header["kind"] == type
            and header["dir"] == "down"
        ]


def _frame(raw: bytes) -> Any:
    """A provider's frame; what is no JSON stays as it is."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw


class Line:
    """Commands as any program would send them, without the SDK's care. Keeps every reply."""

    def __init__(self, endpoints: Endpoints, sockets: Sockets, shard: int = 0) -> None:
        self.sent: list[str] = []
        self.insisted: set[str] = set()
        """Sent again under the same id, because a process may have died with the first."""
        self.replies: list[Header] = []
        self.changed = asyncio.Event()
        self._shard = shard
        self._dealers = {
            n: sockets.dealer(endpoints.commands(n), self._received, name="line")
            for n in {shard, *endpoints.shards()}
        }

    def _received(self, frames: Frames) -> None:
        self.replies.append(json.loads(frames[-1]))
        self.changed.set()

    def send(self, frames: Frames) -> None:
        """Frames as they are."""
        self._dealers[self._shard].send(frames)

    def command(
        self,
        command: str,
        data: Any = None,
        *,
        session_id: str | None = None,
        token: str | None = None,
        id: str | None = None,
    ) -> str:
        """Send it and go on. Returns its id."""
        chosen = id or ids.ulid()
        body = {"v": 1, "id": chosen, "command": command, "data": {} if data is None else data}
        if session_id is not None:
            body["session_id"] = session_id
        if token is not None:
            body["token"] = token
        self.sent.append(chosen)
        home = self._shard if session_id is None else ids.shard_of(session_id)
        dealer = self._dealers.get(home or 0, self._dealers[self._shard])
        dealer.send([msgspec.json.encode(body)])
        return chosen

    async def reply(self, id: str, *, nth: int = 1, within_s: float = WITHIN_S) -> Header:
        """The nth reply to that id."""

        def found() -> Header | None:
            mine = [one for one in self.replies if one["id"] == id]
            return mine[nth - 1] if len(mine) >= nth else None

        what = f"reply {nth} to {id}; so far {self.replies[-5:]}"
        reply: Header = await until(found, self.changed, lambda: what, within_s)
        return reply

    async def until_replies(self, count: int) -> None:
        """Wait until so many replies have come."""
        what = f"{count} replies"
        await until(lambda: len(self.replies) >= count, self.changed, lambda: what, WITHIN_S)

    async def ask(
        self,
        command: str,
        data: Any = None,
        *,
        session_id: str | None = None,
        token: str | None = None,
    ) -> Header:
        """Send it and wait for its reply."""
        return await self.reply(self.command(command, data, session_id=session_id, token=token))

    async def insist(self, command: str, data: Any, *, session_id: str) -> Header:
        """As ask, of a process that may be killed meanwhile: send it again under the same id."""
        id = self.command(command, data, session_id=session_id)
        self.insisted.add(id)
        for _ in range(10):
            with contextlib.suppress(TimeoutError):
                return await self.reply(id, within_s=2)
            self.command(command, data, session_id=session_id, id=id)
        return await self.reply(id)

    async def refused(
        self, command: str, data: Any = None, *, session_id: str | None = None
    ) -> tuple[str, str]:
        """Code and message of the refusal."""
        reply = await self.ask(command, data, session_id=session_id)
        assert not reply["ok"], f"{command} was not refused: {reply}"
        return reply["error"]["code"], reply["error"]["message"]


class Caller:
    """A caller with the SDK: keeps the events (holes healed) and the sound of its session."""

    def __init__(self, session: RealtimeSession) -> None:
        self.session = session
        self.id = session.id
        self.events: list[Event] = []
        self.sound: list[tuple[float, Heard]] = []
        self.turns = Turns()
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._listen()),
        ]

    async def _follow(self) -> None:
        async for event in self.session.events():
            self.turns = fold(self.turns, event.data)
            self.events.append(event)
            self.changed.set()

    async def _listen(self) -> None:
        async for heard in self.session.audio_output():
            self.sound.append((self._loop.time(), heard))
            self.changed.set()

    async def until(self, met: Callable[[], Any], what: str, *, within_s: float = WITHIN_S) -> Any:
        """The first true value of `met`, looked at after each event and piece of sound."""

        def seen() -> str:
            return f"{what}; events: {[one.kind for one in self.events][-40:]}"

        return await until(met, self.changed, seen, within_s)

    def found(self, kind: str, **fields: Any) -> list[Any]:
        """The events of that kind whose data have these values."""
        return [
            one
            for one in self.events
            if one.kind == kind
            and all(getattr(one.data, name) == value for name, value in fields.items())
        ]

    async def event(
        self, kind: str, *, nth: int = 1, within_s: float = WITHIN_S, **fields: Any
    ) -> Any:
        """The nth event of that kind whose data have these values."""

        def there() -> Any:
            mine = self.found(kind, **fields)
            return mine[nth - 1] if len(mine) >= nth else None

        what = f"{kind} number {nth} with {fields}"
        return await self.until(there, what, within_s=within_s)

    async def opened(self) -> None:
        """Until the provider has confirmed the configuration."""
        await self.event("session_opened")

    async def turn(self, text: str, *, within_s: float = WITHIN_S) -> str:
        """Say it and wait until the assistant has finished, tools included. Its id."""
        before = self.turns.last
        self.turns = expect(self.turns)
        cause = await self.session.send_text(text)
        await self.until(
            lambda: self.turns.is_quiet and self.turns.last is not before,
            f"the answer to {text!r}",
            within_s=within_s,
        )
        return cause

    def pieces(self, turn_id: str | None = None) -> list[tuple[float, Sound]]:
        """The sound of a response, or of all."""
        return [
            (at, heard)
            for at, heard in self.sound
            if isinstance(heard, Sound) and turn_id in (None, heard.turn_id)
        ]

    def flushes(self) -> list[tuple[float, SoundFlush]]:
        """When players were told to stop."""
        return [(at, heard) for at, heard in self.sound if isinstance(heard, SoundFlush)]

    async def flushed(self, turn_id: str) -> tuple[float, SoundFlush]:
        """When players were told to stop that response, and by what."""

        def there() -> tuple[float, SoundFlush] | None:
            return next((one for one in self.flushes() if turn_id in one[1].responses), None)

        found: tuple[float, SoundFlush] = await self.until(there, f"the flush of {turn_id}")
        return found

    def words(self) -> str:
        """All that the assistant said or wrote."""
        kinds = ("assistant_transcript", "assistant_text")
        return " ".join(str(one.data.text) for one in self.events if one.kind in kinds)  # type: ignore[union-attr]

    async def close(self) -> None:
        """Hang up and wait for the last event; who only joined leaves."""
        await self.session.__aexit__(None, None, None)
        await asyncio.wait(self._tasks, timeout=3)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Scene:
    """One test's look at a cell: a client, a tape, a command line."""

    def __init__(self, cell: Stack, sockets: Sockets, client: RealtimeClient) -> None:
        self.cell = cell
        self.sockets = sockets
        self.client = client
        self.tape = Tape(cell.endpoints, sockets)
        self.line = Line(cell.endpoints, sockets)
        self.session_was_killed = False
        """Then the tape may have heard nothing at all of the next one."""
        self.transport_was_killed = False
        """Then the tape's own subscription begins anew, and sound has no replay."""
        self._callers = contextlib.AsyncExitStack()

    async def caller(self, *, plays: bool = False, **config: Any) -> Caller:
        """Somebody who talks; with `plays`, a player in real time reports what was heard."""
        caller = Caller(await self.client.connect(config))
        self._callers.push_async_callback(caller.close)
        if plays:
            await self._callers.enter_async_context(Playback(caller.session))
        await caller.opened()
        return caller

    async def caught_up(self, caller: Caller) -> None:
        """Until the tape has all that led to what the caller knows: they listen apart."""
        last = caller.events[-1].seq or 0
        await self.tape.until(
            lambda: any(one["seq"] >= last for one in self.tape.of(caller.id)), f"seq {last}"
        )

    async def end(self) -> None:
        """Every caller hangs up."""
        await self._callers.aclose()


@contextlib.asynccontextmanager
async def scene(cell: Stack, *, errors: Collection[str] = ()) -> AsyncIterator[Scene]:
    """A scene on a cell; at its end the callers hang up and the auditor looks at everything.

    No log may tell of an error, but for those that the test is about."""
    # Here, as the auditor needs the tape's type.
    from tests.end_to_end.auditor import audit  # noqa: PLC0415

    failed: list[Exception] = []
    with Sockets(failed=failed.append) as sockets:
        async with RealtimeClient(cell.run_dir) as client:
            one = Scene(cell, sockets, client)
            await one.tape.ready()
            try:
                yield one
            finally:
                await one.end()
            await audit(one)
    assert not failed, failed
    bugs = [one for one in tracebacks(cell) if not any(f'"{name}"' in one for name in errors)]
    assert not bugs, bugs


def tracebacks(cell: Stack) -> list[str]:
    """Lines in any log of the cell that only a bug writes."""
    found: list[str] = []
    for path in sorted(cell.run_dir.glob("*.log")):
        for line in path.read_text("utf-8", "replace").splitlines():
            if "Traceback" in line or '"exception"' in line or '"level": "error"' in line:
                found.append(f"{path.name}: {line}")
    return found


async def voicebus(
    *arguments: str, within_s: float = 60.0, **environment: str
) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of the command. No key gets in from outside."""
    given = {name: value for name, value in os.environ.items() if not _is_ours(name)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-c", "from voicebus.cli.main import run; run()", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**given, **environment},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), within_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return process.returncode or 0, out.decode(), err.decode()


def _is_ours(name: str) -> bool:
    return name.startswith("VOICEBUS_") or name == "OPENAI_API_KEY"
