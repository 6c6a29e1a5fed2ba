"""A worker's place in the pool: the worker protocol as the tool host speaks it."""

import asyncio
import os
from collections import OrderedDict
from typing import Any, Protocol

import msgspec

from voicebus.bus import frames
from voicebus.bus.messages import base, work
from voicebus.bus.sockets import Frames
from voicebus.services.runtime import Runtime
from voicebus.services.tools.pool import Key, Lane

HELLO_EVERY_S = 0.5
SILENT_S = 2.0
"""A dispatcher that has said nothing for so long is gone: greet the next one."""
AT_ONCE_S = 0.002
"""Of a call that ends so soon only the result is told: a wake-up less in three processes."""
UNACKED_LIMIT = 256
"""With so many results that nobody has acknowledged, no new calls are taken."""

_codec: frames.Codec[work.ANY_FROM_POOL] = frames.Codec(
    work.ANY_FROM_POOL, what="dispatcher to worker"
)


class Runs(Protocol):
    """What a membership speaks for: something that runs calls."""

    def capacity(self, lane: Lane) -> int: ...
    def free(self, lane: Lane) -> int: ...
    def tools_of(self, lane: Lane) -> list[work.ToolSpec]: ...
    def running(self, lane: Lane) -> list[tuple[Key, float]]: ...
    def holds(self, key: Key) -> bool: ...
    def call(self, call: work.Call) -> None: ...
    def cancel(self, key: Key, reason: str) -> None: ...


class Membership:
    """One lane of the host (its `def` or its `async def` tools) as a worker of the pool."""

    def __init__(self, runtime: Runtime[Any], pool: Runs, lane: Lane) -> None:
        suffix = "" if lane == "sync" else ".async"
        self.name = f"{runtime.role}-{runtime.instance}{suffix}"
        self.is_welcome = asyncio.Event()
        self._runtime = runtime
        self._pool = pool
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._dealer = runtime.sockets.dealer(
            runtime.endpoints.workers, self._heard, name=self.name
        )
        self._heard_at = 0.0
        self._said_hello_at = float("-inf")
        self._received = 0
        self._told: tuple[int, int] | None = None
        self._takes_credit_in_results = False
        self._is_credit_due = False
        self._beginning: dict[Key, asyncio.TimerHandle] = {}
        self._unacked: OrderedDict[Key, work.Result] = OrderedDict()
        self._is_leaving = False
        self._has_left = False
        self.hello()

    def hello(self) -> None:
        """Who we are, what we can, what we have."""
        self._said_hello_at = self._loop.time()
        self._told = None
        self._send(
            work.WorkerHello(
                name=self.name,
                inc=self._runtime.inc,
                pid=os.getpid(),
                capacity=self._pool.capacity(self._lane),
                tools=self._pool.tools_of(self._lane),
                running=self._running(),
                unacked=[work.CallRef(session_id=key[0], call_id=key[1]) for key in self._unacked],
                received=self._received,
            )
        )

    def beat(self) -> None:
        """Called several times a second."""
        now = self._loop.time()
        if self.is_welcome.is_set() and now - self._heard_at > SILENT_S:
            # No heartbeats to a dead one: its successor would get them all at once.
            self.is_welcome.clear()
            self._runtime.log.warning("dispatcher.silent", worker=self.name)
        if self.is_welcome.is_set():
            self._send(work.Heartbeat(running=self._running()))
        elif now - self._said_hello_at >= HELLO_EVERY_S:
            self.hello()

    def started(self, key: Key) -> None:
        """A call's code begins. Not told of one that ends at once: its result says it, too."""
        if key not in self._beginning:
            self._beginning[key] = self._loop.call_later(AT_ONCE_S, self._tell_started, key)

    def _tell_started(self, key: Key) -> None:
        timer = self._beginning.pop(key, None)
        if timer is not None:
            timer.cancel()
            self._send(work.Started(session_id=key[0], call_id=key[1]))

    def progressed(self, key: Key, text: str) -> None:
        """Told only if somebody listens."""
        self._tell_started(key)
        if self.is_welcome.is_set():
            self._send(work.Progress(session_id=key[0], call_id=key[1], text=text))

    def ended(self, result: work.Result) -> None:
        """Kept until acknowledged. The free places are told along with it, where that is taken."""
        key = (result.session_id, result.call_id)
        timer = self._beginning.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._unacked[key] = result
        if self._takes_credit_in_results and self.is_welcome.is_set():
            self._told = self._credit()
            free, received = self._told
            result = msgspec.structs.replace(result, free=free, received=received)
        self._send(result)

    def changed(self) -> None:
        """Tell how many calls we can take, once for all that happens in this turn of the loop."""
        if not self._is_credit_due:
            self._is_credit_due = True
            self._loop.call_soon(self._tell_credit)

    def _tell_credit(self) -> None:
        self._is_credit_due = False
        # The same number after another call is news: the dispatcher counts down what it sends.
        state = self._credit()
        if state != self._told and self.is_welcome.is_set():
            self._told = state
            self._send(work.Credit(free=state[0], received=state[1]))

    def _credit(self) -> tuple[int, int]:
        free = self._pool.free(self._lane)
        if self._is_leaving or len(self._unacked) >= UNACKED_LIMIT:
            free = 0
        return free, self._received

    def leave(self) -> None:
        """Take nothing more."""
        self._is_leaving = True
        self.changed()

    def bye(self) -> None:
        """The last word: nothing follows it, whatever is heard or ends from now on."""
        self._send(work.Bye())
        self._has_left = True

    @property
    def owes(self) -> int:
        """Results that nobody has acknowledged yet."""
        return len(self._unacked)

    def _heard(self, message: Frames) -> None:
        try:
            header, _ = _codec.decode(message)
        except base.BadMessage as error:
            self._runtime.refused(
                "bad_messages", "message.refused", who="dispatcher", why=str(error)
            )
            return
        self._heard_at = self._loop.time()
        match header:
            case work.PoolWelcome():
                self._takes_credit_in_results = header.credit_in_results
                self._welcomed()
            case work.Call():
                self._call(header)
            case work.CancelCall():
                self._pool.cancel((header.session_id, header.call_id), header.reason)
            case work.Acked():
                self._unacked.pop((header.session_id, header.call_id), None)
                self.changed()
            case work.Reset():
                self.is_welcome.clear()
                self.hello()
            case work.Drain():
                # As if told to stop: what runs is finished, then comes the last word.
                self._runtime.stopping.set()
            case work.PoolHeartbeat():
                pass

    def _welcomed(self) -> None:
        again = self.is_welcome.is_set()
        self.is_welcome.set()
        self._told = None
        self.changed()
        if not again:
            for result in self._unacked.values():
                self._send(result)

    def _call(self, call: work.Call) -> None:
        self._received += 1
        key = (call.session_id, call.call_id)
        kept = self._unacked.get(key)
        if kept is not None:
            self._send(kept)
            self.changed()
        elif self._pool.holds(key):
            self.started(key)
            self.changed()
        else:
            self._pool.call(call)

    def _running(self) -> list[work.CallRef]:
        return [
            work.CallRef(session_id=key[0], call_id=key[1], age_ms=round(age_s * 1000))
            for key, age_s in self._pool.running(self._lane)
        ]

    def _send(self, message: work.ToPool) -> None:
        if self._has_left:
            return  # a heartbeat now would ask to be known again
        self._dealer.send([base.encode(message)])
