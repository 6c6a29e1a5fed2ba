"""One process per role: a locked file, taken before any socket is bound.

A second bind of an ipc address succeeds silently and leaves the first process deaf; the lock is
what says no.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class AlreadyRunning(RuntimeError):
    """Another process holds the role. The text names it and the file."""


class RoleLock:
    """Held from `take()` until `release()` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def take(self) -> None:
        """Raises AlreadyRunning when another process holds it."""
        while self._fd is None:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(fd, 32).decode("ascii", "replace").strip() or "?"
                os.close(fd)
                raise AlreadyRunning(
                    f"already running: process {holder} holds {self.path}; "
                    "stop it (voicebus down) or choose another run folder (--run-dir)"
                ) from None
            # The last holder may have removed the file between our open and our lock:
            # then we hold a file that nobody else will find.
            if self._is_current(fd):
                self._fd = fd
            else:
                os.close(fd)
        # The lock counts, the pid is for people and for `down`: on a full disk it may be missing.
        # It is written in place, since there a file that is cut to nothing stays so.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0))

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the role up and remove the file. Does nothing when not held."""
        if self._fd is None:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = None

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def holder(path: Path) -> int | None:
    """The process that holds this lock, None if nobody does.

    For cleaning up and for reports. It takes the lock for a moment to find out, so do not ask
    while the role is about to start. Raises OSError when the file cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, 32).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None
