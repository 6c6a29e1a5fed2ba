"""Ends the cells of a test process that cannot do it itself any more: it was killed.

A guard is a process of its own that reads run folders from a pipe. The kernel closes the pipe with
whoever holds its other end, however that one ends: then the guard stops what is still named.
"""

import atexit
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class Guard:
    """This process's guard; started with the first folder. `PR_SET_PDEATHSIG` would not do: it
    follows the thread that forked, reaches no daemon, and is Linux's alone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def watching(self, run_dir: Path) -> Iterator[None]:
        """While it is open, the cell in that folder ends with this process."""
        self._tell(f"+{run_dir}\n")
        try:
            yield
        finally:
            self._tell(f"-{run_dir}\n")

    def _tell(self, line: str) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "voicebus.cli.guard"],
                stdin=subprocess.PIPE,
                start_new_session=True,  # an interrupt from the terminal is not for it
            )
            atexit.register(self._close, self._process)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: there is no guard then
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    @staticmethod
    def _close(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


GUARD = Guard()


def keep_watch(lines: IO[str]) -> None:
    """Until the other end is closed; then end what is left."""
    left: dict[str, None] = {}
    for line in lines:
        folder = line[1:].rstrip("\n")
        if line.startswith("+"):
            left[folder] = None
        else:
            left.pop(folder, None)
    if left:
        from voicebus.cli import stack  # noqa: PLC0415 - a guard that has nothing to do costs little

        for folder in left:
            with contextlib.suppress(Exception):  # the next one, too, is to be ended
                stack.stop(Path(folder))
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep_watch(sys.stdin)
