"""G.711 to 16-bit samples, by table. (The standard library's audioop is gone since Python 3.13.)"""

from array import array
from sys import byteorder


def _ulaw(code: int) -> int:
    code = ~code & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return -magnitude if code & 0x80 else magnitude


def _alaw(code: int) -> int:
    code ^= 0x55
    exponent, mantissa = (code & 0x70) >> 4, code & 0x0F
    magnitude = (mantissa << 4) + 8
    if exponent:
        magnitude = (magnitude + 0x100) << (exponent - 1)
    return magnitude if code & 0x80 else -magnitude


_TABLES = {
    "g711_ulaw": [_ulaw(code) for code in range(256)],
    "g711_alaw": [_alaw(code) for code in range(256)],
}


def to_pcm16(samples: bytes, format: str) -> bytes:
    """Little-endian 16-bit samples at the same rate; pcm16 stays as it is."""
    table = _TABLES.get(format)
    if table is None:
        return samples
    decoded = array("h", (table[code] for code in samples))
    if byteorder == "big":
        decoded.byteswap()
    return decoded.tobytes()
