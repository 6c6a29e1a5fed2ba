"""A bounded memory with any number of readers, each at its own place."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar
from weakref import WeakSet

from voicebus.client.errors import Lagged

T = TypeVar("T")


class Ring(Generic[T]):
    """Keeps the newest values; whoever reads too slowly is told what was lost.

    One memory for all readers: a slow one costs nothing and holds nobody up.
    """

    def __init__(
        self,
        what: str,
        limit: int,
        *,
        cost: Callable[[T], int] = lambda value: 1,
        number: Callable[[T], int | None] = lambda value: None,
        keeps_read: bool = True,
    ) -> None:
        """`limit` bounds the sum of the costs; `number` names a value in `Lagged`. Without
        `keeps_read` a value goes as soon as all who are there have read it."""
        self._what = what
        self._limit = limit
        self._cost = cost
        self._number = number
        self._kept: deque[T] = deque()
        self._first = 0
        """The place of the oldest value kept."""
        self._size = 0
        self._keeps_read = keeps_read
        self._readers: WeakSet[Reader[T]] = WeakSet()
        self._waiting: set[asyncio.Future[None]] = set()
        self._ended = False
        self._error: Exception | None = None

    @property
    def end(self) -> int:
        """The place of the next value."""
        return self._first + len(self._kept)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended

    def put(self, value: T) -> None:
        """Never waits: the oldest go when it is full."""
        self._kept.append(value)
        self._size += self._cost(value)
        while self._size > self._limit and len(self._kept) > 1:
            self._drop_oldest()
        self._wake()

    def close(self, error: Exception | None = None) -> None:
        """No more values: readers end when they have read all, with `error` if there is one."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    def reader(self, *, from_now: bool = False) -> "Reader[T]":
        """Starts with the oldest value kept, or with what comes next."""
        reader = Reader(self, self.end if from_now else self._first)
        self._readers.add(reader)
        return reader

    def _drop_oldest(self) -> None:
        self._size -= self._cost(self._kept.popleft())
        self._first += 1

    def _was_read(self) -> None:
        if self._keeps_read:
            return
        slowest = min(reader._place for reader in self._readers)
        while self._first < slowest:
            self._drop_oldest()

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def _more(self, place: int) -> None:
        """Return when there is a value at that place. Raises StopAsyncIteration or the error."""
        while place >= self.end:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)

    def _behind(self, place: int) -> Lagged | None:
        if place >= self._first:
            return None
        number = self._number(self._kept[0]) if self._kept else None
        return Lagged(self._what, self._first - place, number)


class Reader(AsyncIterator[T]):
    """One consumer. Registered when it is made, not at its first step."""

    def __init__(self, ring: Ring[T], place: int) -> None:
        self._ring = ring
        self._place = place

    def __aiter__(self) -> "Reader[T]":
        return self

    async def __anext__(self) -> T:
        """Raises Lagged once per hole; the next step goes on behind it."""
        await self._ring._more(self._place)
        behind = self._ring._behind(self._place)
        if behind is not None:
            self._place = self._ring._first
            raise behind
        value = self._ring._kept[self._place - self._ring._first]
        self._place += 1
        self._ring._was_read()
        return value
