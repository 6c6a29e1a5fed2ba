import io
import wave

from hypothesis import given
from hypothesis import strategies as st

from voicebus.services.recorder import wav


def test_the_standard_library_reads_what_the_head_says() -> None:
    stereo = wav.interleaved(b"\1\0\2\0", b"\3\0\4\0")

    with wave.open(io.BytesIO(wav.head(24_000, len(stereo)) + stereo)) as file:
        assert file.getparams()[:4] == (2, 2, 24_000, 2)
        assert file.readframes(2) == b"\1\0\3\0\2\0\4\0"


@given(st.integers(1, 192_000), st.integers(0, wav.LARGEST_BYTES))
def test_a_head_says_its_rate(rate_hz: int, size: int) -> None:
    assert wav.rate_of(wav.head(rate_hz, size)) == rate_hz


@given(st.binary(max_size=60))
def test_what_is_no_head_says_no_rate(raw: bytes) -> None:
    assert wav.rate_of(raw) is None


def test_muting_leaves_the_left_as_it_is() -> None:
    assert wav.mute_right(b"\1\2\3\4\5\6\7\x08") == b"\1\2\0\0\5\6\0\0"


def test_another_rate_keeps_the_time() -> None:
    assert wav.at_rate(b"\1\0\2\0", 8000, 24_000) == b"\1\0" * 3 + b"\2\0" * 3
    assert wav.at_rate(b"\1\0" * 3 + b"\2\0" * 3, 24_000, 8000) == b"\1\0\2\0"
    assert wav.at_rate(b"\1\0", 8000, 8000) == b"\1\0"
