"""A conversation as a program holds it: say, listen, interrupt, close."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, Awaitable
from types import TracebackType
from typing import Any, Literal, Self

from voicebus.bus import gaps, ids, topics
from voicebus.bus.messages import events
from voicebus.bus.messages.base import BadMessage, plain
from voicebus.bus.messages.commands import (
    Opened,
    Replayed,
    ReportPlayback,
    SessionConfig,
)
from voicebus.bus.messages.sound import RATE_HZ, AudioFormat
from voicebus.bus.sockets import Sockets, Subscriber
from voicebus.client.commands import DEADLINE_S, PAGE, Commander
from voicebus.client.errors import (
    BadSound,
    ClientError,
    CommandRefused,
    NobodyAnswers,
    SessionGone,
    what_to_ask,
)
from voicebus.client.events import Event, RawEvent, decode_raw
from voicebus.client.events import decode as decode_event
from voicebus.client.feed import Feed
from voicebus.client.logs import log
from voicebus.client.resample import Resampler
from voicebus.client.ring import Reader, Ring
from voicebus.client.sound import Heard, Sound, decode
from voicebus.client.voice import Voice

EVENTS_KEPT = 2000
RAW_KEPT = 1000
SOUND_KEPT_BYTES = 16 * 1024 * 1024
"""Almost six minutes of pcm16; more than that means that nobody reads it."""
JOIN_S = 5.0
Right = Literal["talk", "listen", "command"]
EVERY_RIGHT: tuple[Right, ...] = ("talk", "listen", "command")
FAREWELL_S = 3.0
PING_S = 15.0
"""A ping is not put off for longer, however long the lease."""


class RealtimeSession:
    """One conversation. Made by `RealtimeClient.connect` and `attach`.

    Any number of consumers may read events and sound; each sees everything, and a slow one is told
    what it missed. Methods raise `ClientError`s whose text says what to do.
    """

    def __init__(
        self,
        sockets: Sockets,
        commander: Commander,
        opened: Opened,
        *,
        config: dict[str, Any],
        from_seq: int | None = 1,
        owns: bool = True,
        rights: tuple[Right, ...] = EVERY_RIGHT,
    ) -> None:
        """`owns`: leaving the context closes the session; else it only stops listening. Raises
        OSError where this process can open no more sockets."""
        shard = ids.shard_of(opened.session_id)
        if shard is None:
            raise ClientError(f"the session process sent {opened.session_id!r} as a session id")
        self.id = opened.session_id
        self.warnings = tuple(opened.warnings)
        """What the session said about the configuration."""
        self.rights = rights
        """What this program may do here; the session and the transport refuse the rest."""
        self.output_format: AudioFormat = config.get("output_audio_format", "pcm16")
        self._shard = shard
        self._sockets = sockets
        self._commander = commander
        self._opened = opened
        self._owns = owns
        self._instructions: str | None = config.get("instructions")
        self._lease_s = float(config.get("lease_s") or 60.0)
        self._last_sign = asyncio.get_running_loop().time()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._events: Ring[Event] = Ring("events", EVENTS_KEPT, number=lambda event: event.seq)
        self._sound: Ring[Heard] = Ring("sound", SOUND_KEPT_BYTES, cost=_size, keeps_read=False)
        self._sound_claimed = False
        self._raw: Ring[RawEvent] | None = None
        self._healed: list[gaps.Missing] = []
        self._voice = Voice(lambda: sockets, self.id, opened.token, opened.audio_in)
        self._voice.format = config.get("input_audio_format", "pcm16")
        self._resampler: Resampler | None = None
        self._feed = Feed(
            self.id,
            self.replay_page,
            deliver=self._deliver,
            ended=self._end,
            healed=self._healed.append,
            from_seq=from_seq,
        )
        self._lane = topics.event(self.id, "")
        self._events_in = sockets.subscriber([opened.events], [self._lane], self._event_frames)
        self._sound_at = opened.audio_out
        try:
            self._sound_in = self._listen(opened.audio_out)
        except OSError:
            self._events_in.close()
            raise
        self._raw_in: Subscriber | None = None
        self._pinging = asyncio.create_task(self._keep_lease())

    # --- joining and leaving ------------------------------------------------------------------

    async def joined(self, timeout_s: float = JOIN_S) -> Self:
        """Wait until the publisher has confirmed the subscription. Raises NobodyAnswers."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._feed.welcomed.wait()
        except TimeoutError:
            where = self._opened.events
            raise NobodyAnswers(
                f"no welcome on {where} within {timeout_s:g} s: {what_to_ask(where, self._shard)}"
            ) from None
        return self

    async def close(self) -> None:
        """End the conversation, after the sound that was sent; wait for its last event."""
        try:
            if not self._events.is_ended:
                self._say_rest()
                await self._goodbye({"after_n": self._voice.sent} if self._voice.sent else {})
        finally:
            self.stop()  # also when this is cancelled: its pings would keep the session alive

    async def detach(self) -> None:
        """Stop listening; the conversation goes on while somebody keeps its lease."""
        self.stop()

    def stop(self) -> None:
        """As `detach`, at once: readers end, nothing more is sent."""
        self._feed.close()
        self._pinging.cancel()
        for task in list(self._tasks):
            task.cancel()
        self._events_in.close()
        self._sound_in.close()
        self._voice.close()
        if self._raw_in is not None:
            self._raw_in.close()
        self._end_rings(None)

    async def _goodbye(self, data: dict[str, Any]) -> None:
        try:
            await self._ask("close", data)
        except ClientError as error:
            log.info("session.close_unanswered", session_id=self.id, why=str(error))
            return
        with contextlib.suppress(TimeoutError, ClientError):
            async with asyncio.timeout(FAREWELL_S):
                async for _ in self._events.reader(from_now=True):
                    pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await (self.close() if self._owns else self.detach())

    # --- saying -------------------------------------------------------------------------------

    async def send_text(self, text: str) -> str:
        """Say something in writing and have it answered. Returns the `cause` of what follows."""
        return await self._tell("send_text", {"text": text})

    async def send_audio(
        self, sound: bytes | AsyncIterable[bytes], *, rate_hz: int | None = None
    ) -> int:
        """Speak: samples in the session's input format, as they come; the caller sets the pace.

        With `rate_hz` 16-bit samples at that rate are resampled to the provider's (extra `audio`).
        The number of the last frame. Raises BadSound for half a sample. The transport gives no
        reply to sound; it holds up to two seconds until the provider is ready. Once the session is
        over nothing is sent. Raises CommandRefused without the right to talk.
        """
        if "talk" not in self.rights:
            text = f"session {self.id} was joined without the right to talk; attach with it"
            raise CommandRefused("send_audio", "not_allowed", text, retry=False)
        self._sign()
        if isinstance(sound, bytes | bytearray | memoryview):
            return self._say(bytes(sound), rate_hz)
        async for piece in sound:
            if self.is_over:
                break
            self._sign()
            self._say(piece, rate_hz)
        return self._voice.sent

    def _say(self, samples: bytes, rate_hz: int | None) -> int:
        if self.is_over:
            return self._voice.sent
        wanted_hz = RATE_HZ[self._voice.format]
        if self._resampler is not None and self._resampler.from_hz != rate_hz:
            self._say_rest()
        if rate_hz is None or (rate_hz == wanted_hz and self._voice.format == "pcm16"):
            return self._voice.send(samples)
        if self._voice.format != "pcm16":
            raise BadSound(
                f"this session takes {self._voice.format}: send that, "
                "or open it with input_audio_format=pcm16 to have sound resampled"
            )
        if self._resampler is None:
            self._resampler = Resampler(rate_hz, wanted_hz)
        resampled = self._resampler.feed(samples)
        return self._voice.send(resampled) if resampled else self._voice.sent

    def _say_rest(self) -> None:
        """What the resampler holds back of what was said: it waits for samples that do not come."""
        if self._resampler is not None and not self.is_over:
            rest, self._resampler = self._resampler.feed(b"", last=True), None
            self._voice.send(rest)

    async def commit_audio(self, *, respond: bool = True) -> str:
        """Push-to-talk: what was said so far is a turn; have it answered unless told otherwise."""
        self._say_rest()
        return await self._tell("commit_audio", {**self.after_sound(), "respond": respond})

    async def clear_audio(self) -> str:
        """Forget what was said so far and not committed."""
        self._resampler = None
        return await self._tell("clear_audio", self.after_sound())

    async def add_item(self, item: dict[str, Any]) -> str:
        """Put a message, image or piece of history into the conversation; nothing answers it."""
        return await self._tell("add_item", {"item": item})

    async def create_response(self, **overrides: Any) -> str:
        """Have the model answer now, with settings of the provider's for this answer."""
        return await self._tell("create_response", {"overrides": overrides})

    async def interrupt(self) -> str:
        """Stop the assistant: its sound, its response, and the tools that may be stopped."""
        return await self._tell("interrupt")

    async def update(self, **config: Any) -> str:
        """Change the configuration; done when `session_updated` comes with this id as cause."""
        return await self._tell("update", {"config": config})

    async def update_instructions(self, instructions: str) -> str:
        """Change what the assistant was told to be."""
        id = await self.update(instructions=instructions)
        self._instructions = instructions
        return id

    @property
    def instructions(self) -> str | None:
        """As last set through this session object or confirmed by the provider."""
        return self._instructions

    async def submit_tool_output(
        self, call_id: str, result: Any = None, *, error: str | None = None
    ) -> str:
        """The result of a tool that this program runs itself."""
        data = {"call_id": call_id, "result": result, "error": error}
        return await self._tell("submit_tool_output", data)

    async def approve(self, call_id: str, approve: bool, reason: str | None = None) -> str:
        """Allow or deny a call that waits for it."""
        data = {"call_id": call_id, "approve": approve, "reason": reason}
        return await self._tell("approve", data)

    async def report_playback(
        self, report: ReportPlayback, *, deadline_s: float = DEADLINE_S
    ) -> None:
        """What the player has played: every 250 ms and at each stop."""
        await self._ask("report_playback", plain(report), deadline_s=deadline_s)

    @property
    def reports_playback(self) -> bool:
        """Whether what its player plays counts as heard: a mere listener's does not."""
        return "talk" in self.rights or "command" in self.rights

    @property
    def is_over(self) -> bool:
        """Whether the session has ended, or this object has stopped listening."""
        return self._events.is_ended

    @property
    def sent_frames(self) -> int:
        """The number of the last sound frame sent."""
        return self._voice.sent

    def after_sound(self) -> dict[str, Any]:
        """For the data of a command: performed after the sound sent so far, before what follows."""
        return {"after_n": self._voice.command_follows(), "token": self._voice.token}

    @property
    def input_format(self) -> AudioFormat:
        """Of the sound that it takes."""
        return self._voice.format

    @property
    def dropped_ms(self) -> int:
        """Sound of the caller's that found no way to the transport, in milliseconds."""
        return self._voice.dropped_ms

    # --- asking -------------------------------------------------------------------------------

    async def snapshot(self) -> dict[str, Any]:
        """The state now: heads, epoch, link, configuration, items, open calls, responses."""
        data = await self._ask("snapshot")
        return data if isinstance(data, dict) else {}

    async def replay(self, first: int = 1, last: int | None = None) -> list[Event]:
        """Events again, from the session's memory or journal."""
        found: list[Event] = []
        at: int | None = first
        while at is not None and (last is None or at <= last):
            page = await self.replay_page(at, last)
            found += [decode_event(bytes(raw)) for raw in page.events]
            at = page.next
        return found

    async def replay_page(self, first: int, last: int | None = None, limit: int = PAGE) -> Replayed:
        """At most 200 events as they were published, and where to go on."""
        self._sign()
        token = self._opened.token
        return await self._commander.replay(self.id, first, last, limit, token=token)

    async def ping(self) -> None:
        """Is anybody there? Also renews the lease."""
        await self._ask("ping")

    # --- listening ----------------------------------------------------------------------------

    def events(self, *, from_now: bool = False) -> Reader[Event]:
        """Every event once, in order, from the first that this object saw, until the last.

        Registered when called: with `from_now`, call it before the command whose events you want,
        as they may come before its reply. A consumer that is 2000 events behind is told so by
        `Lagged`, after which iterating goes on. Ends after `session_closed`; raises SessionGone if
        that is lost.
        """
        return self._events.reader(from_now=from_now)

    def audio_output(self) -> Reader[Heard]:
        """The assistant's sound: pieces, ends and flushes, in order.

        The first consumer also gets what came before it; others start with what comes next.
        """
        first, self._sound_claimed = not self._sound_claimed, True
        return self._sound.reader(from_now=not first)

    def raw_events(self) -> Reader[RawEvent]:
        """The provider's own frames from now on, in both directions; sound is left out."""
        if self._raw is None:
            self._raw = Ring("raw events", RAW_KEPT, keeps_read=False)
            if self._events.is_ended:
                self._raw.close()
            else:
                self._raw_in = self._sockets.subscriber(
                    [self._opened.events], [topics.raw(self.id, "")], self._raw_frames
                )
        return self._raw.reader(from_now=True)

    @property
    def healed(self) -> tuple[gaps.Missing, ...]:
        """The stretches of events that had to be fetched again so far."""
        return tuple(self._healed)

    # --- inside -------------------------------------------------------------------------------

    async def _tell(self, command: str, data: dict[str, Any] | None = None) -> str:
        id = ids.ulid()
        await self._ask(command, data, id=id)
        return id

    async def _ask(
        self,
        command: str,
        data: dict[str, Any] | None = None,
        *,
        id: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Any:
        self._sign()
        reply = await self._commander.ask(
            self._shard,
            command,
            data,
            session_id=self.id,
            token=self._opened.token,
            id=id,
            deadline_s=deadline_s,
        )
        return reply.data

    def _sign(self) -> None:
        self._last_sign = asyncio.get_running_loop().time()

    async def _keep_lease(self) -> None:
        """A ping whenever nothing else was sent for a third of the lease."""
        pause = min(self._lease_s / 3, PING_S)
        loop = asyncio.get_running_loop()
        while True:
            rest = self._last_sign + pause - loop.time()
            if rest > 0:
                await asyncio.sleep(rest)
                continue
            try:
                await self.ping()
            except ClientError as error:
                if getattr(error, "code", None) == "no_such_session":
                    self._end(SessionGone(f"session {self.id} is gone: {error}"))
                    return
                log.warning("ping.failed", session_id=self.id, why=str(error))

    def in_background(self, work: Awaitable[None]) -> None:
        """Do it without waiting; a failure is logged, and leaving the session ends it."""

        async def run() -> None:
            try:
                await work
            except ClientError as error:
                log.warning("command.failed", session_id=self.id, why=str(error))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _event_frames(self, frames: list[bytes]) -> None:
        if len(frames) > 1:
            self._feed.receive(frames[1])

    def _raw_frames(self, frames: list[bytes]) -> None:
        if self._raw is None or len(frames) < 2:
            return
        try:
            event = decode_raw(frames[1:])
        except BadMessage as error:
            log.warning("raw.dropped", session_id=self.id, why=str(error))
            return
        if event is not None:
            self._raw.put(event)

    def _sound_frames(self, frames: list[bytes]) -> None:
        try:
            heard = decode(frames[1:])
        except BadMessage as error:
            log.warning("sound.dropped", session_id=self.id, why=str(error))
            return
        if heard is not None:
            self._sound.put(heard)

    def _listen(self, endpoint: str) -> Subscriber:
        return self._sockets.subscriber(
            [endpoint], [topics.audio(self.id, "out")], self._sound_frames
        )

    def _deliver(self, event: Event) -> None:
        match event.data:
            case events.SessionResumed():
                self._voice.move(event.data.audio_in)
                if event.data.audio_out != self._sound_at:
                    self._sound_in.close()
                    self._sound_at = event.data.audio_out
                    self._sound_in = self._listen(self._sound_at)
            case events.SessionUpdated(instructions=instructions, lease_s=lease_s):
                self._updated(instructions, lease_s)
            case _:
                pass
        self._events.put(event)

    def _updated(self, instructions: str | None, lease_s: float | None) -> None:
        if instructions is not None:
            self._instructions = instructions
        if lease_s is not None and lease_s != self._lease_s and not self.is_over:
            self._lease_s = lease_s
            self._pinging.cancel()
            self._pinging = asyncio.create_task(self._keep_lease())

    def _end(self, error: Exception | None) -> None:
        self._pinging.cancel()
        self._end_rings(error)

    def _end_rings(self, error: Exception | None) -> None:
        self._events.close(error)
        self._sound.close()
        if self._raw is not None:
            self._raw.close()


def as_config(config: SessionConfig | dict[str, Any] | None) -> dict[str, Any]:
    """The configuration as it travels; checking it is the session's work."""
    if config is None:
        return {}
    return plain(config) if isinstance(config, SessionConfig) else dict(config)


def _size(heard: Heard) -> int:
    return 64 + (len(heard.samples) if isinstance(heard, Sound) else 0)
