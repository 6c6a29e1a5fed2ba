import asyncio
from typing import Any

import pytest

from voicebus.bus.messages import events
from voicebus.bus.messages.sound import AudioFormat
from voicebus.client import RealtimeClient, RealtimeSession
from voicebus.client.playback import Playback
from voicebus.client.player import Played
from voicebus.client.testing import FakeCell

MILLISECOND = 24


def audio_done(samples: int, item_id: str = "i1") -> events.AssistantAudioDone:
    return events.AssistantAudioDone(
        turn_id="r1", item_id=item_id, content_index=0, samples=samples
    )


async def listened(cell: FakeCell, session: RealtimeSession) -> None:
    await cell.until(lambda: cell.listens(session.id))


def reports(cell: FakeCell) -> list[tuple[Any, ...]]:
    """Each once: one that nothing has answered for a while is said again."""
    each = {one.id: one.data for one in cell.asked("report_playback")}
    return [
        (data["item_id"], data["state"], data["played_ms"])
        for data in each.values()
        if data["state"] != "playing"
    ]


async def test_an_answer_is_heard_to_its_end_and_reported_as_done(
    cell: FakeCell, client: RealtimeClient
) -> None:
    heard: list[Played] = []
    async with client.connect() as session:
        await listened(cell, session)
        async with Playback(session, heard=heard.append) as playback:
            cell.sound(session.id, b"\1\0" * 40 * MILLISECOND)
            cell.end_sound(session.id, 40 * MILLISECOND)
            await cell.until(lambda: bool(reports(cell)))
            await playback.quiet()

    assert reports(cell) == [("i1", "done", 40)]
    assert b"".join(one.samples for one in heard) == b"\1\0" * 40 * MILLISECOND


async def test_a_flush_is_reported_at_once_with_what_was_heard(
    cell: FakeCell, client: RealtimeClient
) -> None:
    heard: list[Played] = []
    async with client.connect() as session:
        await listened(cell, session)
        async with Playback(session, heard=heard.append):
            cell.sound(session.id, bytes(2 * 60_000 * MILLISECOND))
            await cell.until(lambda: bool(cell.asked("report_playback")))
            cell.flush(session.id)
            await cell.until(lambda: bool(reports(cell)))

    [(item, state, played_ms)] = reports(cell)
    assert (item, state) == ("i1", "stopped")
    assert played_ms == sum(len(one.samples) for one in heard) // 2 // MILLISECOND
    assert 250 <= played_ms < 60_000


async def test_the_interrupted_event_stops_what_a_lost_flush_did_not(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        await listened(cell, session)
        arrived = asyncio.Event()
        async with Playback(session, came=lambda piece: arrived.set()) as playback:
            cell.sound(session.id, bytes(2 * 60_000 * MILLISECOND))
            await arrived.wait()
            cell.publish(
                session.id,
                events.Interrupted(turn_id="r1", reason="manual", responses=["r1"]),
            )
            await cell.until(lambda: bool(reports(cell)))

            assert playback.is_quiet

    assert reports(cell)[0][1] == "stopped"


@pytest.mark.usefixtures("unhurried")
async def test_sound_that_is_announced_is_waited_for(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        await listened(cell, session)
        async with Playback(session) as playback:
            cell.publish(session.id, audio_done(10 * MILLISECOND))
            await anext(session.events())
            await asyncio.sleep(0)  # the player's own reader was woken with this one
            was_quiet = playback.is_quiet
            cell.sound(session.id, bytes(2 * 10 * MILLISECOND))
            cell.end_sound(session.id, 10 * MILLISECOND)
            await playback.quiet()

    assert not was_quiet
    assert reports(cell) == [("i1", "done", 10)]


@pytest.mark.parametrize(("format", "samples"), [("pcm16", 2400), ("g711_ulaw", 800)])
async def test_what_was_dropped_on_the_way_is_told_by_how_long_it_lasts(
    cell: FakeCell, client: RealtimeClient, format: AudioFormat, samples: int
) -> None:
    arrived = asyncio.Event()
    async with client.connect(output_audio_format=format) as session:
        await listened(cell, session)
        async with Playback(session, came=lambda piece: arrived.set()) as playback:
            cell.sound(session.id, bytes(160), offset_samples=samples, format=format)
            await arrived.wait()

            assert playback.missing_ms == 100


async def test_sound_that_was_announced_and_never_comes_holds_nobody_up_for_ever(
    cell: FakeCell, client: RealtimeClient
) -> None:
    settled = asyncio.Event()
    async with client.connect() as session, Playback(session, settled=settled.set):
        cell.publish(session.id, audio_done(10 * MILLISECOND))
        await settled.wait()

    assert reports(cell) == []


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("which", ["heard", "came", "settled"])
async def test_what_a_function_of_the_programs_raises_reaches_the_program(
    cell: FakeCell, client: RealtimeClient, which: str
) -> None:
    def fail(*what: Any) -> None:
        raise OSError("no space left")

    async def play(session: RealtimeSession) -> None:
        async with Playback(session, **{which: fail}) as playback:
            cell.publish(session.id, audio_done(40 * MILLISECOND))
            await anext(session.events())
            await asyncio.sleep(0)  # the player's own reader was woken with this one
            cell.sound(session.id, b"\1\0" * 40 * MILLISECOND)
            cell.end_sound(session.id, 40 * MILLISECOND)
            with pytest.raises(OSError, match="no space left"):
                await playback.quiet()

    async with client.connect() as session:
        await listened(cell, session)
        with pytest.raises(OSError, match="no space left"):
            await play(session)
