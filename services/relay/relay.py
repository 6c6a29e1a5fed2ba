"""The relay's shell: three doors by TCP, and the cell's own sockets behind them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from voicebus.bus import curve, ids, topics
from voicebus.bus.depth import VALUE_DEPTH_LIMIT
from voicebus.bus.frames import Codec, id_of
from voicebus.bus.messages.base import BadMessage, encode
from voicebus.bus.messages.commands import RETRY, Command, CommandError, ErrorCode, Reply
from voicebus.bus.messages.remote import SubscriptionRefused
from voicebus.bus.messages.sound import SoundIn
from voicebus.bus.sockets import Dealer, Frames, Route, Sent, Subscriber
from voicebus.config import clients as known
from voicebus.config.clients import Client
from voicebus.config.loader import BadSettings
from voicebus.config.settings import RelaySettings
from voicebus.services.limits import Buckets
from voicebus.services.relay import permissions
from voicebus.services.relay.connections import Connections
from voicebus.services.relay.owners import Owners
from voicebus.services.relay.subscriptions import Subscriptions
from voicebus.services.runtime import Runtime

OPENED_KEPT = 10_000
FLOODING_KEPT = 1000
CUT_OFF_S = 2.0
"""How long a client whose connection was ended for its flood gets no other one."""
ELSEWHERE = frozenset({"busy", "draining"})
"""Refusals of one session process that say nothing about the others."""
PENDING_S = 60.0
"""A command that was not answered by then is forgotten; its client asks again anyway."""
ANYBODY = Client(
    name="local", public="", lanes=known.LANES, sessions=("*",), commands=("*",), talk=True
)
"""Whoever comes without CURVE, on a loopback address."""

_commands: Codec[Command] = Codec(Command, what="command", depth=VALUE_DEPTH_LIMIT)
_sounds: Codec[SoundIn] = Codec(SoundIn, what="sound-in")
_replies = msgspec.json.Decoder(Reply)


@dataclass
class Pending:
    """A command that was passed on."""

    command: Command
    route: Route
    until_s: float
    shards: tuple[int, ...]
    """The session processes that have it now."""
    full: tuple[int, ...] = ()
    """Those that had no room for it."""
    sessions: dict[int, list[Any]] = field(default_factory=dict)
    """What each has answered to `list` so far."""


class Relay:
    """Knows the clients, asks what they may, and passes on what they say and hear."""

    def __init__(self, runtime: Runtime[RelaySettings], secret: str | None) -> None:
        self._runtime = runtime
        self._settings = settings = runtime.settings
        self._log = runtime.log
        self._loop = asyncio.get_running_loop()
        self._by_key: dict[str, Client] = {}
        self._by_name: dict[str, Client] = {}
        self._keys = Path(settings.keys)
        self._secret = secret
        self._read_clients()
        self._owners = Owners(runtime.endpoints.run_dir / "relay-0.owners")
        self._subscriptions = Subscriptions(settings.subscriptions)
        self._connections = Connections(
            in_all=settings.connections,
            from_one=settings.connections_per_address,
            per_s=settings.handshakes_per_s,
        )
        self._commands_rate = Buckets(settings.commands_per_s)
        self._sound_rate = Buckets(settings.sound_bytes_per_s)
        self._subscriptions_rate = Buckets(settings.subscriptions_per_s)
        self._flooding: dict[str, None] = {}
        """Connections that are being ended; what has come by them is still read."""
        self._cut_off_until: dict[str, float] = {}
        """Clients that have sent too many, and when they may connect again."""
        self._pending: dict[tuple[str, str], Pending] = {}
        self._in_flight: dict[str, int] = {}
        self._opened: dict[tuple[str, str], int] = {}
        """Where an `open` was performed, if that was not its first choice."""
        self._homes: dict[str, int] = {}
        """Session -> transport, as far as replies and events have told."""
        self._dealers: dict[tuple[str, int], Dealer] = {}
        self._told: dict[tuple[str, str], float] = {}
        where = settings.public_host or settings.bind
        self._addresses = _addresses(runtime, where, settings.port)
        self._inside = self._listen_inside()
        self._voices = [
            runtime.sockets.dealer(runtime.endpoints.audio_in(n), lambda _: None, name="relay")
            for n in range(runtime.cell.transports)
        ]
        curve.gate(runtime.sockets, self._admit)  # before anything that it guards
        self._publisher, self._door = self._open_doors(secret)

    def _listen_inside(self) -> dict[str, Subscriber]:
        """Lane -> who hears it, of nothing yet. Each publisher is only asked for what it has, so
        that only its owner answers."""
        endpoints, cell = self._runtime.endpoints, self._runtime.cell

        def listening(addresses: list[str]) -> Subscriber:
            return self._runtime.sockets.subscriber(addresses, [], self._published)

        said = listening([endpoints.events(n) for n in range(cell.shards)])
        sound = listening([endpoints.audio_out(n) for n in range(cell.transports)])
        counts = {"session": cell.shards, "transport": cell.transports}
        states = listening(
            [
                endpoints.state(role, n)
                for role in ("session", "transport", "dispatcher", "toolhost", "health")
                for n in range(counts.get(role, 1))
            ]
        )
        return dict.fromkeys(known.LANES, said) | {"audio": sound, "system": states}

    def _open_doors(self, secret: str | None) -> tuple[curve.GuardedPublisher, curve.GuardedRouter]:
        """Those for events and for commands; nothing is ever said at the one for sound."""
        settings, sockets = self._settings, self._runtime.sockets
        arrivals = curve.Arrivals(self._arrived, self._connections.left)

        def address(n: int) -> str:
            return f"tcp://{settings.bind}:{settings.port + n}"

        def door(n: int, receive: Callable[[str, Route, Frames], None]) -> curve.GuardedRouter:
            return curve.GuardedRouter(
                sockets,
                address(n),
                receive,
                arrivals=arrivals,
                secret=secret,
                max_message_bytes=settings.max_message_bytes,
            )

        publisher = curve.GuardedPublisher(
            sockets, address(0), self._asked, self._left, arrivals=arrivals, secret=secret
        )
        commands = door(1, self._commanded)
        door(2, self._spoken)
        return publisher, commands

    async def every_second(self) -> None:
        """Notice new and changed clients; forget what nobody answered."""
        while True:
            await asyncio.sleep(1.0)
            self._read_clients()
            now_s = self._loop.time()
            for key in [key for key, one in self._pending.items() if one.until_s < now_s]:
                self._forget(key)

    # --- who ----------------------------------------------------------------------------------

    def _read_clients(self) -> None:
        if self._secret is None:
            self._by_name = {ANYBODY.name: ANYBODY}
            return
        try:
            self._by_key = known.clients(self._keys)
        except BadSettings as error:
            # Those who are known stay; whoever is being changed must not lock out the others.
            self._tell_once("clients.unreadable", "", why=str(error))
            return
        self._by_name = {client.name: client for client in self._by_key.values()}

    def _admit(self, mechanism: str, key: str, address: str) -> str | None:
        if self._secret is None:
            return ANYBODY.name if mechanism == "NULL" else None
        client = self._by_key.get(key) if mechanism == "CURVE" else None
        if client is None and mechanism == "CURVE":
            self._read_clients()  # it may have been added just now
            client = self._by_key.get(key)
        if client is None:
            self._runtime.count("handshakes_refused")
            self._tell_once("handshake.refused", address, key=key, mechanism=mechanism)
            return None
        return "" if self._cut_off_until.get(client.name, 0.0) > self._loop.time() else client.name

    def _arrived(self, key: tuple[int, int], address: str) -> bool:
        """Whether a connection may stay, before it has said who it is."""
        limit = self._connections.came(key, address, self._loop.time())
        if limit is not None:
            self._runtime.count("connections_refused")
            self._tell_once("connection.refused", address, limit=limit)
        return limit is None

    def _tell_once(self, event: str, who: str, **what: Any) -> None:
        """In the log, at most once a minute for each."""
        now_s = self._loop.time()
        if now_s - self._told.get((event, who), -60.0) >= 60.0:
            if len(self._told) > 1000:
                self._told.clear()
            self._told[event, who] = now_s
            self._log.warning(event, who=who, **what)

    # --- listening ----------------------------------------------------------------------------

    def _asked(self, name: str, connection: str, topic: bytes) -> bytes | None:
        if self._is_flooding(name, connection):
            self._subscriptions.refuse(name, connection, topic)
            return None
        client = self._by_name.get(name)
        if not self._subscriptions.has_room(name):
            self._subscriptions.refuse(name, connection, topic)
            return self._turn_away(
                name,
                topic,
                "busy",
                f"client {name!r} has {self._settings.subscriptions} subscriptions, its limit: "
                "subscribe to shorter prefixes",
            )
        if client is None or not permissions.may_subscribe(client, topic, self._owners.of(name)):
            self._subscriptions.refuse(name, connection, topic)
            allowed = client or ANYBODY
            return self._turn_away(
                name,
                topic,
                "not_allowed",
                f"client {name!r} may not subscribe to {topic.decode('utf-8', 'replace')[:100]!r} "
                f"(lanes: {', '.join(allowed.lanes)}; sessions: {', '.join(allowed.sessions)})"
                if client
                else f"client {name!r} is not known any more",
            )
        if self._subscriptions.admit(name, connection, topic):
            # The publisher inside answers it with a welcome, which comes back on this topic.
            self._lane(topic).subscribe(topic)
        return topic

    def _is_flooding(self, name: str, connection: str) -> bool:
        """Whether subscriptions come by this connection faster than its client may."""
        if connection in self._flooding:
            return True
        if not self._subscriptions_rate.take(name, 1, self._loop.time()):
            return False
        self._flooding[connection] = None
        self._cut_off_until[name] = self._loop.time() + CUT_OFF_S
        if len(self._flooding) > FLOODING_KEPT:
            del self._flooding[next(iter(self._flooding))]
        self._runtime.count("subscribers_cut_off")
        limit = f"subscriptions_per_s={self._settings.subscriptions_per_s}"
        self._tell_once("subscriber.cut_off", name, limit=limit)
        return True

    def _lane(self, topic: bytes) -> Subscriber:
        """An admitted topic names its lane whole."""
        return self._inside[topic.partition(b"/")[0].decode("ascii")]

    def _turn_away(self, name: str, topic: bytes, code: str, why: str) -> bytes:
        """Admit to nothing but the word that says no."""
        self._runtime.count("subscriptions_refused")
        self._tell_once("subscription.refused", name, code=code)
        place = _refusal_place(topic, name)
        refused = SubscriptionRefused(
            client=name,
            topic=topic.decode("utf-8", "replace"),
            code=code,
            message=why,
            at_us=time.time_ns() // 1000,
        )
        self._loop.call_soon(self._publisher.publish, place, [encode(refused)])
        return place

    def _left(self, name: str | None, connection: str, topic: bytes) -> bytes | None:
        if name is None:
            admitted = self._subscriptions.ended(topic)
        elif self._subscriptions.was_refused(connection, topic):
            self._subscriptions.left(connection, topic)
            return _refusal_place(topic, name)
        else:
            admitted = self._subscriptions.left(connection, topic)
        if not admitted:
            return None
        self._lane(topic).unsubscribe(topic)
        return topic

    def _published(self, frames: list[bytes]) -> None:
        topic = frames[0]
        if topic.endswith(b"/session_resumed") and len(frames) > 1:
            self._note_home(topic, frames[1])
            frames = [topic, self._outside(frames[1])]
        self._publisher.publish(topic, frames[1:])

    def _note_home(self, topic: bytes, header: bytes) -> None:
        parts = topics.parse(topic)
        try:
            moved = msgspec.json.decode(header)["data"]["transport"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            return
        if parts is not None:
            self._settle(parts.owner, moved)

    def _settle(self, session_id: str, transport: object) -> None:
        number = str(transport).rpartition("-")[2]
        if number.isdigit() and int(number) < len(self._voices):
            self._homes.pop(session_id, None)
            self._homes[session_id] = int(number)
            if len(self._homes) > 20_000:
                del self._homes[next(iter(self._homes))]

    def _outside(self, text: bytes) -> bytes:
        """The same JSON with our addresses instead of those of the run folder."""
        if b"ipc://" in text:
            for inside, outside in self._addresses.items():
                text = text.replace(inside, outside)
        return text

    # --- commanding ---------------------------------------------------------------------------

    def _commanded(self, name: str, route: Route, frames: Frames) -> None:
        try:
            command, _ = _commands.decode(frames)
        except BadMessage as error:
            self._refuse(route, id_of(frames), "bad_request", str(error))
            return
        client = self._by_name.get(name)
        if client is None:
            self._refuse(route, command.id, "not_allowed", f"client {name!r} is not known any more")
            return
        now_s = self._loop.time()
        wait_s = self._commands_rate.take(name, 1, now_s)
        if wait_s:
            limit = f"{self._settings.commands_per_s} commands a second, its limit"
            text = f"client {name!r} sends more than {limit}"
            self._refuse(route, command.id, "busy", text, after_ms=int(wait_s * 1000) + 1)
            return
        why = permissions.why_not(
            client, command.command, command.session_id, self._owners.of(name)
        )
        if why is not None:
            self._runtime.count("commands_refused")
            self._tell_once("command.refused", name, command=command.command[:40])
            self._refuse(route, command.id, "not_allowed", why)
            return
        self._pass_on(name, command, route, frames[0])

    def _pass_on(self, name: str, command: Command, route: Route, raw: bytes) -> None:
        key = (name, command.id)
        pending = self._pending.get(key)
        until_s = self._loop.time() + PENDING_S
        if pending is None:
            waiting = self._in_flight.get(name, 0)
            if waiting >= self._settings.in_flight:
                text = f"{waiting} commands of client {name!r} already wait for their replies"
                self._refuse(route, command.id, "busy", text, after_ms=250)
                return
            self._in_flight[name] = waiting + 1
            pending = Pending(command, route, until_s, self._shards_of(name, command))
            self._pending[key] = pending
        elif pending.command != command:
            # Replies carry nothing but the id, and what may be seen of one depends on its command.
            first = pending.command.command
            text = f"id {command.id} waits for the reply to {first}: use a new one"
            self._refuse(route, command.id, "conflict", text)
            return
        # Again with the same id: the newest route gets the one reply.
        pending.route, pending.until_s = route, until_s
        self._hand_over(name, pending, raw)

    def _hand_over(self, name: str, pending: Pending, raw: bytes) -> None:
        sent = [self._dealer(name, shard).send([raw]) for shard in pending.shards]
        if any(one is not Sent.OK for one in sent):
            id = pending.command.id
            self._forget((name, id))
            self._refuse(pending.route, id, "busy", "its session process is away", after_ms=500)

    def _shards_of(self, name: str, command: Command) -> tuple[int, ...]:
        shards = self._runtime.cell.shards
        if command.session_id is not None:
            return (min(ids.shard_of(command.session_id) or 0, shards - 1),)
        match command.command:
            case "list":
                return tuple(range(shards))
            case "open":
                # The same id must find the same process again.
                first = sum(command.id.encode()) % shards
                return (self._opened.get((name, command.id), first),)
            case _:
                return (0,)

    def _is_passed_on(self, name: str, shard: int, pending: Pending, reply: Reply) -> bool:
        """Whether this answer is not the last word: others are asked, or have yet to answer."""
        if shard not in pending.shards:
            return True  # a second answer of one that had no room
        command, shards = pending.command, self._runtime.cell.shards
        if command.command == "open" and reply.error is not None:
            pending.full += (shard,)
            left = [n for n in range(shards) if n not in pending.full]
            if reply.error.code not in ELSEWHERE or not left:
                return False
            pending.shards = (left[0],)
            self._hand_over(name, pending, encode(command))
            return True
        if command.command == "open" and pending.full:
            self._opened[name, command.id] = shard
            if len(self._opened) > OPENED_KEPT:
                del self._opened[next(iter(self._opened))]
        if command.command == "list" and isinstance(reply.data, dict):
            pending.sessions[shard] = list(reply.data.get("sessions", []))
            return len(pending.sessions) < len(pending.shards)
        return False

    def _dealer(self, name: str, shard: int) -> Dealer:
        """One for each client, so that each has its own limit inside."""
        if (name, shard) not in self._dealers:

            def answered(frames: Frames) -> None:
                self._answered(name, shard, frames)

            self._dealers[name, shard] = self._runtime.sockets.dealer(
                self._runtime.endpoints.commands(shard), answered, name=f"relay.{name}"
            )
        return self._dealers[name, shard]

    def _answered(self, name: str, shard: int, frames: Frames) -> None:
        try:
            reply = _replies.decode(frames[-1])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._log.warning("reply.dropped", why=str(error))
            return
        pending = self._pending.get((name, reply.id))
        if pending is None:
            return  # the answer to a repetition
        if self._is_passed_on(name, shard, pending, reply):
            return
        self._forget((name, reply.id))
        raw = bytes(frames[-1])
        match pending.command.command, reply.data:
            case "open" | "attach", {"session_id": str(session_id), "transport": transport}:
                if pending.command.command == "open":
                    self._note_owner(name, session_id)
                self._settle(session_id, transport)
            case "list", {"sessions": list()}:
                sessions = [one for found in pending.sessions.values() for one in found]
                raw = encode(msgspec.structs.replace(reply, data=self._visible(name, sessions)))
            case _:
                pass
        if self._door.send(pending.route, [self._outside(raw)]) is not Sent.OK:
            self._runtime.count("replies_undeliverable")

    def _note_owner(self, name: str, session_id: str) -> None:
        try:
            self._owners.add(name, session_id)
        except OSError as error:  # a full disk: until a restart it is known all the same
            self._tell_once("owner.not_written", name, why=error.strerror)

    def _visible(self, name: str, sessions: list[Any]) -> dict[str, Any]:
        client, owned = self._by_name.get(name), self._owners.of(name)
        return {
            "sessions": [
                one
                for one in sessions
                if client and permissions.may_see(client, str(one.get("session_id")), owned)
            ]
        }

    def _forget(self, key: tuple[str, str]) -> None:
        if self._pending.pop(key, None) is not None:
            left = self._in_flight.get(key[0], 1) - 1
            if left > 0:
                self._in_flight[key[0]] = left
            else:
                self._in_flight.pop(key[0], None)

    def _refuse(
        self, route: Route, id: str, code: ErrorCode, text: str, after_ms: int | None = None
    ) -> None:
        error = CommandError(
            code=code, message=text, retry=RETRY[code], after_ms=after_ms, who="relay"
        )
        self._door.send(route, [encode(Reply(id=id[:64], ok=False, error=error))])

    # --- speaking -----------------------------------------------------------------------------

    def _spoken(self, name: str, route: Route, frames: Frames) -> None:
        client = self._by_name.get(name)
        size = sum(map(len, frames))
        try:
            header, _ = _sounds.decode(frames)
        except BadMessage:
            self._runtime.count("sound_malformed")
            return
        allowed = client is not None and client.talk
        if (
            client is None
            or not allowed
            or not permissions.may_see(client, header.session_id, self._owners.of(name))
        ):
            self._runtime.count("sound_not_allowed")
            self._tell_once("sound.refused", name)
            return
        if self._sound_rate.take(name, size, self._loop.time()):
            self._runtime.count("sound_too_much")
            self._tell_once("sound.too_much", name)
            return
        home = self._homes.get(header.session_id, 0 if len(self._voices) == 1 else None)
        if home is None:
            self._runtime.count("sound_homeless")  # restarted since: `attach` tells us again
            return
        self._voices[home].send(frames)


def _refusal_place(topic: bytes, name: str) -> bytes:
    """Where a client is told that it may not subscribe to this: its own filter lets it pass."""
    return b"%brefused/%b" % (topic[:200], name.encode())


def _addresses(runtime: Runtime[RelaySettings], host: str, port: int) -> dict[bytes, bytes]:
    """Addresses inside -> outside, each in its quotes."""
    found: dict[bytes, bytes] = {}
    for name, address in runtime.endpoints.every(
        runtime.cell.shards, runtime.cell.transports
    ).items():
        what = name.rpartition(".")[2]
        at = {"events": 0, "audio-out": 0, "commands": 1, "audio-in": 2}.get(what)
        if at is not None:
            found[encode(address)] = encode(f"tcp://{host}:{port + at}")
    return found
