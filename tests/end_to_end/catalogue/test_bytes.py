"""Bytes and limits: scenarios 53 to 59."""

from pathlib import Path

import pytest

from tests.end_to_end.catalogue.playing import calling, came, completed, playing, speak
from tests.end_to_end.support import Caller
from voicebus.cli.testing import Stack


def _sound(caller: Caller) -> bytes:
    """All that the assistant has said so far."""
    return b"".join(piece.samples for _, piece in caller.pieces())


async def test_large_frames_are_heard_whole(cell: Stack) -> None:
    async with playing(cell, "53_large_frame") as on:
        caller = await on.caller()
        await caller.turn("hello")
        await caller.until(lambda: len(_sound(caller)) == 60_000 * 48, "a minute of sound")

        assert not caller.found("audio_dropped")


async def test_more_sound_at_once_than_a_frame_may_hold_goes_in_several(cell: Stack) -> None:
    async with playing(cell, "54_too_much_sound") as on:
        caller = await on.caller(turn_detection="none")
        await caller.session.send_audio(bytes(1024 * 1024 + 2))
        await caller.session.commit_audio()
        await came(on, caller.id, "input_audio_buffer.committed")

        assert caller.session.sent_frames == 65
        assert caller.session.dropped_ms == 0
        assert not caller.found("audio_dropped")
        assert not caller.found("error")


async def test_odd_pieces_of_sound_are_put_together(cell: Stack) -> None:
    async with playing(cell, "55_odd_bytes") as on:
        caller = await on.caller()
        await caller.turn("hello")
        expected = bytes([1, 0, 2, 0, 3, 0, 4, 0, 5, 0])
        await caller.until(lambda: len(_sound(caller)) == len(expected), "the pieces")

        assert _sound(caller) == expected
        assert not caller.found("error")


@pytest.mark.parametrize(
    ("caller_has", "assistant_has"),
    [("g711_ulaw", "pcm16"), ("pcm16", "g711_alaw"), ("g711_alaw", "g711_ulaw")],
)
async def test_telephone_sound_has_real_milliseconds(
    cell: Stack, caller_has: str, assistant_has: str
) -> None:
    per_ms = {"pcm16": 48, "g711_ulaw": 8, "g711_alaw": 8}
    async with playing(cell, "56_telephone") as on:
        caller = await on.caller(
            turn_detection="none",
            input_audio_format=caller_has,
            output_audio_format=assistant_has,
            input_audio_transcription={"model": "whisper-1"},
        )
        for _ in range(10):
            await caller.session.send_audio(bytes(20 * per_ms[caller_has]))
        await caller.session.commit_audio()
        words = await caller.event("user_transcript")
        done = await caller.event("assistant_audio_done")
        await caller.until(lambda: len(_sound(caller)) == 300 * per_ms[assistant_has], "the sound")

        assert words.data.usage["seconds"] == pytest.approx(0.2)
        assert done.data.samples == 300 * (24 if assistant_has == "pcm16" else 8)


async def test_a_minute_at_once_is_heard_whole_by_who_reads_it(cell: Stack) -> None:
    async with playing(cell, "burst") as on:
        caller = await on.caller()
        await caller.turn("hello")
        await caller.until(lambda: len(_sound(caller)) == 60_000 * 48, "a minute of sound")

        assert (await completed(caller)).status == "completed"


async def test_who_speaks_faster_than_can_be_held_loses_the_oldest_and_is_told(
    cell: Stack,
) -> None:
    async with playing(cell, "58_fast_sender") as on, calling(on) as caller:
        for _ in range(3):
            await speak(caller, 50)
            await caller.session.ping()
        await caller.opened()
        beyond_ms = caller.session.sent_frames * 20 - 2000

        def dropped_ms() -> int:
            return sum(one.data.dropped_ms for one in caller.found("audio_dropped", direction="in"))

        await caller.until(lambda: dropped_ms() == beyond_ms > 0, "what is beyond two seconds")


async def test_frames_that_are_no_events_disturb_nothing(cell: Stack) -> None:
    async with playing(cell, "broken_frames") as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("hello")
        await caller.turn("hello again")

        assert len(caller.found("assistant_text")) == 2
        assert not caller.found("error")


async def test_frames_at_the_edge_of_anybodys_stack_end_no_process(
    cell: Stack, tmp_path: Path
) -> None:
    """What can just be read cannot be handed on any more."""
    deep = [101, 500, *range(900, 1020, 4)]
    frames = ",\n".join(
        '{ text = \'{"type":"rate_limits.updated","rate_limits":[{"x":%s}]}\' }'
        % ("[" * levels + "]" * levels)
        for levels in deep
    )
    scenario = tmp_path / "deep.toml"
    scenario.write_text(
        f'about = "Deep."\n[[on]]\nsends = "response.created"\nconnection = 1\ndo = [{frames}]\n'
    )
    pids = cell.pids()
    async with playing(cell, str(scenario)) as on:
        caller = await on.caller(modalities=["text"])
        await caller.turn("hello")

        assert len(caller.found("assistant_text")) == 1
        assert not caller.found("error")
    assert cell.pids() == pids


async def test_a_frame_in_pieces_is_read_and_one_that_is_no_text_ends_the_session(
    cell: Stack,
) -> None:
    async with playing(cell, "59_broken_frames") as on:
        caller = await on.caller(modalities=["text"])
        await caller.session.send_text("hello")
        assert (await completed(caller)).status == "completed"
        closed = await caller.event("session_closed")

        assert await came(on, caller.id, "response.whole")
        assert (closed.data.reason, closed.data.code) == ("server", "1007")
