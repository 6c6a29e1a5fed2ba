"""The reception: commands that clients send, each answered exactly once.

What only looks is answered here. What changes a conversation becomes an input of it; its core
decides, and the reply is made out when the journal has it.
"""

import asyncio
import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import msgspec

from voicebus.bus import ids
from voicebus.bus.messages import commands as c
from voicebus.bus.messages.base import BadMessage
from voicebus.bus.sockets import Frames, Route, Sent
from voicebus.config.settings import SessionSettings
from voicebus.services.runtime import Runtime
from voicebus.services.session import configuration, views
from voicebus.services.session.conversation import Conversation
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import rights
from voicebus.services.session.core.commands import CORE_COMMANDS
from voicebus.services.session.desk import MAX_COMMAND_BYTES, Desk, Key, Refused, typed
from voicebus.services.session.journal import Journal, StoredReply
from voicebus.services.session.links import TransportLink
from voicebus.services.session.pool import ToolPool
from voicebus.services.session.providers.base import Translator
from voicebus.services.session.providers.vendors import TRANSLATORS
from voicebus.services.session.shelf import SchemaShelf

TOOL_WAIT_S = 3.0
"""How long `open` waits for a tool that is named and not there yet."""
UPDATABLE = frozenset(configuration.FIELDS) - configuration.FIXED
PAGE_LIMIT = 200


class _Opening(NamedTuple):
    """An `open` that waits for a tool."""

    command: c.Command
    until_s: float
    timer: asyncio.TimerHandle


class House(Protocol):
    """What the reception needs of the shard it stands in."""

    conversations: dict[str, Conversation]
    links: dict[int, TransportLink]
    pool: ToolPool
    journal: Journal
    journal_lost: bool

    def now_us(self) -> int:
        """Unix microseconds that never run backwards."""

    def feed(self, conversation: Conversation, event: i.AnyInput) -> None:
        """An input for a conversation."""

    def least_loaded(self) -> TransportLink:
        """The transport for a new conversation."""


