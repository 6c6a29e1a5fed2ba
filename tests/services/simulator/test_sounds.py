"""Sound on the wire."""

from array import array

import pytest

from voicebus.services.simulator import sounds


@pytest.mark.parametrize(
    ("audio_type", "code", "sample"),
    [
        # From the tables of ITU-T G.711, scaled to 16 bits.
        (sounds.MU_LAW, 0xFF, 0),
        (sounds.MU_LAW, 0x80, 32124),
        (sounds.MU_LAW, 0x00, -32124),
        (sounds.A_LAW, 0xD5, 8),
        (sounds.A_LAW, 0xAA, 32256),
        (sounds.A_LAW, 0x2A, -32256),
    ],
)
def test_g711_codes_stand_for_the_levels_of_the_standard(
    audio_type: str, code: int, sample: int
) -> None:
    assert sounds.samples(bytes([code]), audio_type)[0] == sample
    assert sounds.samples(sounds.encoded(array("h", [sample]), audio_type), audio_type)[0] == sample


@pytest.mark.parametrize("audio_type", [sounds.MU_LAW, sounds.A_LAW])
def test_g711_is_within_its_steps_of_the_original(audio_type: str) -> None:
    original = array("h", range(-32768, 32768, 7))
    coarse = sounds.samples(sounds.encoded(original, audio_type), audio_type)

    assert all(abs(a - b) <= max(16, abs(a) // 16) for a, b in zip(original, coarse, strict=True))


@pytest.mark.parametrize("audio_type", [sounds.PCM, sounds.MU_LAW, sounds.A_LAW])
def test_a_tone_is_as_long_as_was_asked_for(audio_type: str) -> None:
    tone = sounds.tone(1234, audio_type)

    assert len(tone) == 1234 * sounds.bytes_per_ms(audio_type)
    assert sounds.loudness(sounds.samples(tone, audio_type)) > 5000


def test_half_a_sample_at_the_end_is_left_out() -> None:
    assert sounds.samples(b"\x01\x00\x02", sounds.PCM) == array("h", [1])
