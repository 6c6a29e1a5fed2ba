"""The attempt mark: which conversation was being decided when the process died.

A few bytes in a mapped file, written before each step, before a frame of the provider's is read and
before a state is asked for its deadline: the kernel keeps them when we are killed. A
conversation that was being decided at two deaths, soon after each other, is set aside, so that it
does not take the shard down for ever.
"""

import mmap
import os
from pathlib import Path

SIZE = 64
STRIKES = 2


class AttemptMark:
    """One per shard."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, SIZE)
            self._map = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self.left_behind = self._map[:SIZE].rstrip(b"\0").decode("ascii", "replace")
        """The session that was being decided when the last process died, or nothing."""
        self.clear()

    def begin(self, session_id: str) -> None:
        """This conversation is about to be decided, or something of it to be read."""
        mark = session_id.encode()[:SIZE]
        self._map[: len(mark)] = mark

    def clear(self) -> None:
        """It went well."""
        self._map[:SIZE] = b"\0" * SIZE

    def close(self) -> None:
        """Unmap."""
        self._map.close()
