"""One thread beside the loop, for what must not hold it up: one thing after the other, in order."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Thread:
    """A thread pool of one takes three times the CPU and the time to go there and come back: it
    makes a future of its own for threads to wait for, and tells the loop's by way of that."""

    def __init__(self, name: str) -> None:
        """Daemonic: whoever does not `end` it leaves what is under way undone."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        self._has_ended = False

    async def do(self, what: Callable[..., T], *arguments: Any) -> T:
        """Have it done after everything before it. Raises what it raises, and RuntimeError when
        the thread has ended."""
        if self._has_ended:
            raise RuntimeError(f"the thread {self._thread.name} has ended: nothing more is done")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((loop, done, what, arguments))
        return await done

    def end(self) -> None:
        """Wait until all of it is done; nothing more is."""
        self._has_ended = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, done, what, arguments = job
            try:
                result, error = what(*arguments), None
            except BaseException as raised:
                result, error = None, raised
            # A loop that has ended waits for nothing.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_tell, done, result, error)
            # What was done, and what came of it, is not kept until there is something to do again.
            del job, loop, done, what, arguments, result, error


_Job = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


def _tell(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():
        return  # whoever waited was cancelled
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
