from array import array

import pytest

from voicebus.client.g711 import to_pcm16


@pytest.mark.parametrize(
    ("format", "code", "value"),
    [
        # ITU-T G.711: silence, the extremes and the first steps of both laws.
        ("g711_ulaw", 0xFF, 0),
        ("g711_ulaw", 0x7F, 0),
        ("g711_ulaw", 0xFE, 8),
        ("g711_ulaw", 0x80, 32124),
        ("g711_ulaw", 0x00, -32124),
        ("g711_alaw", 0xD5, 8),
        ("g711_alaw", 0x55, -8),
        ("g711_alaw", 0xAA, 32256),
        ("g711_alaw", 0x2A, -32256),
        ("g711_alaw", 0xC5, 264),
    ],
)
def test_codes_become_the_samples_of_the_standard(format: str, code: int, value: int) -> None:
    assert array("h", to_pcm16(bytes([code]), format)).tolist() == [value]


@pytest.mark.parametrize("format", ["g711_ulaw", "g711_alaw"])
def test_louder_codes_are_louder_samples(format: str) -> None:
    order = 0x7F if format == "g711_ulaw" else 0x55
    values = array("h", to_pcm16(bytes(0x80 | (n ^ order) & 0x7F for n in range(128)), format))

    assert list(values) == sorted(values)


def test_pcm16_stays_as_it_is() -> None:
    assert to_pcm16(b"\1\2", "pcm16") == b"\1\2"
