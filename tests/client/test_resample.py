"""Another rate: as long, as loud, and without a seam between the pieces."""

import itertools
import math
import sys
from array import array
from collections.abc import AsyncIterator, Iterable

import pytest

from voicebus.client import BadSound, Heard, Lagged, Sound, SoundEnd, SoundFlush
from voicebus.client.resample import Resampler, at_rate

soxr = pytest.importorskip("soxr")


def tone(rate_hz: int, seconds: float, tone_hz: int = 440) -> bytes:
    count = int(rate_hz * seconds)
    values = (int(8000 * math.sin(2 * math.pi * tone_hz * n / rate_hz)) for n in range(count))
    return array("h", values).tobytes()


def crossings(samples: bytes) -> int:
    """How often it goes through zero upwards: the tone's frequency times its length."""
    values = array("h", samples)
    return sum(1 for a, b in itertools.pairwise(values) if a < 0 <= b)


def loudest(values: Iterable[int]) -> int:
    return max(map(abs, values))


async def stream(*pieces: Heard) -> AsyncIterator[Heard]:
    for piece in pieces:
        yield piece


def sound(samples: bytes, offset: int = 0) -> Sound:
    return Sound("r1", "a1", 0, "pcm16", offset, samples)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_it_lasts_as_long_and_keeps_its_pitch(rate_hz: int) -> None:
    resampler = Resampler(rate_hz, 24_000)

    found = resampler.feed(tone(rate_hz, 1.0), last=True)

    assert abs(len(found) // 2 - 24_000) <= 2
    assert abs(crossings(found) - 440) <= 1


def test_pieces_of_any_size_give_what_the_whole_gives() -> None:
    whole = tone(48_000, 0.5)
    once = Resampler(48_000, 24_000).feed(whole, last=True)
    resampler = Resampler(48_000, 24_000)

    # 333 bytes is half a sample more than a whole number of them.
    found = b"".join(resampler.feed(whole[at : at + 333]) for at in range(0, len(whole), 333))
    found += resampler.feed(b"", last=True)

    # To a bit or two: the library dithers.
    assert len(found) == len(once)
    assert (
        loudest(
            array("h", (a - b for a, b in zip(array("h", found), array("h", once), strict=True)))
        )
        <= 2
    )


@pytest.mark.parametrize("rate_hz", [0, 100, 1_000_000])
def test_a_rate_out_of_reach_is_refused_with_the_limits(rate_hz: int) -> None:
    with pytest.raises(BadSound, match="4000 to 192000 Hz"):
        Resampler(rate_hz, 24_000)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)

    with pytest.raises(BadSound, match=r"voicebus\[audio\]"):
        Resampler(16_000, 24_000)


async def test_an_answer_comes_at_the_rate_that_was_asked_for() -> None:
    voice = tone(24_000, 1.0)
    half = len(voice) // 2
    pieces = (
        sound(voice[:half]),
        sound(voice[half:], half // 2),
        SoundEnd("r1", "a1", 0, 24_000),
    )

    found = b"".join([one async for one in at_rate(stream(*pieces), 16_000)])

    assert abs(len(found) // 2 - 16_000) <= 2
    assert abs(crossings(found) - 440) <= 1


async def test_a_flush_leaves_nothing_of_the_old_answer_for_the_new_one() -> None:
    silence = bytes(48_000)
    pieces = (
        sound(tone(24_000, 0.5)),
        SoundFlush(("r1",), "barge_in"),
        sound(silence),
        SoundEnd("r1", "a1", 0, 24_000),
    )
    parts = [one async for one in at_rate(stream(*pieces), 16_000)]

    assert loudest(array("h", b"".join(parts[1:]))) <= 2


async def test_behind_a_hole_it_goes_on_with_nothing_of_what_was_before() -> None:
    pieces: list[Heard | Lagged] = [
        sound(tone(24_000, 0.5)),
        Lagged("the sound", 3, None),
        sound(bytes(48_000)),
        SoundEnd("r1", "a1", 0, 24_000),
    ]
    parts = at_rate(_Holed(pieces), 16_000)

    assert loudest(array("h", await anext(parts))) > 1000
    with pytest.raises(Lagged):
        await anext(parts)
    rest = b"".join([one async for one in parts])
    assert abs(len(rest) // 2 - 16_000) <= 2
    assert loudest(array("h", rest)) <= 2


class _Holed(AsyncIterator[Heard]):
    def __init__(self, pieces: list[Heard | Lagged]) -> None:
        self._pieces = pieces

    async def __anext__(self) -> Heard:
        if not self._pieces:
            raise StopAsyncIteration
        piece = self._pieces.pop(0)
        if isinstance(piece, Lagged):
            raise piece
        return piece
