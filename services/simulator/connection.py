"""One client's connection: reads and writes frames, and does what the conversation wants done."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import orjson
import structlog
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from voicebus.services.simulator import handshake
from voicebus.services.simulator.conversation import Conversation
from voicebus.services.simulator.ears import Judge, Listener, Mark
from voicebus.services.simulator.gate import Began
from voicebus.services.simulator.performer import Voice, perform
from voicebus.services.simulator.scenario import Action
from voicebus.services.simulator.script import Script, filled, put
from voicebus.services.simulator.steps import (
    Answer,
    AnswerEnded,
    Close,
    Effect,
    Feed,
    Hear,
    Listen,
    Question,
    Send,
    Step,
    StopAnswering,
)

_INJECTED = frozenset({"client", "speech_began_ms", "speech_ended_ms", "expire"})
"""Actions that change the conversation, which then says something itself."""
WAITING_FRAMES = 64
"""Performers wait while so many frames have not been written."""
FLOOD_FRAMES = 4096
"""A client that does not read is not read either when so many frames wait for it."""

log = structlog.get_logger("simulator")


class WordFinder(Protocol):
    """Speech to text."""

    async def words(self, sound: bytes, audio_type: str) -> str | None:
        """The words in wire sound; None if this machine cannot hear."""
        ...


@dataclass(frozen=True, kw_only=True)
class Senses:
    """What connections share: voice and ears."""

    voice: Voice
    words: WordFinder
    judge_for: Callable[[str], Judge]
    threads: ThreadPoolExecutor


@dataclass(frozen=True, slots=True)
class _Binary:
    frame: bytes


@dataclass(frozen=True, slots=True)
class _Fragments:
    pieces: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Wait:
    milliseconds: int


_Outgoing = bytes | str | _Binary | _Fragments | _Wait | Close | Callable[[], Awaitable[None]]


class Connection:
    """Serves one client until it goes or is sent away."""

    def __init__(
        self,
        socket: ServerConnection,
        script: Script,
        senses: Senses,
        *,
        models: Sequence[str],
        pace: float,
        session_s: float,
        defaults: Mapping[str, Any],
    ) -> None:
        self._socket = socket
        self._script = script
        self._senses = senses
        self._models = models
        self._pace = pace
        self._session_s = session_s
        self._loop = asyncio.get_running_loop()
        self._query = parse_qs(urlsplit(socket.request.path if socket.request else "").query)
        self._outbox: asyncio.Queue[_Outgoing] = asyncio.Queue()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_silent = asyncio.Event()
        self._held: list[bytes] = []
        self._performers: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_timer: tuple[float, asyncio.TimerHandle] | None = None
        self._listener = Listener(senses.judge_for, senses.threads, self._marked)
        self._conversation = Conversation(
            secrets.token_hex(5),
            self._query.get("model", [""])[0],
            expires_at=int(time.time() + session_s),
            is_transcription=self._query.get("intent") == [handshake.TRANSCRIPTION],
        )
        for path, value in defaults.items():
            put(self._conversation.session, path, value)

    async def run(self) -> None:
        """Serve the client. Raises nothing that a client can cause."""
        self._spawn(self._write())
        session_id = self._conversation.session["id"]
        log.info("conversation.opened", session_id=session_id)
        try:
            refused = handshake.bad_query(self._query, self._models)
            if refused is not None:
                self._do(self._conversation.error(refused))
                self._outbox.put_nowait(Close(4000, f"{refused.kind}.{refused.code}"))
                await self._socket.wait_closed()
                return
            self._do(self._conversation.opened())
            self._act(self._script.opened(), {})
            for after_ms, actions in self._script.timers():
                self._spawn(self._act_later(after_ms, actions))
            self._spawn(self._expire())
            async for frame in self._socket:
                await self._read(frame)
        except ConnectionClosed:
            pass
        except Exception as error:
            log.error("conversation.failed", session_id=session_id, exc_info=error)
            await self._socket.close(1011, "server_error")
        finally:
            self._listener.close()
            if self._idle_timer is not None:
                self._idle_timer[1].cancel()
            for task in (*self._tasks, *self._performers.values()):
                task.cancel()
            log.info("conversation.closed", session_id=session_id, code=self._socket.close_code)

    # Frames in

    async def _read(self, frame: str | bytes) -> None:
        if self._is_silent.is_set():
            await self._socket.wait_closed()
            return
        if isinstance(frame, bytes):
            self._do(self._conversation.client_babbles("Frames must be JSON text, not binary."))
            return
        try:
            event = orjson.loads(frame)
        except orjson.JSONDecodeError as error:
            self._do(self._conversation.client_babbles(f"The frame is not valid JSON: {error}."))
            return
        course = self._script.received(event)
        if len(course.actions) == 1 and course.actions[0].go_on:
            await self._take(course.event)
            return
        meanwhile: list[Action] = []
        for action in course.actions:
            if action.go_on:
                self._act(meanwhile, course.event)
                meanwhile = []
                await self._take(course.event)
            else:
                meanwhile.append(action)
        self._act(meanwhile, course.event)

    async def _take(self, event: Any) -> None:
        kind = event.get("type") if isinstance(event, dict) else None
        if kind in ("input_audio_buffer.commit", "input_audio_buffer.clear", "session.update"):
            # What came before is judged before: else a commit would beat its own sound.
            await self._listener.caught_up()
        try:
            self._do(self._conversation.client_says(event, self._loop.time()))
        except RecursionError:
            self._do(self._conversation.client_babbles("The event is nested too deeply."))
        if self._outbox.qsize() > FLOOD_FRAMES:
            await self._has_room.wait()

    # What the conversation wants

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(event):
                    course = self._script.sending(event)
                    if len(course.actions) == 1 and course.actions[0].go_on:
                        self._post(orjson.dumps(course.event))
                    else:
                        self._act(course.actions, course.event)
                case Answer(question):
                    task = asyncio.create_task(self._perform(question))
                    self._performers[question.response_id] = task
                case StopAnswering(response_id):
                    performer = self._performers.pop(response_id, None)
                    if performer is not None and performer is not asyncio.current_task():
                        performer.cancel()
                case Hear():
                    self._spawn(self._hear(effect))
                case Listen(detection, audio_type, from_ms):
                    self._listener.listen(detection, audio_type, from_ms)
                case Feed(sound):
                    self._listener.feed(sound)
                case Close():
                    self._post(effect)
        self._set_idle_timer()

    async def _perform(self, question: Question) -> None:
        async def report(step: Step) -> None:
            await self._has_room.wait()
            self._do(self._conversation.step(step, self._loop.time()))

        try:
            plan = self._script.plan(question)
            await perform(plan, question, self._senses.voice, report, pace=self._pace)
        except Exception as error:
            log.error("answer.failed", response_id=question.response_id, exc_info=error)
            reason = {
                "type": "server_error",
                "code": "server_error",
                "message": f"The simulator could not answer: {error}",
            }
            self._do(
                self._conversation.step(
                    AnswerEnded(question.response_id, "failed", error=reason), self._loop.time()
                )
            )

    async def _hear(self, hear: Hear) -> None:
        said = self._script.hears()
        words: str | None = None
        why_not = "The audio could not be understood."
        if said is not None:
            await asyncio.sleep(said.delay_ms / 1000)
            words = said.words
        else:
            try:
                words = await self._senses.words.words(hear.sound, hear.audio_type)
            except Exception as error:
                log.error("hearing.failed", exc_info=error)
                why_not = str(error)
        self._do(self._conversation.heard(hear.item_id, words, why_not))

    def _marked(self, mark: Mark) -> None:
        now_s = self._loop.time()
        if isinstance(mark, Began):
            self._do(self._conversation.speech_began(mark.at_ms, now_s))
        else:
            self._do(self._conversation.speech_ended(mark.at_ms, now_s))

    def _set_idle_timer(self) -> None:
        due_s = self._conversation.idle_deadline_s()
        current_s = self._idle_timer[0] if self._idle_timer else None
        if due_s == current_s:
            return
        if self._idle_timer is not None:
            self._idle_timer[1].cancel()
            self._idle_timer = None
        if due_s is not None:
            self._idle_timer = (due_s, self._loop.call_at(due_s, self._idle))

    def _idle(self) -> None:
        self._idle_timer = None
        self._do(self._conversation.clock(self._loop.time() + 0.001))

    async def _expire(self) -> None:
        await asyncio.sleep(self._session_s)
        self._do(self._conversation.expire())

    # What the scenario wants

    async def _act_later(self, after_ms: int, actions: Sequence[Action]) -> None:
        await asyncio.sleep(after_ms / 1000)
        self._act(actions, {})

    def _act(self, actions: Sequence[Action], event: Mapping[str, Any]) -> None:
        for n, action in enumerate(actions):
            if _INJECTED.intersection(action.kinds()):
                # What it makes the server say comes before what the scenario does next.
                self._post(partial(self._inject, action, actions[n + 1 :], event))
                return
            for _ in range(action.times):
                self._act_once(action, event)

    def _act_once(self, action: Action, event: Mapping[str, Any]) -> None:
        ids = self._conversation.ids
        match action.kinds():
            case ["go_on"]:
                self._post(orjson.dumps(event))
            case ["send"]:
                sent = filled(action.send, ids, event)
                sent.setdefault("event_id", self._conversation.new_id("event"))
                self._post(orjson.dumps(sent))
            case ["error"]:
                error = {"type": "invalid_request_error", "code": None, "param": None}
                error |= {"message": "Refused by the scenario.", "event_id": event.get("event_id")}
                error |= filled(action.error, ids, event)
                event_id = self._conversation.new_id("event")
                self._post(orjson.dumps({"type": "error", "event_id": event_id, "error": error}))
            case ["text"]:
                self._post(str(action.text))
            case ["binary"]:
                self._post(_Binary(bytes.fromhex(str(action.binary))))
            case ["text_bytes"]:
                self._post(bytes.fromhex(str(action.text_bytes)))
            case ["fragments"]:
                self._post(_Fragments(action.fragments or ()))
            case ["wait_ms"]:
                self._post(_Wait(int(action.wait_ms or 0)))
            case ["close"]:
                self._post(Close(int(action.close or 1000), action.reason))
            case ["abort"]:
                self._post(self._abort)
            case ["silence"]:
                self._post(self._fall_silent)
            case ["hold"]:
                self._held.append(orjson.dumps(event))
            case ["release"]:
                for frame in self._held:
                    self._post(frame)
                self._held.clear()
            case _:
                pass  # `_act` has injected it.

    async def _inject(
        self, action: Action, rest: Sequence[Action], event: Mapping[str, Any]
    ) -> None:
        for _ in range(action.times):
            self._inject_once(action, event)
        self._act(rest, event)

    def _inject_once(self, action: Action, event: Mapping[str, Any]) -> None:
        now_s = self._loop.time()
        if action.client is not None:
            said = filled(action.client, self._conversation.ids, event)
            self._do(self._conversation.client_says(said, now_s))
        elif action.speech_began_ms is not None:
            self._do(self._conversation.speech_began(action.speech_began_ms, now_s))
        elif action.speech_ended_ms is not None:
            self._do(self._conversation.speech_ended(action.speech_ended_ms, now_s))
        else:
            self._do(self._conversation.expire())

    async def _abort(self) -> None:
        self._socket.transport.abort()

    async def _fall_silent(self) -> None:
        self._is_silent.set()
        with contextlib.suppress(NotImplementedError, RuntimeError):
            self._socket.transport.pause_reading()
        await asyncio.Event().wait()

    # Frames out

    def _post(self, what: _Outgoing) -> None:
        self._outbox.put_nowait(what)
        if self._outbox.qsize() >= WAITING_FRAMES:
            self._has_room.clear()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                match await self._outbox.get():
                    case bytes() as frame:
                        await self._socket.send(frame, text=True)
                    case str() as text:
                        await self._socket.send(text)
                    case _Binary(frame):
                        await self._socket.send(frame)
                    case _Fragments(pieces):
                        await self._socket.send(pieces)
                    case _Wait(milliseconds):
                        await asyncio.sleep(milliseconds / 1000)
                    case Close(code, reason):
                        await self._socket.close(code, reason)
                    case deed:
                        await deed()
                if self._outbox.qsize() < WAITING_FRAMES:
                    self._has_room.set()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
