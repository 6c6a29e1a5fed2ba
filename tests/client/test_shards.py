"""Several session processes: each gets its share of the sessions, and who is away or full none."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from voicebus.bus import ids
from voicebus.bus.messages.commands import CommandError
from voicebus.client import CommandRefused, NobodyAnswers, RealtimeClient
from voicebus.client.remote import Elsewhere
from voicebus.client.testing import FakeCell

FULL = CommandError(code="busy", message="it is full", retry=True)


@pytest_asyncio.fixture
async def other(run_dir: str) -> AsyncIterator[FakeCell]:
    with FakeCell(run_dir, 1) as other:
        yield other
        assert other.error is None


async def opened_at(client: RealtimeClient, count: int) -> list[int | None]:
    """The shards of so many sessions, opened one after the other."""
    found = []
    for _ in range(count):
        session = await client.connect()
        found.append(ids.shard_of(session.id))
        await session.detach()
    return found


@pytest.mark.usefixtures("unhurried")
async def test_sessions_go_around_the_shards_that_are_there(
    cell: FakeCell, other: FakeCell, client: RealtimeClient
) -> None:
    found = await opened_at(client, 4)

    assert sorted(found[:2], key=str) == [0, 1]
    assert found[2:] == found[:2]


@pytest.mark.usefixtures("unhurried")
async def test_a_shard_that_is_full_is_left_to_the_others(
    cell: FakeCell, other: FakeCell, client: RealtimeClient
) -> None:
    cell.answers["open"] = lambda command: FULL

    assert await opened_at(client, 3) == [1, 1, 1]


@pytest.mark.usefixtures("unhurried")
async def test_busy_is_the_answer_only_when_all_are(
    cell: FakeCell, other: FakeCell, run_dir: str
) -> None:
    cell.answers["open"] = other.answers["open"] = lambda command: FULL

    async with RealtimeClient(run_dir, deadline_s=0.1) as client:
        with pytest.raises(CommandRefused, match="it is full"):
            await client.connect()

    assert len(cell.asked("open")) == len(other.asked("open")) == 1


@pytest.mark.usefixtures("unhurried")
async def test_a_refusal_that_all_would_give_is_not_asked_for_twice(
    cell: FakeCell, other: FakeCell, client: RealtimeClient
) -> None:
    wrong = CommandError(code="bad_request", message="config has no voise")
    cell.answers["open"] = other.answers["open"] = lambda command: wrong

    with pytest.raises(CommandRefused, match="no voise"):
        await client.connect()

    assert len(cell.asked("open")) + len(other.asked("open")) == 1


async def test_nothing_is_asked_to_open_of_a_shard_that_does_not_answer(
    cell: FakeCell, run_dir: str
) -> None:
    async with RealtimeClient(run_dir, shards=2) as client:
        assert await opened_at(client, 2) == [0, 0]

        with FakeCell(run_dir, 1) as late:
            await client.ping(1)  # what was said to it before comes before

            assert late.asked("open") == []


async def test_where_none_answers_all_are_named(run_dir: str) -> None:
    async with RealtimeClient(run_dir, shards=2, deadline_s=0.1) as client:
        with pytest.raises(NobodyAnswers, match=r"none of session-0, session-1.*voicebus status"):
            await client.connect()


async def test_a_session_is_joined_where_its_id_says(
    cell: FakeCell, other: FakeCell, client: RealtimeClient
) -> None:
    session_id = other.begin()

    session = await client.attach(session_id)
    await session.detach()

    assert session.id == session_id
    assert cell.asked("attach") == []


async def test_the_sessions_of_all_shards_are_listed(
    cell: FakeCell, other: FakeCell, client: RealtimeClient
) -> None:
    cell.answers["list"] = lambda command: {"sessions": [{"session_id": "a"}]}
    other.answers["list"] = lambda command: {"sessions": [{"session_id": "b"}]}

    assert [one["session_id"] for one in await client.sessions()] == ["a", "b"]
    assert [one["session_id"] for one in await client.sessions(1)] == ["b"]


async def test_one_shard_can_be_chosen(cell: FakeCell, other: FakeCell, run_dir: str) -> None:
    async with RealtimeClient(run_dir, shard=1) as client:
        assert await opened_at(client, 2) == [1, 1]


def test_a_relay_finds_the_shard_itself() -> None:
    assert RealtimeClient(Elsewhere("example.org")).shards == (0,)
