"""WAV files: what a caller says from one, what a caller heard into one."""

import wave
from array import array
from dataclasses import dataclass
from pathlib import Path
from sys import byteorder
from types import TracebackType
from typing import Self

from voicebus.bus.messages.sound import RATE_HZ
from voicebus.client.errors import BadSound
from voicebus.client.g711 import to_pcm16
from voicebus.client.player import Played

PCM16_HZ = RATE_HZ["pcm16"]
BETWEEN_TURNS_S = 0.3
"""Silence between two answers in one file."""
VOICED_LEVEL = 500
"""The mean magnitude of a 20 ms stretch from which on somebody speaks; of 32768."""
LONGEST_S = 600


@dataclass(frozen=True)
class Recording:
    """Somebody's voice: 24 kHz, mono, 16 bit."""

    samples: bytes

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / 2 / PCM16_HZ

    def voiced(self) -> tuple[float, float]:
        """When, from its start, the voice begins and ends, to 20 ms; (0, its length) if silent."""
        values = array("h", self.samples)
        if byteorder == "big":
            values.byteswap()
        size = PCM16_HZ // 50
        loud = [
            start
            for start in range(0, len(values), size)
            if _level(values[start : start + size]) >= VOICED_LEVEL
        ]
        if not loud:
            return 0.0, self.seconds
        return loud[0] / PCM16_HZ, min((loud[-1] + size) / PCM16_HZ, self.seconds)


def read(path: str | Path) -> Recording:
    """A recording. Raises BadSound with what is wrong with the file and how to make it right."""
    name = Path(path)
    try:
        with wave.open(str(name), "rb") as file:
            found = file.getparams()
            if found.nframes > LONGEST_S * PCM16_HZ:
                raise BadSound(
                    f"{name} lasts {found.nframes / max(found.framerate, 1):.0f} s, "
                    f"the limit is {LONGEST_S} s: cut it into pieces"
                )
            samples = file.readframes(found.nframes)
    except FileNotFoundError:
        raise BadSound(f"there is no file {name}") from None
    except OSError as error:
        raise BadSound(f"cannot read {name}: {error.strerror}") from None
    except (wave.Error, EOFError) as error:
        raise BadSound(
            f"{name} is no WAV file with PCM samples ({str(error) or 'it ends too early'}): "
            f"convert it with {_conversion(name)}"
        ) from None
    if (found.framerate, found.nchannels, found.sampwidth) != (PCM16_HZ, 1, 2):
        channels = {1: "mono", 2: "stereo"}.get(found.nchannels, f"{found.nchannels} channels")
        raise BadSound(
            f"{name} is {found.framerate} Hz, {channels}, {8 * found.sampwidth} bit; "
            f"needed is 24000 Hz, mono, 16 bit: convert it with {_conversion(name)}"
        )
    if not samples:
        raise BadSound(f"{name} holds no sound")
    return Recording(samples[: len(samples) // 2 * 2])


def _conversion(name: Path) -> str:
    return f"`sox {name} -r 24000 -c 1 -b 16 {name.stem}-24k.wav`"


def _level(values: "array[int]") -> float:
    return sum(map(abs, values)) / len(values)


class WavWriter:
    """Writes what was heard; an interrupted answer ends in the file where the caller's ear did."""

    def __init__(self, path: str | Path) -> None:
        """Makes the file and its folder. Raises BadSound where that cannot be done."""
        self.path = Path(path)
        self.seconds = 0.0
        """How much sound is in it, the silence between answers included."""
        self._turn: str | None = None
        self._rate_hz = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")
        except OSError as error:
            raise self._unwritable(error) from None
        self._wave = wave.open(self._file, "wb")  # noqa: SIM115
        self._wave.setnchannels(1)
        self._wave.setsampwidth(2)

    def write(self, played: Played) -> None:
        """Sound that was heard. The first piece decides the file's rate; all have the same.

        Raises BadSound when the disk is full, say."""
        rate = RATE_HZ[played.format]
        if not self._rate_hz:
            self._set_rate(rate)
        if self._turn is not None and played.turn_id != self._turn:
            self._add(bytes(2 * int(self._rate_hz * BETWEEN_TURNS_S)))
        self._turn = played.turn_id
        self._add(to_pcm16(played.samples, played.format))

    def close(self) -> None:
        """Complete the file; it is a valid WAV also if nothing was heard. Raises BadSound."""
        if not self._rate_hz:
            self._set_rate(PCM16_HZ)
        try:
            with self._file:
                self._wave.close()
        except OSError as error:
            raise self._unwritable(error) from None

    def _set_rate(self, rate: int) -> None:
        self._rate_hz = rate
        self._wave.setframerate(rate)

    def _add(self, samples: bytes) -> None:
        try:
            self._wave.writeframesraw(samples)
        except OSError as error:
            raise self._unwritable(error) from None
        self.seconds += len(samples) / 2 / self._rate_hz

    def _unwritable(self, error: OSError) -> BadSound:
        return BadSound(f"cannot write {self.path}: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
