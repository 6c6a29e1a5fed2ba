"""The one module that touches ZeroMQ: plain sockets on the loop's readers.

Rules measured and kept here: no `await recv` (a flooded socket starves the loop, and a time limit
around it loses messages); a bounded drain per wake-up; the FD only signals changes, so EVENTS is
read again after each drain and each send; routers are mandatory *and* non-blocking, so that a lost
or full peer is an answer and not a silence; heartbeats everywhere; no linger.
"""

import asyncio
import enum
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import structlog
import zmq

from voicebus.bus import topics

Frames = Sequence[bytes]
S = TypeVar("S", bound="Socket")
K = TypeVar("K")
Route = tuple[bytes, ...]
"""The way back to a peer of a router: its identity, and a REQ's empty frame if it sent one."""

DRAIN_LIMIT = 64
"""Messages handled per wake-up before timers and other sockets get their turn."""
FRAMES_LIMIT = 64
"""Of one message; none of ours has more than a handful. What follows is skipped, so many at a time:
a million frames of a byte, which cost their sender a second, would stop the loop for four."""
START = 4
"""Bytes of a topic that tell its lane: even*, audi*, canc*, raw/, syst*."""
SUBSCRIPTIONS_AT_ONCE = 100
"""ZeroMQ takes in all subscriptions that wait in one go, within whatever call comes first: ten
thousand of them held up the sound for 50 to 80 ms. None is lost: the rest waits at its sender."""
SUBSCRIPTIONS_WITHIN_S = 0.005
"""A publisher that sends all the time looks for subscriptions so often, not after each message."""
SAME_AGAIN_S = 0.02
"""The same subscription is told to the publisher once in this time: the answer goes to all who have
it, and three thousand who come at once would each be told three thousand times."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_TO_PUBLISHER_BYTES = topics.LIMIT_BYTES + 512
"""A subscription, or what ZeroMQ says at a connection's begin. Longer ends the connection: a
subscription of a megabyte would cost fifty."""
MAX_SOCKETS = 10_000
"""ZeroMQ's own limit is 1023, whatever the process may open: a program with three sockets for each
conversation came to its end at 340 of them."""
HEARTBEAT_MS = 1000
HEARTBEAT_TIMEOUT_MS = 3000

log = structlog.get_logger("voicebus.sockets")

# pyzmq's own front does arithmetic with enums for each frame: to send three takes it 6 us where
# this takes 1, to receive them 8 where this takes 4.
_send, _recv, _get = zmq.backend.Socket.send, zmq.backend.Socket.recv, zmq.backend.Socket.get
_AT_ONCE = int(zmq.NOBLOCK)
_HAS_MORE = int(zmq.RCVMORE)
_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)


class Keys(NamedTuple):
    """What a program elsewhere proves who it is with, and whom it trusts: Z85 texts."""

    server: str
    """The relay's public key."""
    public: str
    secret: str

    def __repr__(self) -> str:
        return f"Keys(public={self.public!r})"


class Sent(enum.Enum):
    """What became of a message."""

    OK = "ok"
    FULL = "full"
    """The peer is there but its queue is full."""
    GONE = "gone"
    """No such peer."""


