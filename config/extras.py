"""What is installed only by who wants it: whether it is there, and how to get it."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

WEB = ("starlette", "uvicorn")
"""Of the gateway."""


def lacking(packages: Sequence[str]) -> list[str]:
    """Those that are not there."""
    return [name for name in packages if find_spec(name) is None]


def how_to_get(extra: str) -> str:
    """The command, for this Python: `pip` alone may be another one's, or none."""
    return f"{sys.executable} -m pip install 'voicebus[{extra}]'"
