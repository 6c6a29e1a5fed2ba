"""Sound on the wire: formats, G.711, tones; no package needed."""

import sys
from array import array
from math import pi, sin

PCM = "audio/pcm"
MU_LAW = "audio/pcmu"
A_LAW = "audio/pcma"


def rate_hz(audio_type: str) -> int:
    """Samples per second of a wire format."""
    return 24000 if audio_type == PCM else 8000


def bytes_per_ms(audio_type: str) -> int:
    """Bytes per millisecond of a wire format."""
    return 48 if audio_type == PCM else 8


def samples(sound: bytes, audio_type: str) -> "array[int]":
    """The samples of wire sound as signed 16-bit numbers; a trailing half sample is left out."""
    decoded: array[int] = array("h")
    if audio_type == PCM:
        decoded.frombytes(sound[: len(sound) & ~1])
        if sys.byteorder == "big":
            decoded.byteswap()
        return decoded
    table = _FROM_MU_LAW if audio_type == MU_LAW else _FROM_A_LAW
    decoded.extend(table[code] for code in sound)
    return decoded


def encoded(pcm: "array[int]", audio_type: str) -> bytes:
    """Samples as wire sound; the samples already have the wire's rate."""
    if audio_type == PCM:
        if sys.byteorder == "big":
            pcm = array("h", pcm)
            pcm.byteswap()
        return pcm.tobytes()
    table = _to_mu_law() if audio_type == MU_LAW else _to_a_law()
    return bytes(table[(sample + 32768) >> 2] for sample in pcm)


def tone(length_ms: int, audio_type: str, pitch_hz: float = 220.0) -> bytes:
    """A quiet tone of that length; pitch 0 is silence."""
    rate = rate_hz(audio_type)
    count = length_ms * rate // 1000
    if pitch_hz <= 0:
        return encoded(array("h", bytes(2 * count)), audio_type)
    period = array("h", (round(6000 * sin(2 * pi * pitch_hz * n / rate)) for n in range(rate)))
    wave = array("h")
    while len(wave) < count:
        wave.extend(period[: count - len(wave)])
    return encoded(wave, audio_type)


def loudness(pcm: "array[int]") -> int:
    """The largest sample without its sign; 0 for no samples."""
    return max(max(pcm), -min(pcm)) if pcm else 0


def _decode_mu_law(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return 0x84 - magnitude if code & 0x80 else magnitude - 0x84


def _decode_a_law(code: int) -> int:
    code ^= 0x55
    magnitude = (code & 0x0F) << 4
    segment = (code & 0x70) >> 4
    magnitude += 8 if segment == 0 else 0x108
    magnitude <<= max(segment - 1, 0)
    return magnitude if code & 0x80 else -magnitude


_FROM_MU_LAW = [_decode_mu_law(code) for code in range(256)]
_FROM_A_LAW = [_decode_a_law(code) for code in range(256)]
_cache: dict[str, bytes] = {}


def _to_mu_law() -> bytes:
    return _nearest("mu", _FROM_MU_LAW)


def _to_a_law() -> bytes:
    return _nearest("a", _FROM_A_LAW)


def _nearest(name: str, levels: list[int]) -> bytes:
    """For each 14-bit amplitude the code of the nearest level; built once, when first needed."""
    if name not in _cache:
        ordered = sorted((level, code) for code, level in enumerate(levels))
        table = bytearray(16384)
        place = 0
        for step in range(16384):
            amplitude = (step << 2) - 32768 + 2
            while place + 1 < len(ordered) and (
                abs(ordered[place + 1][0] - amplitude) <= abs(ordered[place][0] - amplitude)
            ):
                place += 1
            table[step] = ordered[place][1]
        _cache[name] = bytes(table)
    return _cache[name]