class Socket:
    """What all our sockets share: a bounded drain on the loop, and a clean end."""

    def __init__(
        self,
        sockets: "Sockets",
        kind: int,
        receive: Callable[[list[bytes]], None] | None,
        options: dict[int, int],
    ) -> None:
        self._sockets = sockets
        try:
            self._raw: zmq.Socket[bytes] = sockets.context.socket(kind)
        except zmq.ZMQError as error:
            if error.errno != errno.EMFILE:
                raise
            raise OSError(
                errno.EMFILE,
                "this process can open no more sockets; raise its limit of file descriptors "
                "(ulimit -n) or close some",
            ) from None
        self._receive = receive
        self._due = False
        self._is_looking = False
        self._look_after_s = 0.0
        self._closed = False
        self._is_skipping = False
        """The rest of a message of too many frames."""
        defaults: dict[int, int] = {
            zmq.LINGER: 0,
            zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
            zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
            zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS,
            zmq.HEARTBEAT_TTL: HEARTBEAT_TIMEOUT_MS,
            zmq.RECONNECT_IVL: 20,
            zmq.RECONNECT_IVL_MAX: 500,
        }
        for option, value in {**defaults, **options}.items():
            self._raw.setsockopt(option, value)

    def bind(self, endpoint: str) -> None:
        """Bind. Who may connect to an ipc socket is decided by its folder's mode."""
        self._raw.bind(endpoint)
        if endpoint.startswith("ipc://"):
            self._sockets.bound[Path(endpoint.removeprefix("ipc://"))] = self
        self._listen()

    def bound_again(self, endpoint: str) -> bool:
        """Whether it could be. The old listener, which nobody finds, stays until the end: to unbind
        it would remove the new one's file."""
        try:
            self._raw.bind(endpoint)
        except zmq.ZMQError:
            return False
        return True

    def connect(self, endpoint: str) -> None:
        """Connect, now or whenever the peer appears."""
        keys = self._sockets.keys
        if keys is not None and endpoint.startswith("tcp://"):
            self._raw.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
            self._raw.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
            self._raw.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        self._raw.connect(endpoint)
        self._listen()

    def _listen(self) -> None:
        loop = self._sockets.loop
        if self._receive is not None and loop is not None:
            loop.add_reader(self._raw.FD, self._signalled)
            self._rearm(force=True)

    def _signalled(self) -> None:
        if not self._due:  # else it would be drained twice before the others have their turn
            self._drain()

    def _drain(self) -> None:
        self._due = False
        if self._closed or self._receive is None:
            return
        for count in range(DRAIN_LIMIT):
            # To ask is cheaper than to be refused, 2 us instead of 5; not where many wait.
            if count < 2 and not int(_get(self._raw, _EVENTS)) & _READABLE:
                return
            if self._is_skipping:
                self._skip()
                continue
            try:
                frames = self._take()
            except zmq.Again:
                return
            try:
                self._receive(frames)
            except Exception as error:
                self._sockets.failed(error)
                break
            if self._is_closed():  # by the handler
                return
        self._rearm()

    def _take(self) -> list[bytes]:
        """The next message. Raises zmq.Again when there is none."""
        return self._whole([_recv(self._raw, _AT_ONCE)])

    def _whole(self, frames: list[bytes]) -> list[bytes]:
        """With what follows its first frame, as far as the limit."""
        raw = self._raw
        for _ in range(FRAMES_LIMIT - 1):
            if not _get(raw, _HAS_MORE):
                return frames
            frames.append(_recv(raw, _AT_ONCE))
        self._is_skipping = True
        return frames

    def _skip(self) -> None:
        for _ in range(FRAMES_LIMIT):
            if not _get(self._raw, _HAS_MORE):
                self._is_skipping = False
                return
            _recv(self._raw, _AT_ONCE)

    def _rearm(self, *, force: bool = False) -> None:
        """The FD tells changes only: look ourselves whether something is waiting."""
        loop = self._sockets.loop
        if self._due or self._closed or self._receive is None or loop is None:
            return
        if force or int(_get(self._raw, _EVENTS)) & _READABLE:
            self._due = True
            loop.call_soon(self._drain)

    def _send(self, frames: Frames) -> Sent:
        if self._closed:
            return Sent.GONE
        try:
            for frame in frames[:-1]:
                _send(self._raw, frame, _MORE)
            _send(self._raw, frames[-1], _AT_ONCE)
            sent = Sent.OK
        except zmq.Again:
            sent = Sent.FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            sent = Sent.GONE
        self._look_again()  # what was refused has looked for news as well
        return sent

    def _look_again(self) -> None:
        """Sending may have used up the FD's edge: look, once for all sends until then."""
        loop = self._sockets.loop
        if (
            not self._is_looking
            and not self._due
            and self._receive is not None
            and loop is not None
        ):
            self._is_looking = True
            if self._look_after_s:
                loop.call_later(self._look_after_s, self._look)
            else:
                loop.call_soon(self._look)

    def _look(self) -> None:
        self._is_looking = False
        self._rearm()

    def _is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Stop listening and close; what was not sent is dropped."""
        if self._closed:
            return
        self._closed = True
        loop = self._sockets.loop
        if self._receive is not None and loop is not None and not loop.is_closed():
            loop.remove_reader(self._raw.FD)
        self._raw.close(linger=0)
        self._sockets.forget(self)


class Router(Socket):
    """Answers many peers: `receive(route, frames)`. A REQ's empty frame is handled by the route."""

    def __init__(
        self,
        sockets: "Sockets",
        receive: Callable[[Route, Frames], None],
        queue: int,
        max_frame_bytes: int,
    ) -> None:
        def split(frames: list[bytes]) -> None:
            if len(frames) > 1 and frames[1] == b"":
                receive((frames[0], b""), frames[2:])
            else:
                receive((frames[0],), frames[1:])

        super().__init__(
            sockets,
            zmq.ROUTER,
            split,
            {
                zmq.ROUTER_MANDATORY: 1,
                # Who was frozen finds its peers' new connections before it has noticed the end of
                # their old ones: without this they would be deaf to each other for good.
                zmq.ROUTER_HANDOVER: 1,
                zmq.SNDHWM: queue,
                zmq.RCVHWM: queue,
                zmq.MAXMSGSIZE: max_frame_bytes,
            },
        )

    def send(self, route: Route, frames: Frames) -> Sent:
        """To one peer; never blocks."""
        return self._send([*route, *frames])


