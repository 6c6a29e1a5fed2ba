"""A dispatcher that is there for one worker: says what it is told to, and keeps what it hears."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from voicebus.bus import frames, ids
from voicebus.bus.messages import base, work
from voicebus.bus.sockets import Frames, Route, Router, Sockets

SESSION = "s0-" + "0" * 26
R = TypeVar("R", bound=work.ToPool)

_codec: frames.Codec[work.ANY_TO_POOL] = frames.Codec(work.ANY_TO_POOL, what="worker to dispatcher")


class Broken(AssertionError):
    """The worker broke a rule. The text says which, what was expected and what came."""


class Bench:
    """One endpoint, one worker. What it says is kept in `heard`, oldest first, with its time."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.heard: list[tuple[float, work.ToPool]] = []
        self.faults: list[str] = []
        """Messages that no dispatcher would understand."""
        self.is_silent = False
        """Like a dispatcher that hangs: it hears and answers nothing."""
        self.knows_it = False
        """Whether the worker was welcomed by this incarnation; others are told to reset."""
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._route: Route | None = None
        self._sockets: Sockets | None = None
        self._router: Router | None = None
        self._next = 0
        self.open()

    def open(self) -> None:
        """Like a dispatcher that starts."""
        self.inc = ids.incarnation()
        self.knows_it = False
        self._sockets = Sockets()
        self._router = self._sockets.router(self.endpoint, self._received)

    def close(self) -> None:
        """Like a dispatcher that ends."""
        if self._sockets is not None:
            self._sockets.close()
        self._sockets = self._router = None
        self._route = None

    def _received(self, route: Route, message: Frames) -> None:
        try:
            if len(message) != 1:
                raise base.BadMessage(f"{len(message)} frames; every message is one frame")
            said, _ = _codec.decode(message)
        except base.BadMessage as error:
            self.faults.append(f"{error}: {b' '.join(message)[:200].decode('utf-8', 'replace')}")
            self._news.set()
            return
        self._route = route
        now = self._loop.time()
        self.heard += [(now, one) for one in self._parts(said)]
        if isinstance(said, work.WorkerHello):
            if self.knows_it:  # else it is answered when a check wants it
                self.welcome()
        elif not self.knows_it:
            self.say(work.Reset())
        elif isinstance(said, work.Heartbeat):
            self.say(work.PoolHeartbeat())
        self._news.set()

    def _parts(self, said: work.ToPool) -> list[work.ToPool]:
        """What a message carries besides is looked at as what it is."""
        parts: list[work.ToPool] = [said]
        if isinstance(said, work.Result) and said.free is not None:
            parts = [
                msgspec.structs.replace(said, free=None, received=None),
                work.Credit(free=said.free, received=said.received),
            ]
        elif isinstance(said, work.WorkerHello) and said.free is not None:
            if self.knows_it and not self.is_silent:
                parts.append(work.Heartbeat(running=said.running))
            parts.append(work.Credit(free=said.free, received=said.received))
        return parts

    def say(self, message: work.FromPool) -> None:
        """To the worker that spoke last."""
        if self.is_silent or self._router is None or self._route is None:
            return
        self._router.send(self._route, [base.encode(message)])

    def welcome(self) -> None:
        """It is known from now on."""
        self.knows_it = True
        self.say(work.PoolWelcome(inc=self.inc, credit_in_results=True))

    def call(self, tool: str, args: dict[str, object], budget_ms: int = 20_000) -> work.Call:
        """Give it a call that nobody has had before."""
        self._next += 1
        call = work.Call(
            session_id=SESSION,
            call_id=f"check-{self._next}",
            tool=tool,
            args=args,
            epoch=0,
            budget_ms=budget_ms,
        )
        self.say(call)
        return call

    def cancel(self, call_id: str) -> None:
        """Stop that call."""
        self.say(work.CancelCall(session_id=SESSION, call_id=call_id, reason="interrupt"))

    def acked(self, call_id: str) -> None:
        """Its result is safe."""
        self.say(work.Acked(session_id=SESSION, call_id=call_id))

    @property
    def mark(self) -> int:
        """How much was heard so far: `expect(…, after=mark)` looks at what comes later."""
        return len(self.heard)

    def since(self, mark: int, kind: type[R]) -> list[R]:
        """Messages of that kind which came after the mark."""
        return [one for _, one in self.heard[mark:] if isinstance(one, kind)]

    async def expect(
        self,
        kind: type[R],
        what: str,
        *,
        after: int,
        within_s: float,
        fits: Callable[[R], bool] = lambda _message: True,
    ) -> R:
        """The first such message after the mark. Raises Broken, which tells what came instead."""
        until = self._loop.time() + within_s
        while True:
            for one in self.since(after, kind):
                if fits(one):
                    return one
            if self.faults:
                raise Broken(f"it said what is no message: {self.faults.pop(0)}")
            left = until - self._loop.time()
            if left <= 0:
                came = [_brief(one) for _, one in self.heard[after:]]
                said = ", ".join(one for one in came if one != "heartbeat")[-300:]
                raise Broken(
                    f"expected {what} within {within_s:g} s; it said {said or 'nothing'}"
                    + (" and heartbeats" if "heartbeat" in came else "")
                )
            self._news.clear()
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def quiet(self, seconds: float) -> None:
        """Let so much time pass, hearing."""
        await asyncio.sleep(seconds)


def _brief(message: work.ToPool) -> str:
    kind = str(message.__struct_config__.tag)
    match message:
        case work.Result():
            return f"result of {message.call_id} ({message.status})"
        case work.Started() | work.Progress():
            return f"{kind} of {message.call_id}"
        case work.Credit():
            return f"credit {message.free}"
        case _:
            return kind
