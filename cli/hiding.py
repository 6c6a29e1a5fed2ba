"""Takes the provider's key out of what other processes can read of this one."""

import ctypes
import os
import sys


def hide(name: str) -> None:
    """Blank that variable in this process's first environment, which /proc shows to its owner.

    `os.environ` keeps it. Children get it only from an environment that is handed to them.
    """
    if sys.platform != "linux" or not os.environ.get(name):
        return
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
        begin, end = int(fields[47]), int(fields[48])  # env_start and env_end of proc(5)
    except (OSError, ValueError, IndexError):
        return
    at = begin
    for entry in ctypes.string_at(begin, end - begin).split(b"\0"):
        label = f"{name}=".encode()
        if entry.startswith(label):
            ctypes.memset(at + len(label), 0, len(entry) - len(label))
        at += len(entry) + 1