class Dealer(Socket):
    """Talks to one router. Its name is unique per start, so that nobody gets a dead one's mail."""

    def __init__(
        self, sockets: "Sockets", receive: Callable[[Frames], None], name: str, queue: int
    ) -> None:
        super().__init__(sockets, zmq.DEALER, receive, {zmq.SNDHWM: queue, zmq.RCVHWM: queue})
        self._raw.setsockopt(zmq.ROUTING_ID, f"{name}.{os.urandom(4).hex()}".encode())

    def send(self, frames: Frames) -> Sent:
        """Queued until the peer is there; FULL when the queue is."""
        return self._send(frames)


class Publisher(Socket):
    """An XPUB that sees each subscription, so that it can answer it and know who listens."""

    def __init__(
        self, sockets: "Sockets", subscribed: Callable[[bytes], None] | None, queue: int
    ) -> None:
        self.topics: set[bytes] = set()
        self._lengths: Counter[int] = Counter()
        """How many subscriptions have each length: ten thousand of them cost a message little."""
        self._starts: Counter[bytes] = Counter()
        """How many begin with these bytes, enough to tell the lanes apart."""
        self._subscribed = subscribed
        self._told: set[bytes] = set()
        self._again: set[bytes] = set()

        def note(frames: list[bytes]) -> None:
            if not frames[0]:
                return
            topic = frames[0][1:]
            if frames[0][0] == 1:
                if topic not in self.topics:
                    self.topics.add(topic)
                    self._lengths[len(topic)] += 1
                    self._starts[topic[:START]] += 1
                self._tell(topic)
            elif frames[0][0] == 0 and topic in self.topics:
                self.topics.discard(topic)
                _one_less(self._lengths, len(topic))
                _one_less(self._starts, topic[:START])

        # VERBOSE: the second subscriber to a topic is told to us as well, for its welcome.
        super().__init__(
            sockets,
            zmq.XPUB,
            note,
            {
                zmq.XPUB_VERBOSE: 1,
                zmq.SNDHWM: queue,
                zmq.RCVHWM: SUBSCRIPTIONS_AT_ONCE,
                zmq.MAXMSGSIZE: MAX_TO_PUBLISHER_BYTES,
            },
        )
        self._look_after_s = SUBSCRIPTIONS_WITHIN_S

    def _tell(self, topic: bytes) -> None:
        """That somebody subscribed: at once, or for all who have come since, in a moment."""
        if self._subscribed is None:
            return
        if topic in self._told:
            self._again.add(topic)
            return
        if not self._told and self._sockets.loop is not None:
            self._sockets.loop.call_later(SAME_AGAIN_S, self._tell_again)
        self._told.add(topic)
        self._subscribed(topic)

    def _tell_again(self) -> None:
        self._told.clear()
        again, self._again = self._again, set()
        for topic in again if not self._closed else ():
            self._tell(topic)

    def wanted(self, topic: bytes) -> bool:
        """Whether a subscription covers this topic."""
        return any(topic[:length] in self.topics for length in self._lengths)

    def wants_lane(self, lane: str) -> bool:
        """Whether a subscription may cover something of this lane: cheap, before it is made."""
        start = f"{lane}/".encode()[:START]
        return any(start[:length] in self._starts for length in range(len(start) + 1))

    def publish(self, topic: bytes, frames: Frames) -> None:
        """To all subscribers; at a full one ZeroMQ drops it, which its numbers show."""
        self._send([topic, *frames])


