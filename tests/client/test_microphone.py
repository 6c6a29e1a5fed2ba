import asyncio

import pytest

from voicebus.bus.messages import events
from voicebus.client import BadSound, ClientError, CommandRefused, RealtimeClient
from voicebus.client.microphone import FRAME_BYTES, Microphone
from voicebus.client.testing import FakeCell
from voicebus.client.wav import Recording

VOICE = Recording(b"\x00\x20" * (FRAME_BYTES + 100))  # two frames and a bit


async def test_what_is_said_goes_out_in_frames_between_silence(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session, Microphone(session) as microphone:
        said = await microphone.say(VOICE)
        await cell.until(lambda: len(cell.voice) >= 6)

    frames = [samples for _, samples in cell.voice]
    voiced = [samples for samples in frames if any(samples)]
    assert {len(samples) for samples in frames} == {FRAME_BYTES}
    assert b"".join(voiced)[: len(VOICE.samples)] == VOICE.samples
    assert not any(frames[-1])
    assert said.ended - said.began == pytest.approx(VOICE.seconds, abs=0.001)


async def test_recordings_are_said_one_after_the_other(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session, Microphone(session) as microphone:
        first = await microphone.say(VOICE)
        second = await microphone.say(VOICE)

    assert second.began >= first.ended


async def test_a_session_that_ends_leaves_nobody_waiting(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session, Microphone(session) as microphone:
        cell.publish(session.id, events.SessionClosed(reason="limit"))

        with pytest.raises(ClientError, match="ended before all was said"):
            await microphone.say(Recording(bytes(48_000 * 30)))
        with pytest.raises(ClientError, match="ended before all was said"):
            await microphone.say(VOICE)


async def test_who_speaks_without_the_right_to_is_told_so(
    cell: FakeCell, client: RealtimeClient
) -> None:
    session_id = cell.begin()
    async with (
        client.attach(session_id, rights=("listen",)) as session,
        Microphone(session) as microphone,
    ):
        for _ in range(2):  # also who comes after it has failed
            with pytest.raises(CommandRefused, match="without the right to talk"):
                await microphone.say(VOICE)


async def test_a_session_of_another_format_is_not_sent_what_it_would_take_for_its_own(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with (
        client.connect(input_audio_format="g711_ulaw") as session,
        Microphone(session) as microphone,
    ):
        with pytest.raises(BadSound, match="this session takes g711_ulaw"):
            await microphone.say(VOICE)

    assert not cell.voice


async def test_a_microphone_that_is_closed_leaves_nobody_waiting(
    cell: FakeCell, client: RealtimeClient
) -> None:
    async with client.connect() as session:
        microphone = Microphone(session)
        with pytest.raises(ClientError, match="the microphone is not open"):
            await microphone.say(VOICE)
        async with microphone:
            speaking = asyncio.create_task(microphone.say(Recording(bytes(48_000 * 30))))
            await cell.until(lambda: bool(cell.voice))
        for late in (speaking, microphone.say(VOICE)):
            with pytest.raises(ClientError, match="closed before all was said"):
                await late


async def test_who_is_cancelled_says_no_more_and_the_next_is_heard_from_its_beginning(
    cell: FakeCell, client: RealtimeClient
) -> None:
    def frames_of(sample: bytes) -> list[bytes]:
        return [samples for _, samples in cell.voice if samples.startswith(sample)]

    async with client.connect() as session, Microphone(session) as microphone:
        long = asyncio.create_task(microphone.say(Recording(b"\x00\x10" * 24_000 * 30)))
        await cell.until(lambda: bool(frames_of(b"\x00\x10")))
        long.cancel()
        await asyncio.wait([long])
        await microphone.say(VOICE)
        await cell.until(lambda: len(frames_of(b"\x00\x20")) == 3)

    assert b"".join(frames_of(b"\x00\x20"))[: len(VOICE.samples)] == VOICE.samples
