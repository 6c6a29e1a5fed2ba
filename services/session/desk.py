"""The desk: takes commands, remembers replies, answers each exactly once."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from voicebus.bus.depth import VALUE_DEPTH_LIMIT
from voicebus.bus.frames import Codec, id_of
from voicebus.bus.messages import commands as c
from voicebus.bus.messages.base import BadMessage, convert, encode
from voicebus.bus.messages.commands import RETRY, Command, CommandError, ErrorCode, Reply
from voicebus.bus.sockets import Frames, Route
from voicebus.config.loader import nearest
from voicebus.services.session.journal import StoredReply

MAX_COMMAND_BYTES = 8 * 1024 * 1024
"""An image may come with `add_item`; nothing else is large."""
_commands: Codec[Command] = Codec(Command, what="command", depth=VALUE_DEPTH_LIMIT)
KEPT_US = 60_000_000
"""How long a reply stays in memory. Then it is read from the journal, should anybody still ask:
thousands of them would fill the process for a retry that nearly always comes within seconds."""
Key = tuple[str, str, str]
"""Session (or none), command, id."""


class Refused(Exception):
    """A command that cannot be done; becomes the reply."""

    def __init__(self, code: ErrorCode, message: str, *, after_ms: int | None = None) -> None:
        super().__init__(message)
        self.error = CommandError(code=code, message=message, retry=RETRY[code], after_ms=after_ms)


class Pending(msgspec.Struct):
    """A command that waits for its reply."""

    key: Key
    body_hash: bytes
    routes: list[Route]
    counted: bool = True
    """Against the limit of who asked first. What a former life owes counts for nobody."""


class Desk:
    """Idempotency by id, in-flight limits, and the way back."""

    def __init__(
        self,
        send: Callable[[Route, bytes], None],
        now_us: Callable[[], int],
        earlier: Callable[[Key], StoredReply | None],
        *,
        memory_us: int,
        in_flight: int,
    ) -> None:
        """`earlier` finds a reply in the journal. A reply counts for `memory_us` after it."""
        self._send = send
        self._now_us = now_us
        self._earlier = earlier
        self._memory_us = memory_us
        self._in_flight = in_flight
        self._pending: dict[Key, Pending] = {}
        self._done: dict[Key, StoredReply] = {}
        """The last replies, oldest first."""
        self._owners: dict[tuple[str, str], Key] = {}
        self._waiting: dict[bytes, int] = {}

    def key_of(self, session_id: str, command_id: str) -> Key | None:
        """The pending command that a conversation answers under this id."""
        return self._owners.get((session_id, command_id))

    def began(self, command_id: str, session_id: str) -> None:
        """An `open` has got its session, which will answer it."""
        self._owners[(session_id, command_id)] = ("", "open", command_id)

    def expect(self, session_id: str, command: str, command_id: str) -> None:
        """A conversation of a former life still owes this reply; a repetition waits for it."""
        key = (session_id, command, command_id)
        self._pending[key] = Pending(key, b"", [], counted=False)
        self._owners[(session_id, command_id)] = key

    def take(self, route: Route, frames: Frames) -> Command | None:
        """A command that is to be done; None when it has been answered here."""
        if len(frames) > 0 and len(frames[0]) > MAX_COMMAND_BYTES:
            self._refuse_unread(
                route,
                "",
                f"a command of {len(frames[0])} bytes; the limit is {MAX_COMMAND_BYTES}",
            )
            return None
        try:
            command, _ = _commands.decode(frames)
        except BadMessage as error:
            self._refuse_unread(route, id_of(frames), str(error))
            return None
        if command.v != 1:
            self._refuse_unread(route, command.id, f"protocol version {command.v}; this is 1")
            return None
        if not 8 <= len(command.id) <= 64:
            self._refuse_unread(
                route, command.id, "id must have 8 to 64 characters; use a ULID or UUID"
            )
            return None
        if command.command not in c.COMMANDS:
            self._refuse_unread(
                route,
                command.id,
                f"unknown command {command.command!r}{nearest(command.command, c.COMMANDS)}",
            )
            return None
        return self._admit(route, command)

    def _admit(self, route: Route, command: Command) -> Command | None:
        key = _key(command)
        body_hash = hashlib.blake2b(encode(command.data), digest_size=16).digest()
        done = self._remembered(key)
        pending = self._pending.get(key)
        known_hash = done.body_hash if done else pending.body_hash if pending else body_hash
        other = self._owners.get((key[0], command.id), key)
        if known_hash not in (body_hash, b"") or other != key:
            self._refuse_unread(
                route,
                command.id,
                f"id {command.id} was used for another {command.command} before",
                "conflict",
            )
            return None
        if done is not None:
            self._send(route, done.reply)
            return None
        if pending is not None:
            pending.routes.append(route)
            return None
        if self._waiting.get(route[0], 0) >= self._in_flight:
            self._refuse_unread(
                route,
                command.id,
                f"{self._in_flight} commands of this client already wait for their replies",
                "busy",
            )
            return None
        self._waiting[route[0]] = self._waiting.get(route[0], 0) + 1
        self._pending[key] = Pending(key, body_hash, [route])
        self._owners[(key[0], command.id)] = key
        return command

    def _remembered(self, key: Key) -> StoredReply | None:
        done = self._done.get(key) or self._earlier(key)
        return done if done and done.at_us >= self._now_us() - self._memory_us else None

    def _refuse_unread(
        self, route: Route, command_id: str, message: str, code: ErrorCode = "bad_request"
    ) -> None:
        error = CommandError(
            code=code, message=message, retry=RETRY[code], after_ms=250 if code == "busy" else None
        )
        self._send(route, encode(Reply(id=command_id, ok=False, error=error)))

    def reply(
        self,
        key: Key,
        data: Any = None,
        *,
        seq: int | None = None,
        error: CommandError | None = None,
    ) -> StoredReply | None:
        """The reply to a pending command, to be journaled and then `release`d."""
        pending = self._pending.get(key)
        if pending is None:
            return None
        reply = Reply(id=key[2], ok=error is None, seq=seq, data=data, error=error)
        return StoredReply(*key, pending.body_hash, encode(reply), self._now_us())

    def release(self, reply: StoredReply, *, remember: bool = True) -> None:
        """Send a reply to everybody who asked."""
        key = (reply.session_id, reply.command, reply.id)
        pending = self._pending.pop(key, None)
        if pending is None:
            return
        for owner in [owner for owner, owned in self._owners.items() if owned == key]:
            del self._owners[owner]
        if pending.counted:
            client = pending.routes[0][0]
            left = self._waiting.get(client, 1) - 1
            if left > 0:
                self._waiting[client] = left
            else:
                self._waiting.pop(client, None)
        if remember:
            self._done[key] = reply
        for route in pending.routes:
            self._send(route, reply.reply)

    def answer(self, command: Command, data: Any = None) -> None:
        """Answer at once what changes nothing and need not be remembered."""
        reply = self.reply(_key(command), data)
        if reply is not None:
            self.release(reply, remember=False)

    def refuse(self, command: Command, error: CommandError) -> None:
        """Refuse at once; a repetition is looked at anew."""
        reply = self.reply(_key(command), error=error)
        if reply is not None:
            self.release(reply, remember=False)

    def forget_old(self, *, journaled: bool) -> None:
        """Leave older replies to the journal, if it has all of them; else keep them to the end of
        their time, and not as long as the disk is full."""
        oldest_us = self._now_us() - (KEPT_US if journaled else self._memory_us)
        while self._done:
            key, reply = next(iter(self._done.items()))
            if reply.at_us >= oldest_us:
                return
            del self._done[key]


def _key(command: Command) -> Key:
    return (command.session_id or "", command.command, command.id)


def typed(command: Command) -> Any:
    """The command's data as its type. Raises BadMessage, with the nearest name of a wrong field."""
    kind = c.COMMANDS[command.command]
    known = kind.__struct_encode_fields__
    for field in command.data:
        if field not in known:
            hint = nearest(field, known) if known else " (it takes none)"
            raise BadMessage(f"{command.command}: data has no field {field!r}{hint}")
    return convert(command.data, kind, what=command.command)
