import pytest

from voicebus.bus.messages import events
from voicebus.client import ClientError, RealtimeClient
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