def _one_less(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


class Subscriber(Socket):
    """Listens to publishers. Subscribe before connecting."""

    def __init__(
        self, sockets: "Sockets", receive: Callable[[list[bytes]], None], queue: int
    ) -> None:
        options: dict[int, int] = {
            # Subscriptions are messages, too, and beyond the mark they vanish in silence.
            zmq.SNDHWM: 0,
            zmq.RCVHWM: queue,
            # Who reads nothing for so long that its queue is full stops reading the connection;
            # a heartbeat of its own that runs out meanwhile makes libzmq 4.3 abort the process
            # ("Assertion failed: _input_stopped"). A publisher's heartbeats carry a TTL: one that
            # is gone without a word is found by these.
            zmq.HEARTBEAT_IVL: 0,
        }
        super().__init__(sockets, zmq.SUB, receive, options)

    def subscribe(self, topic: bytes) -> None:
        """By prefix."""
        self._raw.setsockopt(zmq.SUBSCRIBE, topic)

    def unsubscribe(self, topic: bytes) -> None:
        """As often as subscribed."""
        self._raw.setsockopt(zmq.UNSUBSCRIBE, topic)


class Sockets:
    """A process's sockets: one context, made after any fork, and closed as a whole."""

    def __init__(
        self,
        *,
        failed: Callable[[Exception], None] | None = None,
        io_threads: int = 1,
        keys: Keys | None = None,
    ) -> None:
        """Make it inside the running loop. `failed` is told of an exception in a handler; `keys`
        are used for what is connected by TCP."""
        self.keys = keys
        self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads)
        self.context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self.bound: dict[Path, Socket] = {}
        """The file of each ipc socket that was bound."""
        self._open: set[Socket] = set()
        self._failed = failed

    def failed(self, error: Exception) -> None:
        """A handler raised: a bug of ours. Told to the owner, or logged."""
        if self._failed is None:
            log.error("handler.failed", exc_info=error)
        else:
            self._failed(error)

    def forget(self, socket: Socket) -> None:
        """A socket was closed."""
        self._open.discard(socket)

    def bind_again(self) -> list[Path]:
        """Those whose file somebody has deleted: whoever is connected stays so, but nobody new
        could find us. Which they were; those that could not be bound stay away."""
        missing = [
            path
            for path, socket in self.bound.items()
            if socket in self._open and not os.path.lexists(path)
        ]
        return [path for path in missing if self.bound[path].bound_again(f"ipc://{path}")]

    def router(
        self,
        endpoint: str,
        receive: Callable[[Route, Frames], None],
        *,
        queue: int = 1000,
        max_frame_bytes: int = MAX_MESSAGE_BYTES,
    ) -> Router:
        """A bound ROUTER. A longer frame ends its sender's connection: `queue` of them wait for us
        in memory."""
        return self._bound(Router(self, receive, queue, max_frame_bytes), endpoint)

    def dealer(
        self, endpoint: str, receive: Callable[[Frames], None], *, name: str, queue: int = 1000
    ) -> Dealer:
        """A DEALER connected to one router."""
        dealer = Dealer(self, receive, name, queue)
        self._open.add(dealer)
        dealer.connect(endpoint)
        return dealer

    def publisher(
        self,
        endpoint: str,
        subscribed: Callable[[bytes], None] | None = None,
        *,
        queue: int = 5000,
    ) -> Publisher:
        """A bound XPUB; `subscribed(topic)` is called for each new subscription."""
        return self._bound(Publisher(self, subscribed, queue), endpoint)

    def subscriber(
        self,
        endpoints: Iterable[str],
        topics: Iterable[bytes],
        receive: Callable[[list[bytes]], None],
        *,
        queue: int = 10_000,
    ) -> Subscriber:
        """A SUB connected to all of them; `receive` gets `[topic, header, payload…]`."""
        subscriber = Subscriber(self, receive, queue)
        self._open.add(subscriber)
        for topic in topics:
            subscriber.subscribe(topic)
        for endpoint in endpoints:
            subscriber.connect(endpoint)
        return subscriber

    def adopt(self, socket: S, endpoint: str) -> S:
        """Bind a socket that was made elsewhere, and close it with the others."""
        return self._bound(socket, endpoint)

    def attend(self, socket: S, endpoint: str) -> S:
        """Connect a socket that was made elsewhere, and close it with the others."""
        self._open.add(socket)
        socket.connect(endpoint)
        return socket

    def _bound(self, socket: S, endpoint: str) -> S:
        self._open.add(socket)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise OSError(
                f"cannot bind {endpoint}: {error}; is the run folder there and writable?"
            ) from None
        return socket

    def close(self) -> None:
        """Close all sockets, remove their files, end the context."""
        for socket in list(self._open):
            socket.close()
        for path in self.bound:
            path.unlink(missing_ok=True)
        self.bound.clear()
        self.context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class CancelWatch:
    """The cancel broadcast as a tool's own thread sees it: polled, no loop, no helper thread.

    A helper thread would have to wait for the GIL that the tool holds (5 to 10 ms); polling in the
    tool's thread sees a cancel in at most the poll's own interval.
    """

    def __init__(self, endpoints: Iterable[str], topics: Iterable[bytes] = (b"cancel/",)) -> None:
        """Make it in the thread, and in the process, that polls."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._raw = self._context.socket(zmq.SUB)
        self._raw.setsockopt(zmq.SNDHWM, 0)
        self._raw.setsockopt(zmq.LINGER, 0)
        self._raw.setsockopt(zmq.RECONNECT_IVL, 20)
        self._raw.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        for topic in topics:
            self._raw.setsockopt(zmq.SUBSCRIBE, topic)
        for endpoint in endpoints:
            self._raw.connect(endpoint)

    def poll(self) -> list[list[bytes]]:
        """All that has come since: `[topic, header]` each. Never blocks."""
        found: list[list[bytes]] = []
        while True:
            try:
                found.append(self._raw.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return found

    @property
    def fd(self) -> int:
        """Readable when something may have come; call poll() before waiting on it."""
        return int(self._raw.get(zmq.FD))

    def close(self) -> None:
        """End the socket and its context."""
        self._raw.close(linger=0)
        self._context.term()
