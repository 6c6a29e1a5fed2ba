"""The thread beside the loop: in order, one at a time, and whatever comes of it comes back."""

import asyncio
import threading
import weakref
from typing import Any

import pytest

from voicebus.services.session.thread import Thread


async def test_things_are_done_one_after_the_other_in_a_thread_of_their_own() -> None:
    thread = Thread("clerk")
    done: list[tuple[int, str]] = []

    def note(number: int) -> int:
        done.append((number, threading.current_thread().name))
        return number * 2

    results = await asyncio.gather(*(thread.do(note, number) for number in range(5)))

    assert results == [0, 2, 4, 6, 8]
    assert done == [(number, "clerk") for number in range(5)]
    thread.end()


async def test_what_is_raised_there_is_raised_here_and_the_next_is_done() -> None:
    thread = Thread("clerk")

    with pytest.raises(ZeroDivisionError):
        await thread.do(lambda: 1 // 0)

    assert await thread.do(lambda: "next") == "next"
    thread.end()


async def test_the_loop_goes_on_meanwhile() -> None:
    thread = Thread("clerk")
    go_on = threading.Event()
    waiting = asyncio.create_task(thread.do(go_on.wait, 30))

    await asyncio.sleep(0)
    assert not waiting.done()
    go_on.set()

    assert await waiting is True
    thread.end()


async def test_whoever_no_longer_waits_disturbs_nobody() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    thread = Thread("clerk")
    go_on = threading.Event()
    waiting = asyncio.create_task(thread.do(go_on.wait, 30))
    await asyncio.sleep(0)

    waiting.cancel()
    go_on.set()

    assert await thread.do(lambda: "next") == "next"
    assert waiting.cancelled()
    assert told == []
    thread.end()


async def test_the_end_waits_for_what_was_given_before_and_refuses_what_comes_after() -> None:
    thread = Thread("clerk")
    done: list[int] = []
    waiting = asyncio.create_task(thread.do(done.append, 1))
    await asyncio.sleep(0)

    thread.end()

    assert done == [1]
    await waiting
    with pytest.raises(RuntimeError, match="clerk has ended"):
        await thread.do(done.append, 2)


async def test_nothing_that_was_done_is_kept() -> None:
    class Heavy:
        pass

    thread = Thread("clerk")
    heavy, is_gone = Heavy(), asyncio.Event()
    weakref.finalize(heavy, asyncio.get_running_loop().call_soon_threadsafe, is_gone.set)

    await thread.do(lambda _: None, heavy)
    del heavy

    async with asyncio.timeout(30):
        await is_gone.wait()
    thread.end()


def test_a_loop_that_has_ended_waits_for_nothing() -> None:
    thread = Thread("clerk")
    go_on = threading.Event()

    async def begin() -> None:
        waiting = asyncio.create_task(thread.do(go_on.wait, 30))
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(begin())
    go_on.set()

    assert asyncio.run(thread.do(lambda: "next")) == "next"
    thread.end()
