import asyncio
from array import array
from collections.abc import AsyncIterator

import pytest

from voicebus.bus import sockets
from voicebus.bus.messages import events
from voicebus.bus.messages.commands import CommandError
from voicebus.client import (
    ClientError,
    CommandRefused,
    NobodyAnswers,
    NoReply,
    RealtimeClient,
)
from voicebus.client.remote import Elsewhere
from voicebus.client.testing import FakeCell

OPENED = events.SessionOpened(session_id="s", provider="openai")
LOUD = (8000).to_bytes(2, "little")


async def test_what_happens_after_connecting_comes_as_typed_events(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect(instructions="Be brief.") as session:
        cell.publish(session.id, OPENED, events.AssistantTurnStarted(turn_id="r1"), cause="c1")
        reader = session.events()
        first, second = await anext(reader), await anext(reader)

    assert (first.kind, first.seq, first.cause) == ("session_opened", 1, "c1")
    assert second.data == events.AssistantTurnStarted(turn_id="r1")
    assert cell.asked("open")[0].data == {"config": {"instructions": "Be brief."}}
    assert cell.asked("close")


async def test_events_end_after_session_closed(cell: FakeCell, client: RealtimeClient) -> None:
    session = await client.connect()
    reader = session.events()
    cell.publish(session.id, OPENED, events.SessionClosed(reason="limit"))

    assert [event.kind async for event in reader] == ["session_opened", "session_closed"]
    await session.close()
    assert not cell.asked("close")


async def test_a_lost_reply_is_asked_for_again_with_the_same_id(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        cell.lose_replies = 2
        id = await session.send_text("Hello")

    assert cell.lose_replies == 0
    assert {one.id for one in cell.asked("send_text")} == {id}


@pytest.mark.usefixtures("unhurried")
async def test_a_refusal_that_may_pass_is_tried_again(
    cell: FakeCell, client: RealtimeClient
) -> None:
    refusals = [CommandError(code="busy", message="later", retry=True, after_ms=1)] * 2

    async with client.connect() as session:
        cell.answers["interrupt"] = lambda command: refusals.pop() if refusals else {}
        await session.interrupt()

    assert len(cell.asked("interrupt")) == 3


@pytest.mark.usefixtures("unhurried")
async def test_a_refusal_that_stays_says_code_and_message(
    cell: FakeCell, client: RealtimeClient
) -> None:
    cell.answers["open"] = lambda command: CommandError(
        code="bad_request", message="config has no voise (did you mean voice?)"
    )

    with pytest.raises(CommandRefused, match="did you mean voice") as refused:
        await client.connect(voise="marin")

    assert (refused.value.code, refused.value.retry) == ("bad_request", False)
    assert len(cell.asked("open")) == 1


@pytest.mark.usefixtures("unhurried")
async def test_a_tool_that_does_not_exist_is_not_waited_for_twice(
    cell: FakeCell, client: RealtimeClient
) -> None:
    cell.answers["open"] = lambda command: CommandError(
        code="tool_unavailable", message="no tool wether", retry=True
    )

    with pytest.raises(CommandRefused, match="wether"):
        await client.connect(tools=["wether"])

    assert len(cell.asked("open")) == 1


async def test_where_nobody_runs_the_error_names_the_socket_and_what_to_do(run_dir: str) -> None:
    async with RealtimeClient(run_dir, deadline_s=0.1) as client:
        with pytest.raises(NobodyAnswers, match=r"session-0\.commands.*voicebus status"):
            await client.connect()


async def test_where_no_relay_answers_the_error_speaks_of_the_relay() -> None:
    async with RealtimeClient(Elsewhere("127.0.0.1", 1), deadline_s=0.1) as client:
        with pytest.raises(NobodyAnswers, match=r"tcp://127\.0\.0\.1:2: does a relay listen"):
            await client.connect()


async def test_a_session_process_that_was_there_and_is_silent_is_told_from_one_that_never_was(
    cell: FakeCell, run_dir: str
) -> None:
    async with RealtimeClient(run_dir) as client:
        await client.ping()
        cell.kill()

        with pytest.raises(NoReply, match="did not answer ping"):
            await client.ping(deadline_s=0.2)


async def test_attaching_shows_everything_from_the_first_event_and_leaving_ends_nothing(
    cell: FakeCell, client: RealtimeClient
) -> None:
    session_id = cell.begin()
    cell.publish(session_id, OPENED, events.AssistantTurnStarted(turn_id="r1"), lost=True)

    async with client.attach(session_id) as session:
        reader = session.events()
        kinds = [(await anext(reader)).kind for _ in range(2)]

    assert kinds == ["session_opened", "assistant_turn_started"]
    assert not cell.asked("close")


async def test_attaching_for_what_is_new_skips_what_was(
    cell: FakeCell, client: RealtimeClient
) -> None:
    session_id = cell.begin()
    cell.publish(session_id, OPENED, lost=True)

    async with client.attach(session_id, from_seq=None) as session:
        cell.publish(session_id, events.AssistantTurnStarted(turn_id="r1"))
        event = await anext(session.events())

    assert (event.kind, event.seq) == ("assistant_turn_started", 2)


async def test_a_killed_session_process_costs_no_event_and_repeats_none(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        reader = session.events()
        cell.publish(session.id, OPENED)
        await anext(reader)
        cell.kill()
        turns = [events.AssistantTurnStarted(turn_id=f"r{n}") for n in range(500)]
        cell.publish(session.id, *turns)
        cell.start()
        cell.repeat(session.id, 1)
        cell.publish(session.id, events.SessionClosed(reason="server"))

        seqs = [event.seq async for event in reader]

    assert seqs == list(range(2, 503))
    assert session.healed


async def test_a_lost_tail_is_seen_by_the_head_and_fetched(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        cell.publish(session.id, OPENED, lost=True)
        cell.head(session.id)
        event = await anext(session.events())

    assert event.seq == 1


async def test_a_replay_that_makes_no_sense_is_asked_for_again(
    cell: FakeCell, client: RealtimeClient
) -> None:
    nonsense = [{"events": 5}]
    cell.answers["replay"] = lambda asked: nonsense.pop() if nonsense else cell.usual(asked)
    async with client.connect() as session:
        cell.publish(session.id, OPENED, lost=True)
        cell.head(session.id)

        assert (await anext(session.events())).kind == "session_opened"

    assert not nonsense


async def test_every_consumer_gets_every_event(cell: FakeCell, client: RealtimeClient) -> None:
    async with client.connect() as session:
        early, late = session.events(), session.events()
        cell.publish(session.id, OPENED)

        seen = [(await anext(reader)).seq for reader in (early, late, session.events())]

    assert seen == [1, 1, 1]


async def test_a_vanished_session_ends_its_events_with_an_error_that_says_so(
    cell: FakeCell, client: RealtimeClient
) -> None:
    session = await client.connect()
    cell.publish(session.id, OPENED, lost=True)
    del cell.log[session.id]
    cell.log[session.id + "x"] = []
    cell.send(b"event/" + session.id.encode() + b"/head", _head(session.id))

    with pytest.raises(Exception, match="is gone"):
        await anext(session.events())
    await session.detach()


async def test_replay_pages_through_everything(cell: FakeCell, client: RealtimeClient) -> None:
    async with client.connect() as session:
        cell.publish(session.id, *[events.AssistantTurnStarted(turn_id="r")] * 450)

        assert [event.seq for event in await session.replay()] == list(range(1, 451))
        assert len(await session.replay(10, 20)) == 11


async def test_sound_frames_are_numbered_and_a_commit_names_the_last(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect(turn_detection="none") as session:
        await session.send_audio(b"\1\0" * 480)
        await session.send_audio(b"\2\0" * 480)
        await session.commit_audio()
        await session.send_audio(b"\3\0" * 480)
        await cell.until(lambda: len(cell.voice) == 3)

    assert [header["n"] for header, _ in cell.voice] == [1, 2, 3]
    assert [header["follows_command"] for header, _ in cell.voice] == [False, False, True]
    assert cell.voice[1][1] == b"\2\0" * 480
    token = cell.voice[1][0]["token"]
    commit = cell.asked("commit_audio")[0]
    assert commit.data == {"after_n": 2, "token": token, "respond": True}


async def test_a_turn_at_another_rate_goes_out_to_its_end_before_its_commit(
    cell: FakeCell, client: RealtimeClient
) -> None:
    pytest.importorskip("soxr")
    async with client.connect(turn_detection="none") as session:
        await session.send_audio(LOUD * 16_000, rate_hz=16_000)
        await session.commit_audio()
        after_n = cell.asked("commit_audio")[0].data["after_n"]
        await cell.until(lambda: len(cell.voice) >= after_n)

    assert abs(sum(len(piece) // 2 for _, piece in cell.voice[:after_n]) - 24_000) <= 2


async def test_what_was_said_at_another_rate_goes_out_to_its_end_before_what_needs_none(
    cell: FakeCell, client: RealtimeClient
) -> None:
    pytest.importorskip("soxr")
    async with client.connect() as session:
        await session.send_audio(LOUD * 16_000, rate_hz=16_000)
        await session.send_audio(LOUD * 480)
        await cell.until(lambda: len(cell.voice) >= session.sent_frames)

    assert abs(sum(len(piece) // 2 for _, piece in cell.voice) - 24_480) <= 2
    assert cell.voice[-1][1] == LOUD * 480


async def test_the_end_of_what_was_said_at_another_rate_goes_out_before_the_close(
    cell: FakeCell, client: RealtimeClient
) -> None:
    pytest.importorskip("soxr")
    async with client.connect() as session:
        sent = await session.send_audio(LOUD * 1600, rate_hz=16_000)

    assert cell.asked("close")[0].data["after_n"] == sent + 1


async def test_nothing_of_what_was_cleared_at_another_rate_is_heard_later(
    cell: FakeCell, client: RealtimeClient
) -> None:
    pytest.importorskip("soxr")
    async with client.connect(turn_detection="none") as session:
        await session.send_audio(LOUD * 8000, rate_hz=16_000)
        await session.clear_audio()
        cleared = session.sent_frames
        await session.send_audio(bytes(16_000), rate_hz=16_000)
        await session.commit_audio()
        await cell.until(lambda: len(cell.voice) >= session.sent_frames)

    heard = array("h", b"".join(piece for _, piece in cell.voice[cleared:]))
    assert abs(len(heard) - 12_000) <= 2
    assert max(map(abs, heard)) <= 2


async def test_half_a_sample_is_refused_before_it_is_sent(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        with pytest.raises(ValueError, match="3 bytes of sound are no whole number of samples"):
            await session.send_audio(b"\0\0\0")

    assert not cell.voice


async def test_after_the_end_no_sound_is_sent(cell: FakeCell, client: RealtimeClient) -> None:
    async def rest() -> AsyncIterator[bytes]:
        yield bytes(960)

    async with client.connect() as session:
        await session.send_audio(bytes(960))

    assert await session.send_audio(bytes(960)) == 1
    assert await session.send_audio(rest()) == 1


async def test_a_close_that_is_cancelled_keeps_no_session_alive(
    cell: FakeCell, client: RealtimeClient
) -> None:
    session = await client.connect()
    cell.answers["close"] = lambda command: CommandError(code="busy", message="later", retry=True)
    closing = asyncio.create_task(session.close())
    await cell.until(lambda: bool(cell.asked("close")))
    closing.cancel()
    await asyncio.wait([closing])

    assert session.is_over


async def test_attaching_that_is_cancelled_leaves_no_task(
    cell: FakeCell, client: RealtimeClient, run_dir: str
) -> None:
    session_id = cell.begin()
    silent = f"ipc://{run_dir}/nobody"
    cell.answers["attach"] = lambda command: {**cell.usual(command), "events": silent}
    before = asyncio.all_tasks()
    attaching = asyncio.ensure_future(client.attach(session_id))
    while len(asyncio.all_tasks()) < len(before) + 2:  # noqa: ASYNC110 - it waits for the welcome
        await asyncio.sleep(0)
    attaching.cancel()
    await asyncio.wait([attaching])
    await asyncio.sleep(0)

    assert asyncio.all_tasks() <= before


async def test_closing_the_client_ends_what_was_joined_by_it(
    cell: FakeCell, client: RealtimeClient
) -> None:
    session = await client.connect()
    reader = session.events()
    client.close()

    assert [event async for event in reader] == []
    assert session.is_over


async def test_what_was_asked_before_a_client_was_closed_connects_no_more(
    cell: FakeCell, client: RealtimeClient
) -> None:
    await client.ping(0)
    cell.kill()
    asking = asyncio.create_task(client.ping(0, deadline_s=0.6))  # it is said again after 0.25 s
    await asyncio.sleep(0)

    client.close()

    with pytest.raises(NoReply):
        await asking
    assert client._made is None


@pytest.mark.usefixtures("unhurried")
async def test_a_program_without_room_for_sockets_is_told_and_leaves_no_session_open(
    cell: FakeCell, client: RealtimeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "MAX_SOCKETS", 4)  # one for commands, two for a session
    async with client.connect() as session:
        with pytest.raises(OSError, match="can open no more sockets; raise its limit"):
            await client.connect()
        closed = [one.session_id for one in cell.asked("close")]

    assert closed == [one for one in cell.log if one != session.id]


async def test_a_client_that_was_closed_connects_again(
    cell: FakeCell, client: RealtimeClient
) -> None:
    for _ in range(2):
        async with client, client.connect():
            pass

    assert len(cell.log) == 2


async def test_events_before_the_first_are_not_waited_for(
    cell: FakeCell, client: RealtimeClient
) -> None:
    with pytest.raises(ClientError, match="from_seq is 0: events count from 1"):
        await client.attach(cell.begin(), from_seq=0)


async def test_the_assistants_sound_comes_in_order_with_its_end_and_flushes(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        await cell.until(lambda: cell.listens(session.id))
        cell.sound(session.id, b"\1\0" * 10)
        cell.end_sound(session.id, 10)
        cell.flush(session.id, ["r2"])
        reader = session.audio_output()
        heard = [await anext(reader) for _ in range(3)]

    assert [type(one).__name__ for one in heard] == ["Sound", "SoundEnd", "SoundFlush"]


async def test_a_program_that_says_nothing_keeps_its_lease_by_pings(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect(lease_s=0.03):
        await cell.until(lambda: len(cell.asked("ping")) > 1)


async def test_a_lease_that_somebody_changed_is_kept_as_it_is_now(
    cell: FakeCell, client: RealtimeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voicebus.client.session.PING_S", 3600.0)
    async with client.connect(lease_s=86_400) as session:
        cell.publish(session.id, events.SessionUpdated(lease_s=0.03))
        await cell.until(lambda: len(cell.asked("ping")) > 1)


async def test_raw_events_are_subscribed_when_somebody_reads_them(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        raw = session.raw_events()
        header = b'{"kind":"response.done","dir":"up"}'
        topic = f"raw/{session.id}/response.done".encode()
        reading = asyncio.ensure_future(anext(raw))
        while not reading.done():
            cell.send(topic, header, b'{"type":"response.done"}')
            await asyncio.sleep(0)

    event = await reading
    assert (event.direction, event.type) == ("up", "response.done")
    assert event.frame == {"type": "response.done"}


def _head(session_id: str) -> bytes:
    return b'{"kind":"head","session_id":"' + session_id.encode() + b'","data":{"seq":1}}'
