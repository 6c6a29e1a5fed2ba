"""The three files of a recording, whole at every moment. Called from a thread that may wait.

sound.wav       a head that never claims more than is there, then the samples
events.jsonl    one event a line; a line is there as a whole or not at all
recording.json  replaced at once, never half
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from voicebus.services.recorder import account as accounts
from voicebus.services.recorder import wav
from voicebus.services.recorder.account import Account
from voicebus.services.recorder.timeline import Chunk, Mute

SOUND, EVENTS, ACCOUNT = "sound.wav", "events.jsonl", "recording.json"
PLACES = "recordings"
"""A file beside the journal: the folders that recordings were ever written to, one a line."""
OURS = (SOUND, EVENTS, ACCOUNT, f"{ACCOUNT}.new")
MB = 1024 * 1024
SILENT_HZ = 24_000
"""The rate of a file without sound."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_BLOCK = 65_536


def note_place(data: Path, folder: Path) -> None:
    """Have whoever forgets a conversation of this data folder find its recording, too.
    Raises OSError."""
    if folder in places(data):
        return
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(data / PLACES, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "ab") as file:
        file.write(os.fsencode(folder) + b"\n")


def places(data: Path) -> list[Path]:
    """Where recordings of this data folder's conversations were ever written."""
    try:
        lines = (data / PLACES).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [Path(os.fsdecode(line)) for line in lines if line]


class Found(NamedTuple):
    """What a folder already holds."""

    account: Account | None
    rate_hz: int | None
    frames: int
    last_seq: int


class Saved(NamedTuple):
    """What became of what was to be written."""

    sound: bool
    events: bool
    why: str | None
    """Why something could not be written."""
    is_removed: bool = False
    """Somebody deleted the files or moved them away: what is written now, nobody finds."""


class _Line(msgspec.Struct):
    """An event's line, or one of ours that says which are gone."""

    seq: int | None = None
    to: int = 0


