"""The head of a stereo WAV file with 16-bit samples, and what one says. Pure."""

import struct
from typing import Final

HEAD_BYTES: Final = 44
FRAME_BYTES: Final = 4
"""Two samples of two bytes: left the caller, right the assistant."""
LARGEST_BYTES: Final = 0xFFFF_FFFF - 36 - 3
"""The format counts bytes in 32 bits."""


def head(rate_hz: int, data_bytes: int) -> bytes:
    """The 44 bytes before the samples."""
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + data_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,
        2,
        rate_hz,
        rate_hz * FRAME_BYTES,
        FRAME_BYTES,
        16,
        b"data",
        data_bytes,
    )


def rate_of(raw: bytes) -> int | None:
    """The samples a second that a head of ours names; None if it is not one."""
    if len(raw) < HEAD_BYTES:
        return None
    rate_hz = int(struct.unpack_from("<I", raw, 24)[0])
    size = int(struct.unpack_from("<I", raw, 40)[0])
    return rate_hz if rate_hz and raw[:HEAD_BYTES] == head(rate_hz, size) else None


def mute_right(stereo: bytes) -> bytes:
    """The same with silence on the right."""
    muted = bytearray(stereo)
    muted[2::4] = bytes(len(muted[2::4]))
    muted[3::4] = bytes(len(muted[3::4]))
    return bytes(muted)


def interleaved(left: bytes, right: bytes) -> bytes:
    """Two channels of the same length as one."""
    both = bytearray(2 * len(left))
    both[0::4], both[1::4] = left[0::2], left[1::2]
    both[2::4], both[3::4] = right[0::2], right[1::2]
    return bytes(both)


def at_rate(pcm16: bytes, from_hz: int, to_hz: int) -> bytes:
    """16-bit samples at another rate, simply: each repeated, or each third kept.

    Only a conversation that mixes G.711 and pcm16 needs it.
    """
    if from_hz == to_hz:
        return pcm16
    if to_hz % from_hz == 0:
        times = to_hz // from_hz
        more = bytearray(times * len(pcm16))
        for at in range(times):
            more[2 * at :: 2 * times] = pcm16[0::2]
            more[2 * at + 1 :: 2 * times] = pcm16[1::2]
        return bytes(more)
    step = from_hz // to_hz
    fewer = bytearray(2 * len(pcm16[0 :: 2 * step]))
    fewer[0::2], fewer[1::2] = pcm16[0 :: 2 * step], pcm16[1 :: 2 * step]
    return bytes(fewer)
