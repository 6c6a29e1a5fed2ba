"""A fault in what decides, as it may be logged: its kind and place, and none of its words."""

import traceback
from typing import Any


def told(error: BaseException) -> dict[str, Any]:
    """For a log line. What an exception says may be what a caller said: the key that was missing,
    the value that does not fit."""
    frames = traceback.walk_tb(error.__traceback__)
    at = traceback.StackSummary.extract(frames, lookup_lines=False)
    return {
        "error": type(error).__qualname__,
        "at": [f"{one.filename}:{one.lineno} {one.name}" for one in at],
    }