class Files:
    """Of one recording. Raises OSError where the disk does not do its part."""

    def __init__(self, folder: Path, *, keep_free_bytes: int = 0) -> None:
        self.folder = folder
        self._keep_free_bytes = keep_free_bytes
        self._sound: int | None = None
        self._events: int | None = None
        self._frames = 0
        self._rate_hz: int | None = None

    def open(self) -> Found:
        """Make the folder, or put right what a killed recorder left."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        account = read_account(self.folder)
        if account is not None and account.ended_at_us is not None:
            return Found(account, account.rate_hz, 0, account.events)
        self._sound = os.open(self.folder / SOUND, _NEW, 0o600)
        self._events = os.open(self.folder / EVENTS, _NEW, 0o600)
        size = os.fstat(self._sound).st_size
        if size > wav.HEAD_BYTES:
            self._rate_hz = wav.rate_of(os.pread(self._sound, wav.HEAD_BYTES, 0))
        if self._rate_hz is None and account is not None:
            self._rate_hz = account.rate_hz
        if self._rate_hz is None:
            # A WAV file also where nobody ever speaks; the first sound decides its rate.
            with contextlib.suppress(OSError):  # a full disk is told with the first sound
                _write_all(self._sound, wav.head(SILENT_HZ, 0), 0)
        else:
            self._frames = max(0, size - wav.HEAD_BYTES) // wav.FRAME_BYTES
            self._write_head()
        return Found(account, self._rate_hz, self._frames, self._last_seq())

    def save(
        self,
        rate_hz: int | None,
        chunk: Chunk | None,
        mutes: list[Mute],
        lines: bytes,
        account: bytes | None,
    ) -> Saved:
        """All that is due. Raises nothing: what cannot be written is told."""
        if account is not None and self._is_removed():
            return Saved(sound=False, events=False, why=None, is_removed=True)
        sound, events, why = True, True, None
        try:
            if lines:
                self._append(lines)
        except OSError as error:
            events, why = False, _reason(error, self.folder)
        try:
            if chunk is not None and rate_hz is not None:
                self._leave_room(len(chunk.stereo))
                self._write_sound(rate_hz, chunk)
            for mute in mutes:
                self._mute(mute)
        except OSError as error:
            sound, why = False, _reason(error, self.folder)
        try:
            if account is not None:
                self._replace(account)
        except OSError as error:
            why = _reason(error, self.folder)
        return Saved(sound, events, why)

    def close(self) -> None:
        """Nothing more is written."""
        for fd in (self._sound, self._events):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._sound = self._events = None

    def _is_removed(self) -> bool:
        """A file that is open can be written long after it has lost its name."""
        for name, fd in ((SOUND, self._sound), (EVENTS, self._events)):
            try:
                if fd is not None and not os.path.samestat(
                    os.fstat(fd), (self.folder / name).stat()
                ):
                    return True
            except (FileNotFoundError, NotADirectoryError):
                return True
            except OSError:
                return False  # a disk that does not answer says so at the next write
        return False

    # --- sound --------------------------------------------------------------------------------

    def _write_sound(self, rate_hz: int, chunk: Chunk) -> None:
        assert self._sound is not None
        self._rate_hz = self._rate_hz or rate_hz
        at = wav.HEAD_BYTES + chunk.first * wav.FRAME_BYTES
        if at + len(chunk.stereo) > wav.LARGEST_BYTES:
            raise OSError("a WAV file ends at 4 GB")
        _write_all(self._sound, chunk.stereo, at)  # a hole before it reads as silence
        self._frames = max(self._frames, chunk.first + len(chunk.stereo) // wav.FRAME_BYTES)
        self._write_head()

    def _mute(self, mute: Mute) -> None:
        assert self._sound is not None
        for first in range(mute.first, mute.end, _BLOCK):
            at = wav.HEAD_BYTES + first * wav.FRAME_BYTES
            size = (min(mute.end, first + _BLOCK) - first) * wav.FRAME_BYTES
            stereo = os.pread(self._sound, size, at)
            _write_all(self._sound, wav.mute_right(stereo), at)

    def _write_head(self) -> None:
        assert self._sound is not None
        assert self._rate_hz is not None
        _write_all(self._sound, wav.head(self._rate_hz, self._frames * wav.FRAME_BYTES), 0)

    def _leave_room(self, size: int) -> None:
        if not self._keep_free_bytes:
            return
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free - size < self._keep_free_bytes:
            raise OSError(
                f"{free // MB} MB are free there, and keep_free_mb leaves "
                f"{self._keep_free_bytes // MB} to others"
            )

    # --- events -------------------------------------------------------------------------------

    def _append(self, lines: bytes) -> None:
        assert self._events is not None
        size = os.fstat(self._events).st_size
        try:
            _write_all(self._events, lines, size)
        except OSError:
            os.ftruncate(self._events, size)
            raise

    def _last_seq(self) -> int:
        """Of the last whole line; what follows it is cut off."""
        assert self._events is not None
        size = os.fstat(self._events).st_size
        tail, at = b"", size
        while at and tail.count(b"\n") < 2:
            at = max(0, at - _BLOCK)
            tail = os.pread(self._events, size - at, at)
        whole = at + tail.rfind(b"\n") + 1
        if whole != size:
            os.ftruncate(self._events, whole)
        lines = tail[: whole - at].splitlines()
        if not lines:
            return 0
        try:
            last = msgspec.json.decode(lines[-1], type=_Line)
        except msgspec.DecodeError:
            return 0
        return last.seq if last.seq is not None else last.to

    # --- the account --------------------------------------------------------------------------

    def _replace(self, text: bytes) -> None:
        new = self.folder / f"{ACCOUNT}.new"
        fd = os.open(new, _NEW | os.O_TRUNC, 0o600)
        try:
            _write_all(fd, text, 0)
        finally:
            os.close(fd)
        new.replace(self.folder / ACCOUNT)


def read_account(folder: Path) -> Account | None:
    """None if there is none."""
    try:
        return accounts.read((folder / ACCOUNT).read_bytes())
    except OSError:
        return None


def delete(folder: Path) -> None:
    """A recording and its folder; nothing that is not ours. Raises OSError."""
    for name in OURS:
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def _write_all(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _reason(error: OSError, folder: Path) -> str:
    return f"cannot write in {folder.parent}: {error.strerror or error}"
