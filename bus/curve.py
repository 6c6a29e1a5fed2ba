"""CURVE at the door: keys, the gate of the handshake, and sockets that know who speaks.

The second of two modules that touch ZeroMQ. ZAP is RFC 27: libzmq asks the gate about each
handshake, in this process, before the peer can send or subscribe to anything.
"""

import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import zmq
from zmq.utils import z85

from voicebus.bus.sockets import (
    MAX_TO_PUBLISHER_BYTES,
    Frames,
    Route,
    Router,
    Sent,
    Socket,
    Sockets,
)

GATE = "inproc://zeromq.zap.01"
DOMAIN = b"voicebus"
CONNECTION = b"X-Connection"
"""The property that tells one connection of a client from another."""
HANDSHAKE_MS = 5000
"""A peer that has not said who it is by then is cut off."""
BACKLOG = 256
_EVENT = struct.Struct("=Hi")
"""What a monitor tells: the event and its value, a descriptor."""

PEERS_KEPT = 10_000

Admit = Callable[[str, str, str], str | None]
"""`admit(mechanism, key, address)` is the client's name, "" for later, or None."""


def new_keys() -> tuple[str, str]:
    """Public and secret key, Z85 texts."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def public_of(secret: str) -> str:
    """The public key that belongs to a secret one."""
    return zmq.curve_public(secret.encode()).decode()


class Arrivals(NamedTuple):
    """Who watches connections come and go, before their handshakes."""

    came: Callable[[tuple[int, int], str], bool]
    """`came((door, descriptor), address)` says whether it may stay; else it is cut off."""
    left: Callable[[tuple[int, int]], None]


class _Peer(NamedTuple):
    """The other end of a connection."""

    descriptor: int
    address: object


def gate(sockets: Sockets, admit: Admit) -> Router:
    """Answers handshakes. Make it before any socket that it guards: without it, CURVE alone lets
    in whoever has any key. It numbers the connections: a client may have several."""
    numbers = itertools.count(1)

    def asked(route: Route, frames: Frames) -> None:
        name: str | None = None
        version, request, domain = (*frames[:3], b"", b"", b"")[:3]
        if len(frames) >= 6 and version == b"1.0" and domain == DOMAIN:
            key = z85.encode(frames[6]).decode() if len(frames) > 6 else ""
            name = admit(frames[5].decode("ascii", "replace"), key, frames[3].decode())
        status, text = (b"200", b"OK") if name else (b"400", b"not allowed")
        if name == "":
            status, text = b"300", b"not now"  # it tries again by itself
        of_connection = _property(CONNECTION, str(next(numbers)).encode()) if name else b""
        answer = [b"1.0", request, status, text, (name or "").encode(), of_connection]
        router.send(route, answer)

    router = sockets.router(GATE, asked)
    return router


def _property(name: bytes, value: bytes) -> bytes:
    """What each message of the connection will say, as ZMTP has it."""
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def _options(secret: str | None, max_message_bytes: int) -> dict[int, int | bytes]:
    options: dict[int, int | bytes] = {
        zmq.ZAP_DOMAIN: DOMAIN,
        zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
        zmq.BACKLOG: BACKLOG,
        zmq.MAXMSGSIZE: max_message_bytes,
    }
    if secret is not None:
        options |= {zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: secret.encode()}
    return options


class Watch(Socket):
    """A bound socket's monitor: each connection that is accepted, and each that ends."""

    def __init__(self, sockets: Sockets, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._port = 0
        # Without a mark: an I/O thread that cannot tell waits, and all its sockets with it.
        super().__init__(sockets, zmq.PAIR, self._told, {zmq.RCVHWM: 0})

    def over(self, raw: "zmq.Socket[bytes]", port: int) -> None:
        """Watch that socket, which listens at that port."""
        self._port = port
        place = f"inproc://watch-{port}"
        raw.monitor(place, int(zmq.EVENT_ACCEPTED) | int(zmq.EVENT_DISCONNECTED))
        self._sockets.attend(self, place)

    def _told(self, frames: list[bytes]) -> None:
        event, descriptor = _EVENT.unpack(frames[0])
        key = (self._port, descriptor)
        if event == zmq.EVENT_DISCONNECTED:
            self._arrivals.left(key)
            return
        with contextlib.suppress(OSError), _connection(descriptor) as peer:  # or it is gone already
            # Meanwhile the descriptor may have become another's.
            is_ours = peer.family in (socket.AF_INET, socket.AF_INET6) and (
                peer.getsockname()[1] == self._port
            )
            if is_ours and not self._arrivals.came(key, peer.getpeername()[0]):
                peer.shutdown(socket.SHUT_RDWR)


def _connection(descriptor: int) -> socket.socket:
    """The same connection under a descriptor of our own, so that closing it closes nobody else's.

    Raises OSError when it is none."""
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


class Guarded(Socket):
    """A socket whose messages tell who sent them: the name that the gate gave."""

    def __init__(
        self,
        sockets: Sockets,
        kind: int,
        receive: Callable[[list[bytes]], None],
        options: dict[int, int | bytes],
        arrivals: Arrivals | None,
    ) -> None:
        self.client: str | None = None
        """Who sent the message that is being handled; None at a disconnection."""
        self.connection = ""
        """By which of its connections."""
        self._source: zmq.Frame | None = None
        super().__init__(sockets, kind, receive, {})
        for option, value in options.items():
            self._raw.setsockopt(option, value)
        self._watch = Watch(sockets, arrivals) if arrivals is not None else None

    def bind(self, endpoint: str) -> None:
        """Bind; connections are watched from the first on."""
        if self._watch is not None:
            self._watch.over(self._raw, int(endpoint.rpartition(":")[2]))
        super().bind(endpoint)

    def _take(self) -> list[bytes]:
        first = self._source = self._raw.recv(zmq.NOBLOCK, copy=False)
        try:
            self.client = str(first.get("User-Id")) or None
            self.connection = str(first.get(CONNECTION.decode()))
        except zmq.ZMQError:
            self.client, self.connection = None, ""
        return self._whole([first.bytes])


class GuardedRouter(Guarded):
    """Answers many peers: `receive(client, route, frames)`."""

    def __init__(
        self,
        sockets: Sockets,
        endpoint: str,
        receive: Callable[[str, Route, Frames], None],
        *,
        secret: str | None,
        max_message_bytes: int,
        arrivals: Arrivals | None = None,
        queue: int = 1000,
    ) -> None:
        def split(frames: list[bytes]) -> None:
            if self.client is None:
                return
            if len(frames) > 1 and frames[1] == b"":
                receive(self.client, (frames[0], b""), frames[2:])
            else:
                receive(self.client, (frames[0],), frames[1:])

        options = _options(secret, max_message_bytes)
        options |= {zmq.ROUTER_MANDATORY: 1, zmq.SNDHWM: queue, zmq.RCVHWM: queue}
        super().__init__(sockets, zmq.ROUTER, split, options, arrivals)
        sockets.adopt(self, endpoint)

    def send(self, route: Route, frames: Frames) -> Sent:
        """To one peer; never blocks."""
        return self._send([*route, *frames])


class GuardedPublisher(Guarded):
    """An XPUB that admits each subscription itself, or does not."""

    def __init__(
        self,
        sockets: Sockets,
        endpoint: str,
        asked: Callable[[str, str, bytes], bytes | None],
        left: Callable[[str | None, str, bytes], bytes | None],
        *,
        secret: str | None,
        arrivals: Arrivals | None = None,
        queue: int = 5000,
    ) -> None:
        """`asked(client, connection, topic)` returns the topic that is admitted instead: the same
        one, or one on which only a refusal is published; None ends the connection. `left(client,
        connection, topic)`: it does not want it any more; returns what was admitted for it, if
        anything was. The client is None where a connection has ended: ZeroMQ tells each of its
        topics, and not whose they were."""

        def note(frames: list[bytes]) -> None:
            if not frames[0] or len(frames) > 1:
                return
            topic = frames[0][1:]
            if frames[0][0] == 1 and self.client is not None:
                # Holds for the peer whose message was read last: nothing may be read in between.
                if self.connection not in self._peers:
                    self._note_peer()
                place = asked(self.client, self.connection, topic)
                if place is None:
                    self._cut_off()
                else:
                    self._raw.setsockopt(zmq.SUBSCRIBE, place)
            elif frames[0][0] == 0:
                admitted = left(self.client, self.connection, topic)
                if admitted is not None and self.client is not None:
                    self._raw.setsockopt(zmq.UNSUBSCRIBE, admitted)

        self._peers: dict[str, _Peer | None] = {}
        """Connection -> its other end; None once it was cut off."""
        options = _options(secret, MAX_TO_PUBLISHER_BYTES)
        options |= {zmq.XPUB_MANUAL: 1, zmq.SNDHWM: queue}
        super().__init__(sockets, zmq.XPUB, note, options, arrivals)
        sockets.adopt(self, endpoint)

    def _note_peer(self) -> None:
        """At the first that comes by a connection: later its descriptor may be another's."""
        descriptor = self._descriptor()
        with contextlib.suppress(OSError), _connection(descriptor) as peer:
            self._peers[self.connection] = _Peer(descriptor, peer.getpeername())
            if len(self._peers) > PEERS_KEPT:
                del self._peers[next(iter(self._peers))]

    def _cut_off(self) -> None:
        """ZeroMQ takes in all that a subscriber says, however much of it waits for us already:
        nothing but the end of its connection stops it."""
        peer = self._peers.get(self.connection)
        if peer is None:
            return
        self._peers[self.connection] = None
        with contextlib.suppress(OSError), _connection(peer.descriptor) as other:
            if other.getpeername() == peer.address:
                other.shutdown(socket.SHUT_RDWR)

    def _descriptor(self) -> int:
        return int(self._source.get("__fd")) if self._source is not None else -1

    def publish(self, topic: bytes, frames: Sequence[bytes]) -> None:
        """To all who were admitted."""
        self._send([topic, *frames])
