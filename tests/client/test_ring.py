import asyncio
import weakref

import pytest

from voicebus.client.errors import Lagged
from voicebus.client.ring import Ring


async def test_each_reader_has_its_own_place() -> None:
    ring: Ring[int] = Ring("events", 10)
    ring.put(1)
    old, new = ring.reader(), ring.reader(from_now=True)
    ring.put(2)
    ring.close()

    assert ([one async for one in old], [one async for one in new]) == ([1, 2], [2])


async def test_a_slow_reader_is_told_what_it_missed_and_goes_on_behind_it() -> None:
    ring: Ring[int] = Ring("events", 3, number=lambda value: value)
    reader = ring.reader()
    for value in range(1, 8):
        ring.put(value)
    ring.close()

    with pytest.raises(Lagged, match="missed 4; going on at seq 5") as lagged:
        await anext(reader)

    assert lagged.value.missed == 4
    assert [one async for one in reader] == [5, 6, 7]


async def test_a_reader_overtaken_while_it_waited_is_told_too() -> None:
    ring: Ring[int] = Ring("events", 2)
    reader = ring.reader()
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    for value in range(5):
        ring.put(value)

    with pytest.raises(Lagged, match=r"missed 3: read faster$"):  # without numbers no replay
        await waiting


class Value:
    """Something that can be looked for."""


async def test_what_all_have_read_is_let_go_where_nobody_may_read_it_again() -> None:
    ring: Ring[Value] = Ring("sound", 10, keeps_read=False)
    first, second = ring.reader(), ring.reader()
    value = Value()
    seen = weakref.ref(value)
    ring.put(value)
    del value

    await anext(first)
    after_one = seen() is not None
    await anext(second)

    assert after_one
    assert seen() is None
    ring.put(Value())
    assert await anext(first) is await anext(second)


async def test_a_reader_that_nobody_has_any_more_holds_nothing() -> None:
    ring: Ring[Value] = Ring("sound", 10, keeps_read=False)
    reader = ring.reader()
    gone = ring.reader()
    value = Value()
    seen = weakref.ref(value)
    ring.put(value)
    del value, gone

    await anext(reader)

    assert seen() is None


async def test_the_bound_is_on_the_sum_of_the_costs() -> None:
    ring: Ring[bytes] = Ring("sound", 10, cost=len)
    ring.put(b"123456")
    ring.put(b"789012")
    ring.close()
    reader = ring.reader()

    assert [one async for one in reader] == [b"789012"]


async def test_readers_get_everything_before_they_get_the_error() -> None:
    ring: Ring[int] = Ring("events", 10)
    reader = ring.reader()
    ring.put(1)
    ring.close(ValueError("gone"))

    assert await anext(reader) == 1
    with pytest.raises(ValueError, match="gone"):
        await anext(reader)
