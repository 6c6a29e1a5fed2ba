"""A stand-in for the session and transport processes, for tests of programs that use the client.

It binds the real sockets in a run folder and speaks the real protocol, but decides nothing: a test
says what is published and how commands are answered.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from voicebus.bus import ids, topics
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages import events
from voicebus.bus.messages.base import Message, encode, plain, wire_name
from voicebus.bus.messages.commands import Command, CommandError, Opened, Replay, Reply
from voicebus.bus.messages.sound import (
    AssistantAudioDelta,
    AudioEnd,
    AudioFlush,
    AudioFormat,
    SoundWelcome,
)
from voicebus.bus.sockets import Frames, Publisher, Route, Router, Sockets

Answer = Callable[[Command], Any]
"""The data of an ok reply, or a CommandError."""


class FakeCell:
    """A session shard and the transport of the same number of a run folder, moved by a test."""

    def __init__(self, run_dir: str | Path, shard: int = 0) -> None:
        self.shard = shard
        """Make it inside the running loop; it is up at once."""
        self.endpoints = Endpoints(run_dir)
        self.log: dict[str, list[bytes]] = {}
        """Per session the headers of its events, in order: the journal."""
        self.commands: list[Command] = []
        """What came, repeats included."""
        self.voice: list[tuple[dict[str, Any], bytes]] = []
        """The caller's sound frames: header and samples."""
        self.answers: dict[str, Answer] = {}
        """Answers other than the usual ok, by command."""
        self.lose_replies = 0
        """So many of the next replies are not sent."""
        self.replayed = 0
        """How many pages of events were asked for."""
        self.inc = ""
        self._last_on_topic: dict[bytes, int] = {}
        self._sound_seq = 0
        self._over: set[str] = set()
        self._replies: dict[str, Reply] = {}
        self._changed = asyncio.Event()
        self._sockets = Sockets(failed=self._fail)
        self.error: Exception | None = None
        """What a handler of the stand-in raised: a bug in the test."""
        self._router: Router | None = None
        self._events: Publisher | None = None
        self._audio_in = self._sockets.router(self.endpoints.audio_in(self.shard), self._heard)
        at = self.endpoints.audio_out(self.shard)
        self._audio_out = self._sockets.publisher(at, self._welcome_sound)
        self.start()

    # --- the processes ------------------------------------------------------------------------

    def start(self) -> None:
        """The session process comes (back) with the events it had."""
        self.inc = ids.incarnation()
        self._router = self._sockets.router(self.endpoints.commands(self.shard), self._asked)
        self._events = self._sockets.publisher(self.endpoints.events(self.shard), self._welcome)

    def kill(self) -> None:
        """The session process dies: its sockets go, what was in flight is lost."""
        for socket in (self._router, self._events):
            if socket is not None:
                socket.close()
        self._router = self._events = None

    def close(self) -> None:
        """Everything ends."""
        self._sockets.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- what a test says ---------------------------------------------------------------------

    def begin(self) -> str:
        """A session exists."""
        session_id = ids.session_id(self.shard)
        self.log[session_id] = []
        return session_id

    def publish(
        self, session_id: str, *happened: Message, cause: str | None = None, lost: bool = False
    ) -> None:
        """Events happen. `lost`: they are journaled, but nobody gets them live."""
        for data in happened:
            kind = wire_name(type(data))
            topic = topics.event(session_id, kind)
            header = events.EventHeader(
                kind=kind,
                session_id=session_id,
                seq=len(self.log[session_id]) + 1,
                prev=self._last_on_topic.get(topic, 0),
                inc=self.inc,
                at_us=1,
                cause=cause,
                data=plain(data),
            )
            self._last_on_topic[topic] = len(self.log[session_id]) + 1
            raw = encode(header)
            self.log[session_id].append(raw)
            if not lost:
                self.send(topic, raw)

    def send(self, topic: bytes, *frames: bytes) -> None:
        """Frames as they are, on the events socket; nothing if the process is dead."""
        if self._events is not None:
            self._events.publish(topic, frames)

    def repeat(self, session_id: str, seq: int) -> None:
        """An event once more, as after a restart."""
        self.send(topics.event(session_id, "repeated"), self.log[session_id][seq - 1])

    def let_go(self, session_id: str) -> None:
        """It ended long ago: no welcome tells of it any more, and replay still answers."""
        self._over.add(session_id)

    def head(self, session_id: str) -> None:
        """The beacon of each second."""
        self._unnumbered(
            topics.event(session_id, "head"),
            session_id,
            events.Head(seq=len(self.log[session_id])),
        )

    def sound(
        self,
        session_id: str,
        samples: bytes,
        *,
        turn_id: str = "r1",
        item_id: str = "i1",
        offset_samples: int = 0,
        format: AudioFormat = "pcm16",
    ) -> None:
        """A piece of the assistant's voice."""
        header = AssistantAudioDelta(
            session_id=session_id,
            inc="t",
            seq=self._next_sound(),
            turn_id=turn_id,
            item_id=item_id,
            content_index=0,
            format=format,
            offset_samples=offset_samples,
        )
        self._audio(session_id, header, samples)

    def end_sound(
        self, session_id: str, samples: int, *, turn_id: str = "r1", item_id: str = "i1"
    ) -> None:
        """The item's sound is complete."""
        header = AudioEnd(
            session_id=session_id,
            inc="t",
            seq=self._next_sound(),
            turn_id=turn_id,
            item_id=item_id,
            content_index=0,
            samples=samples,
        )
        self._audio(session_id, header)

    def flush(self, session_id: str, responses: Sequence[str] = ("r1",)) -> None:
        """Players stop."""
        header = AudioFlush(
            session_id=session_id,
            inc="t",
            seq=self._next_sound(),
            responses=list(responses),
            why="manual",
        )
        self._audio(session_id, header)

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait for something to come in."""
        while not met():
            self._changed.clear()
            await self._changed.wait()

    def asked(self, command: str) -> list[Command]:
        """The commands of that name, repeats included."""
        return [one for one in self.commands if one.command == command]

    # --- answering ----------------------------------------------------------------------------

    def _asked(self, route: Route, frames: Frames) -> None:
        command = msgspec.json.decode(frames[0], type=Command)
        self.commands.append(command)
        self._changed.set()
        reply = self._replies.get(command.id) or self._answer(command)
        if reply.ok:
            self._replies[command.id] = reply
        if self.lose_replies:
            self.lose_replies -= 1
        elif self._router is not None:
            self._router.send(route, [encode(reply)])

    def _answer(self, command: Command) -> Reply:
        answer = self.answers.get(command.command, self.usual)(command)
        if isinstance(answer, CommandError):
            return Reply(id=command.id, ok=False, error=answer)
        return Reply(id=command.id, ok=True, data=answer)

    def usual(self, command: Command) -> Any:
        """What a command is answered with unless the test says otherwise."""
        session_id = command.session_id
        if command.command == "open":
            return plain(self._opened(self.begin()))
        if session_id is None:
            return {}
        if session_id not in self.log:
            return CommandError(code="no_such_session", message=f"no session {session_id} here")
        match command.command:
            case "attach":
                return plain(self._opened(session_id))
            case "replay":
                return self._page(session_id, command)
            case "close":
                self.publish(session_id, events.SessionClosed(reason="client"), cause=command.id)
            case _:
                pass
        return {}

    def _opened(self, session_id: str) -> Opened:
        return Opened(
            session_id=session_id,
            token=ids.token(),
            transport=f"transport-{self.shard}",
            audio_in=self.endpoints.audio_in(self.shard),
            audio_out=self.endpoints.audio_out(self.shard),
            events=self.endpoints.events(self.shard),
            commands=self.endpoints.commands(self.shard),
        )

    def _page(self, session_id: str, command: Command) -> dict[str, Any]:
        self.replayed += 1
        wanted = msgspec.convert(command.data, Replay)
        log = self.log[session_id]
        last = min(wanted.to_seq or len(log), wanted.from_seq + wanted.limit - 1, len(log))
        found = [msgspec.Raw(raw) for raw in log[wanted.from_seq - 1 : last]]
        return {"events": found, "next": last + 1 if last < len(log) else None}

    def _welcome(self, topic: bytes) -> None:
        heads = {
            session_id: len(log)
            for session_id, log in self.log.items()
            if session_id not in self._over and topics.event(session_id, "").startswith(topic)
        }
        self._unnumbered(topic, "", events.Welcome(heads=heads))

    def _welcome_sound(self, topic: bytes) -> None:
        self._changed.set()
        self._audio_out.publish(topic, [encode(SoundWelcome(session_id="", inc=self.inc))])

    def _unnumbered(
        self, topic: bytes, session_id: str, data: events.Welcome | events.Head
    ) -> None:
        header = events.EventHeader(
            kind=wire_name(type(data)), session_id=session_id, inc=self.inc, data=plain(data)
        )
        self.send(topic, encode(header))

    def listens(self, session_id: str) -> bool:
        """Whether somebody has subscribed to the session's sound."""
        return self._audio_out.wanted(topics.audio(session_id, "out"))

    def _audio(self, session_id: str, header: Message, *payload: bytes) -> None:
        self._audio_out.publish(topics.audio(session_id, "out"), [encode(header), *payload])

    def _next_sound(self) -> int:
        self._sound_seq += 1
        return self._sound_seq

    def _heard(self, route: Route, frames: Frames) -> None:
        self.voice.append((msgspec.json.decode(frames[0]), frames[1]))
        self._changed.set()

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._changed.set()
