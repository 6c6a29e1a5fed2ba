"""Other sample rates than the provider's: a library does the arithmetic, piece by piece."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from voicebus.bus.messages.sound import RATE_HZ
from voicebus.client.errors import BadSound, Lagged
from voicebus.client.g711 import to_pcm16
from voicebus.client.sound import Heard, Sound, SoundEnd, SoundFlush
from voicebus.config import extras

LOWEST_HZ, HIGHEST_HZ = 4_000, 192_000


class Resampler:
    """A stream of 16-bit mono samples from one rate to another; half a sample is carried over."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Raises BadSound for a rate out of reach, or when the library is not installed."""
        for rate in (from_hz, to_hz):
            if not LOWEST_HZ <= rate <= HIGHEST_HZ:
                raise BadSound(f"{rate} Hz: a rate must be {LOWEST_HZ} to {HIGHEST_HZ} Hz")
        try:
            import numpy  # noqa: PLC0415 - only who resamples needs them
            import soxr  # noqa: PLC0415
        except ImportError:
            raise BadSound(
                f"sound at {from_hz} Hz has to be resampled to {to_hz} Hz, and the package that "
                f"can is not installed: {extras.how_to_get('audio')}"
            ) from None
        self.from_hz, self.to_hz = from_hz, to_hz
        self._numpy: Any = numpy
        self._soxr: Any = soxr
        self._stream: Any = self._fresh()
        self._rest = b""

    def feed(self, samples: bytes, *, last: bool = False) -> bytes:
        """What can be said of the output so far; with `last` all of the rest."""
        whole = self._rest + samples
        even = len(whole) // 2 * 2
        self._rest = whole[even:]
        values = self._numpy.frombuffer(whole[:even], dtype="<i2")
        found: bytes = self._stream.resample_chunk(values, last=last).astype("<i2").tobytes()
        if last:
            self.reset()
        return found

    def reset(self) -> None:
        """Forget what is inside: the next samples begin something new."""
        self._stream, self._rest = self._fresh(), b""

    def _fresh(self) -> Any:
        return self._soxr.ResampleStream(self.from_hz, self.to_hz, 1, dtype="int16")


def at_rate(heard: AsyncIterable[Heard], rate_hz: int) -> AsyncIterator[bytes]:
    """The assistant's voice as 16-bit mono samples at another rate, also from G.711.

    A flush drops what is inside the resampler, and so does a hole (`Lagged`), behind which
    iterating goes on; an item's end brings out its rest.
    """
    return _AtRate(heard, rate_hz)


class _AtRate(AsyncIterator[bytes]):
    # Not a generator: that would end with the first error that passes through it.

    def __init__(self, heard: AsyncIterable[Heard], rate_hz: int) -> None:
        self._heard = aiter(heard)
        self._rate_hz = rate_hz
        self._resampler: Resampler | None = None

    async def __anext__(self) -> bytes:
        while True:
            try:
                found = self._resampled(await anext(self._heard))
            except Lagged:
                self._drop()
                raise
            if found:
                return found

    def _resampled(self, piece: Heard) -> bytes:
        match piece:
            case Sound(format=format, samples=samples):
                if self._resampler is None or self._resampler.from_hz != RATE_HZ[format]:
                    self._resampler = Resampler(RATE_HZ[format], self._rate_hz)
                return self._resampler.feed(to_pcm16(samples, format))
            case SoundEnd():
                return self._resampler.feed(b"", last=True) if self._resampler else b""
            case SoundFlush():
                self._drop()
        return b""

    def _drop(self) -> None:
        if self._resampler is not None:
            self._resampler.reset()
