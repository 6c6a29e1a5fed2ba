import pytest

from voicebus.bus.messages import events
from voicebus.client import CommandRefused, Event, NobodyAnswers, RealtimeClient
from voicebus.client.errors import ClientError
from voicebus.client.testing import FakeCell
from voicebus.client.watch import Healed, SoundSeen, Watch

OPENED = events.SessionOpened(session_id="s", provider="openai")
CLOSED = events.SessionClosed(reason="client")


def turns(count: int) -> list[events.AssistantTurnStarted]:
    return [events.AssistantTurnStarted(turn_id=f"r{n}") for n in range(count)]


async def test_one_session_is_seen_from_its_first_event_to_its_last(
    cell: FakeCell, client: RealtimeClient
) -> None:
    session_id = cell.begin()
    cell.publish(session_id, OPENED, *turns(300), lost=True)
    watch = Watch(client, session_id)
    await watch.joined()
    cell.publish(session_id, CLOSED)

    seen = [one async for one in watch.seen() if isinstance(one, Event)]
    watch.close()

    assert [event.seq for event in seen] == list(range(1, 303))
    assert not cell.asked("attach")


async def test_an_ended_session_can_still_be_read(cell: FakeCell, client: RealtimeClient) -> None:
    session_id = cell.begin()
    cell.publish(session_id, OPENED, CLOSED, lost=True)
    watch = Watch(client, session_id)
    await watch.joined()

    assert [one.seq async for one in watch.seen() if isinstance(one, Event)] == [1, 2]
    watch.close()


async def test_of_all_sessions_old_ones_are_seen_from_now_and_new_ones_whole(
    cell: FakeCell, client: RealtimeClient
) -> None:
    old = cell.begin()
    cell.publish(old, OPENED, lost=True)
    watch = Watch(client)
    await watch.joined()
    cell.publish(old, *turns(1))
    new = cell.begin()
    cell.publish(new, OPENED, lost=True)
    cell.publish(new, *turns(1))

    reader = watch.seen()
    seen = [await anext(reader) for _ in range(4)]
    watch.close()

    events_seen = [(one.session_id, one.seq) for one in seen if isinstance(one, Event)]
    assert events_seen == [(old, 2), (new, 1), (new, 2)]
    assert Healed(new, (1, 1)) in seen  # type: ignore[arg-type]


async def test_a_publisher_that_welcomes_twice_does_not_stand_for_another(
    cell: FakeCell, run_dir: str
) -> None:
    async with RealtimeClient(run_dir, shards=2) as client:
        watch, other = Watch(client), Watch(client)  # all are welcomed when one more subscribes
        with pytest.raises(NobodyAnswers, match=r"session-0\.events, .*session-1\.events"):
            await watch.joined(timeout_s=0.3)

        with FakeCell(run_dir, shard=1):
            await watch.joined(timeout_s=30.0)
        watch.close()
        other.close()


async def test_sound_is_seen_by_its_headers(cell: FakeCell, client: RealtimeClient) -> None:
    session_id = cell.begin()
    watch = Watch(client, session_id, audio_out=[cell.endpoints.audio_out(0)])
    await watch.joined()
    await cell.until(lambda: cell.listens(session_id))
    cell.sound(session_id, bytes(960))

    seen = await anext(watch.seen())
    watch.close()

    assert isinstance(seen, SoundSeen)
    assert (seen.header["kind"], seen.size_bytes) == ("assistant_audio_delta", 960)


async def test_a_session_that_does_not_exist_is_told(
    cell: FakeCell, client: RealtimeClient
) -> None:
    there = cell.begin()
    watch = Watch(client, there[:-1] + ("1" if there.endswith("0") else "0"))

    with pytest.raises(CommandRefused, match="no session"):
        await watch.joined()
    watch.close()


async def test_a_word_that_is_no_session_id_is_told(client: RealtimeClient) -> None:
    with pytest.raises(ClientError, match="is no session id"):
        Watch(client, "hello")


async def test_where_nobody_publishes_watching_ends_with_a_clear_error(run_dir: str) -> None:
    async with RealtimeClient(run_dir) as client:
        watch = Watch(client)

        with pytest.raises(NobodyAnswers, match="no welcome on"):
            await watch.joined(timeout_s=0.1)
        watch.close()