class Reception:
    """Takes commands for one shard."""

    def __init__(self, runtime: Runtime[SessionSettings], house: House) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._number = runtime.instance
        self._house = house
        self._opening: dict[str, _Opening] = {}
        """By command id, those that wait for a tool."""
        self._touched_us: dict[str, int] = {}
        self.draining = False
        self.desk = Desk(
            self._send_reply,
            house.now_us,
            self._earlier,
            memory_us=int(self._settings.reply_memory_s * 1_000_000),
            in_flight=self._settings.in_flight,
        )
        self._schemas = SchemaShelf(self.desk)
        self._pong = c.Pong(inc=runtime.inc, shard=self._number)

    def bind(self) -> None:
        """From here on commands come in."""
        self._commands = self._runtime.sockets.router(
            self._runtime.endpoints.commands(self._number),
            self._commanded,
            max_frame_bytes=2 * MAX_COMMAND_BYTES,
        )

    def catalogue_changed(self) -> None:
        """Who waited for a tool may go on."""
        for waiting in tuple(self._opening.values()):
            waiting.timer.cancel()
            self._open_again(waiting.command, waiting.until_s)

    def forget(self, session_id: str) -> None:
        """A conversation has left the memory."""
        self._touched_us.pop(session_id, None)

    def _earlier(self, key: Key) -> StoredReply | None:
        """A reply that only the journal has. Where it cannot be read, the command counts as new:
        to hang up or interrupt must work on a broken disk, too."""
        try:
            return self._house.journal.reply(*key)
        except sqlite3.Error as error:
            self._runtime.log.warning("journal.not_read", why=str(error))
            return None

    def _send_reply(self, route: Route, reply: bytes) -> None:
        if self._commands.send(route, [reply]) is not Sent.OK:
            self._runtime.count("replies_undeliverable")

    def _commanded(self, route: Route, frames: Frames) -> None:
        command = self.desk.take(route, frames)
        if command is not None:
            self._guard(command, self._perform, command)

    def _guard(self, command: c.Command, perform: Any, *arguments: Any) -> None:
        """Whatever is wrong with a command becomes its reply."""
        try:
            perform(*arguments)
        except Refused as refused:
            self.desk.refuse(command, refused.error)
        except BadMessage as error:
            self.desk.refuse(command, Refused("bad_request", str(error)).error)
        except sqlite3.Error as error:
            self._runtime.log.error("journal.not_read", why=str(error))
            why = f"the journal {self._house.journal.path} cannot be read: {error}"
            self.desk.refuse(command, Refused("internal", why).error)

    def _perform(self, command: c.Command) -> None:
        data = typed(command)
        match data:
            case c.Open():
                self._open(command, data)
            case c.List():
                sessions = [
                    views.summary(one, self._house.now_us())
                    for one in self._house.conversations.values()
                    if one.ended_us is None
                ]
                self.desk.answer(command, c.Listed(sessions=sessions))
            case c.Catalogue():
                tools = list(self._house.pool.catalogue.values())
                self.desk.answer(command, c.Offered(tools=tools))
            case c.Ping() if command.session_id is None:
                self.desk.answer(command, self._pong)
            case c.Replay():
                self._replay(command, data)
            case c.Schema():
                self._schemas.answer(command, data)
            case _:
                self._in_session(command, data)

    def _in_session(self, command: c.Command, data: Any) -> None:
        conversation = self._found(command)
        if conversation.ended_us is not None and not isinstance(data, c.Snapshot):
            raise Refused("gone", f"session {conversation.session_id} has ended")
        why = rights.why_not(conversation.state, command.token, command.command)
        if why is not None:
            raise Refused("not_allowed", why)
        now_us = self._house.now_us()
        match data:
            case c.Ping():
                if rights.is_talker(conversation.state, command.token):
                    self._touch(conversation, now_us)
                self.desk.answer(command, self._pong)
            case c.Snapshot():
                self.desk.answer(command, views.snapshot(conversation, now_us))
            case c.Attach():
                self._attach(command, data, conversation)
            case c.Update():
                self._update(command, data, conversation)
            case _ if command.command in CORE_COMMANDS:
                self._house.feed(
                    conversation,
                    i.Commanded(
                        now_us=now_us,
                        command_id=command.id,
                        command=command.command,
                        data=command.data,
                    ),
                )
            case _:
                raise Refused("unsupported", f"{command.command} is not supported yet")

    def _found(self, command: c.Command) -> Conversation:
        session_id = command.session_id
        if session_id is None:
            raise Refused("bad_request", f"{command.command} needs a session_id")
        shard = ids.shard_of(session_id)
        if shard is None:
            raise Refused(
                "bad_request", f"{session_id!r} is no session id (s<shard>-<26 characters>)"
            )
        if shard != self._number:
            raise Refused("moved", f"session {session_id} lives at session-{shard}")
        conversation = self._house.conversations.get(session_id)
        if conversation is None:
            if self._house.journal.last_seq(session_id) is not None:
                raise Refused("gone", f"session {session_id} has ended; replay still answers")
            raise Refused("no_such_session", f"there is no session {session_id} here")
        return conversation

    def _touch(self, conversation: Conversation, now_us: int) -> None:
        """Pings renew the lease; one in a while is enough."""
        last_us = self._touched_us.get(conversation.session_id, 0)
        if now_us - last_us > conversation.state.config.lease_s * 250_000:
            self._touched_us[conversation.session_id] = now_us
            self._house.feed(conversation, i.TalkerSeen(now_us=now_us))

    def _open(self, command: c.Command, data: c.Open, until_s: float | None = None) -> None:
        """`until_s`: when the wait of one that has waited before is over, in the loop's time."""
        if self.draining or self._runtime.is_leaving:
            raise Refused("draining", f"session-{self._number} is being stopped", after_ms=1000)
        if self._house.journal_lost:
            why = f"the journal {self._house.journal.path} cannot be written"
            raise Refused("busy", f"{why}; free the disk or make it writable", after_ms=2000)
        live = sum(1 for one in self._house.conversations.values() if one.ended_us is None)
        if live >= self._settings.max_sessions:
            raise Refused(
                "busy",
                f"session-{self._number} holds {live} sessions, its limit (max_sessions) is "
                f"{self._settings.max_sessions}",
                after_ms=1000,
            )
        config, warnings = configuration.check(data.config)
        translator = TRANSLATORS.get(config.provider)
        if translator is None:
            known = ", ".join(TRANSLATORS)
            raise Refused("unsupported", f"no provider {config.provider!r} (known: {known})")
        cannot = configuration.unsupported(config, translator.capabilities)
        if cannot is not None:
            raise Refused("unsupported", cannot)
        tools = configuration.resolve(config.tools, self._house.pool.catalogue)
        if tools.missing or (not self._house.pool.known and config.tools == "*"):
            loop = asyncio.get_running_loop()
            until_s = loop.time() + TOOL_WAIT_S if until_s is None else until_s
            if loop.time() < until_s:
                timer = loop.call_at(until_s, self._open_again, command, 0.0)
                self._opening[command.id] = _Opening(command, until_s, timer)
                return
        if tools.missing:
            raise self._unavailable(tools.missing, after_ms=1000)
        if config.tools and not self._house.pool.known:
            warnings.append("no tool pool answers: this session has no tools")
        self._begin(command, config, warnings, tools, translator)

    def _unavailable(self, missing: Iterable[str], after_ms: int | None = None) -> Refused:
        known = ", ".join(sorted(self._house.pool.catalogue)) or "none"
        return Refused(
            "tool_unavailable",
            f"no worker offers {', '.join(missing)} (there are: {known}); see voicebus status",
            after_ms=after_ms,
        )

    def _open_again(self, command: c.Command, until_s: float) -> None:
        del self._opening[command.id]
        self._guard(command, self._open, command, typed(command), until_s)

    def _begin(
        self,
        command: c.Command,
        config: c.SessionConfig,
        warnings: list[str],
        tools: configuration.Tools,
        translator: Translator,
    ) -> None:
        now_us = self._house.now_us()
        session_id = ids.session_id(self._number)
        conversation = Conversation(
            session_id, translator, self._runtime.inc, self._settings.ring_events, now_us
        )
        self._house.conversations[session_id] = conversation
        transport = self._house.least_loaded()
        token = ids.token()
        opened = self._opened(session_id, token, transport, warnings)
        self.desk.began(command.id, session_id)
        self._house.feed(
            conversation,
            i.SessionRequested(
                now_us=now_us,
                command_id=command.id,
                session_id=session_id,
                config=config,
                tools=tools.specs,
                client_tools=tools.client,
                transport=transport.transport,
                token=token,
                vendor=translator.name,
                model=config.model or self._model_of(translator),
                opened=msgspec.to_builtins(opened),
                capabilities=translator.capabilities,
            ),
        )

    def _model_of(self, translator: Translator) -> str:
        """The setting names a model of OpenAI's; another vendor is asked for one of its own."""
        is_named = translator.default_model == SessionSettings().model
        return self._settings.model if is_named else translator.default_model

    def _opened(
        self, session_id: str, token: str, transport: TransportLink, warnings: list[str]
    ) -> c.Opened:
        return c.Opened(
            session_id=session_id,
            token=token,
            transport=f"transport-{transport.transport}",
            audio_in=transport.audio_in,
            audio_out=transport.audio_out,
            events=self._runtime.endpoints.events(self._number),
            commands=self._runtime.endpoints.commands(self._number),
            warnings=warnings,
        )

    def _attach(self, command: c.Command, data: c.Attach, conversation: Conversation) -> None:
        why = rights.too_many(conversation.state, command.token, data)
        if why is not None:
            raise Refused("not_allowed", why)
        token = ids.token()
        transport = self._house.links[conversation.state.transport]
        opened = self._opened(conversation.session_id, token, transport, [])
        self._house.feed(
            conversation,
            i.Attached(
                now_us=self._house.now_us(),
                command_id=command.id,
                token=token,
                talk="talk" in data.rights,
                command="command" in data.rights,
                opened=msgspec.to_builtins(opened),
            ),
        )

    def _update(self, command: c.Command, data: c.Update, conversation: Conversation) -> None:
        fixed = sorted(set(data.config) & configuration.FIXED)
        if fixed:
            raise Refused(
                "unsupported",
                f"{', '.join(fixed)} cannot change while a session is open "
                f"(can: {', '.join(sorted(UPDATABLE))})",
            )
        idle = sorted(set(data.config) & configuration.ANSWERS)
        if idle and conversation.state.config.session_type == "transcription":
            raise Refused(
                "unsupported",
                f"{', '.join(idle)}: a transcription session has no answers (session_type) that "
                "this could change; leave it out, or open a realtime session",
            )
        config, _ = configuration.check(data.config, conversation.state.config)
        cannot = configuration.unsupported(config, conversation.state.capabilities)
        if cannot is not None:
            raise Refused("unsupported", cannot)
        tools = configuration.resolve(config.tools, self._house.pool.catalogue)
        if "tools" in data.config and tools.missing:
            raise self._unavailable(tools.missing)
        self._house.feed(
            conversation,
            i.UpdateRequested(
                now_us=self._house.now_us(),
                command_id=command.id,
                config=config,
                fields=[field for field in data.config if field != "temperature"],
                tools=tools.specs,
                client_tools=tools.client,
            ),
        )

    def _replay(self, command: c.Command, data: c.Replay) -> None:
        if command.session_id is None:
            raise Refused("bad_request", "replay needs a session_id")
        if not 1 <= data.limit <= PAGE_LIMIT:
            raise Refused("bad_request", f"limit={data.limit}: use 1 to {PAGE_LIMIT}")
        if data.from_seq < 1:
            raise Refused("bad_request", f"from={data.from_seq}: events count from 1")
        conversation = self._house.conversations.get(command.session_id)
        last = (
            conversation.head
            if conversation is not None
            else self._house.journal.last_seq(command.session_id)
        )
        if last is None:
            self._found(command)
            raise Refused("no_such_session", f"there is no session {command.session_id}")
        until = min(last, data.to_seq if data.to_seq is not None else last)
        page = self._page(conversation, command.session_id, data.from_seq, until, data.limit)
        following = data.from_seq + len(page)
        self.desk.answer(
            command,
            c.Replayed(
                events=[msgspec.Raw(header) for header in page],
                next=following if following <= until and page else None,
            ),
        )

    def _page(
        self, conversation: Conversation | None, session_id: str, first: int, last: int, limit: int
    ) -> list[bytes]:
        """From memory what is in memory and committed, else from the journal."""
        if first > last:
            return []
        ring = conversation.ring if conversation is not None else ()
        if ring and ring[0][0] <= first:
            return views.page((header for seq, header in ring if first <= seq <= last), limit)
        page = views.page(self._house.journal.events(session_id, first, last, limit), limit)
        if not page:
            raise Refused("gone", f"the events from {first} on are not kept any more")
        return page
