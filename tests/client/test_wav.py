import wave
from pathlib import Path

import pytest

from voicebus.client.errors import BadSound
from voicebus.client.player import Played
from voicebus.client.wav import Recording, WavWriter, read


def write(path: Path, *, rate: int = 24_000, channels: int = 1, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(channels * width * rate // 10))
    return path


def test_a_recording_of_the_right_kind_is_read_whole(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.wav")).seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"rate": 16_000}, "16000 Hz, mono, 16 bit"),
        ({"channels": 2}, "24000 Hz, stereo, 16 bit"),
        ({"channels": 6}, "24000 Hz, 6 channels, 16 bit"),
        ({"width": 1}, "24000 Hz, mono, 8 bit"),
    ],
)
def test_a_recording_of_another_kind_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, kind: dict[str, int], said: str
) -> None:
    path = write(tmp_path / "a.wav", **kind)

    with pytest.raises(BadSound) as refused:
        read(path)

    assert f"{path} is {said}" in str(refused.value)
    assert f"`sox {path} -r 24000 -c 1 -b 16 a-24k.wav`" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"ID3 this is music", b"RIFF\0\0\0\0WAVE"])
def test_what_is_no_wav_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)

    with pytest.raises(BadSound, match=r"a\.wav is no WAV file with PCM samples.*sox"):
        read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSound, match="there is no file"):
        read(tmp_path / "no.wav")
    with pytest.raises(BadSound, match="cannot read"):
        read(tmp_path)


def test_where_the_voice_begins_and_ends_is_found() -> None:
    silence, voice = bytes(24_000), b"\x00\x20" * 12_000

    assert Recording(silence + voice + silence).voiced() == pytest.approx((0.5, 1.0))
    assert Recording(silence).voiced() == pytest.approx((0.0, 0.5))


def test_what_was_heard_is_written_with_silence_between_answers(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "new" / "a.wav") as writer:
        writer.write(Played("r1", "i1", "pcm16", b"\1\0" * 2400))
        writer.write(Played("r1", "i2", "pcm16", b"\1\0" * 2400))
        writer.write(Played("r2", "i3", "pcm16", b"\1\0" * 2400))

    assert read(tmp_path / "new" / "a.wav").seconds == pytest.approx(0.6)


def test_g711_is_written_as_16_bit_samples_at_its_rate(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "a.wav") as writer:
        writer.write(Played("r1", "i1", "g711_ulaw", b"\xff\x80\x00"))

    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnframes()) == (8000, 2, 3)


def test_nothing_heard_is_still_a_wav(tmp_path: Path) -> None:
    WavWriter(tmp_path / "a.wav").close()

    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getnframes() == 0


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(BadSound, match="cannot write"):
        WavWriter(tmp_path / "file" / "a.wav")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a file that is always full")
def test_a_full_disk_is_told_with_the_file() -> None:
    with (
        pytest.raises(BadSound, match="cannot write /dev/full: No space left on device"),
        WavWriter("/dev/full") as file,
    ):
        file.write(Played("r1", "i1", "pcm16", bytes(48_000)))
