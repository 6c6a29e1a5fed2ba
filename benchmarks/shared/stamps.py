"""Time stamps inside the sound, and files of ages. Standard library only: peers use it, too.

The first 16 bytes of each 20 ms frame are two little-endian integers: when it was made, in
nanoseconds of the machine's monotonic clock, and its number. Whoever gets the sound at the other
end, by whatever library, can tell how old it is.
"""

import array
import base64
import struct
import time
from pathlib import Path

FRAME_MS = 20
FRAME_BYTES = 960
"""20 ms of pcm16, 24 kHz, mono."""
_STAMP = struct.Struct("<qq")
_HEAD = 18
"""The bytes encoded anew for each frame: a multiple of three, so that base64 can be cut."""
_PAD = b"\0" * (_HEAD - _STAMP.size)
_TAIL = bytes(FRAME_BYTES - _HEAD)
_TAIL_BASE64 = base64.b64encode(_TAIL)
MARK = "stamp:"


def frame(number: int) -> bytes:
    """One frame of sound, made now."""
    return _STAMP.pack(time.monotonic_ns(), number) + _PAD + _TAIL


def frame_base64(number: int) -> bytes:
    """The same, encoded."""
    head = _STAMP.pack(time.monotonic_ns(), number) + _PAD
    return base64.b64encode(head) + _TAIL_BASE64


def read(sound: bytes) -> tuple[int, int]:
    """When it was made, and its number."""
    made_ns, number = _STAMP.unpack_from(sound)
    return int(made_ns), int(number)


def read_base64(encoded: bytes) -> tuple[int, int]:
    """The same, from its first 24 letters."""
    return read(base64.b64decode(encoded[:24]))


def words(number: int) -> str:
    """A stamp that can be said in a transcript."""
    return f"{MARK}{time.monotonic_ns()}:{number}"


def read_words(text: str) -> tuple[int, int] | None:
    """The last stamp of a transcript, if it has one: some clients tell all that came so far."""
    _, mark, stamp = text.rpartition(MARK)
    if not mark:
        return None
    made_ns, number = stamp.split(":")
    return int(made_ns), int(number)


class Log:
    """What came and when, kept in memory and written as 64-bit integers: made, got, number."""

    def __init__(self) -> None:
        self._rows = array.array("q")

    def sound(self, sound: bytes) -> None:
        """A frame has come just now."""
        made_ns, number = read(sound)
        self._rows.extend((made_ns, time.monotonic_ns(), number))

    def text(self, text: str) -> None:
        """A transcript has come just now."""
        stamp = read_words(text)
        if stamp is not None:
            self._rows.extend((stamp[0], time.monotonic_ns(), stamp[1]))

    def note(self, made_ns: int, number: int) -> None:
        """Anything with a stamp."""
        self._rows.extend((made_ns, time.monotonic_ns(), number))

    def save(self, path: str | Path) -> None:
        """Write it."""
        with open(path, "wb") as file:
            self._rows.tofile(file)

    def clear(self) -> None:
        """Begin anew."""
        self._rows = array.array("q")


def load(path: str | Path) -> list[tuple[int, int, int]]:
    """Made, got, number; as Log.save wrote them."""
    rows = array.array("q")
    rows.frombytes(Path(path).read_bytes())
    return list(zip(rows[0::3], rows[1::3], rows[2::3], strict=True))
