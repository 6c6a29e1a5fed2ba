"""On PYTHONPATH of a cell: other code and another clock in its processes, as a test wants them.

`SABOTAGE` names a folder. Its files say what:

- `poison`: the word `raise`, `die` or `spin`. A session process does so when it decides on an
  input that the provider's word "poisoned" is in.
- `where`: instead of there, in `deadline`, asked of a state that the word is in, or in `read`, of
  a provider's frame that it is in.
- `version`: what a session process that starts now calls itself.
- `clock`: seconds by which the wall clock is wrong; read at each SIGWINCH.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = os.environ.get("SABOTAGE")


def _is(role: str) -> bool:
    return f"voicebus.services.{role}" in getattr(sys, "orig_argv", [])


def _read(name: str) -> str:
    path = Path(FOLDER or ".") / name
    return path.read_text() if path.exists() else ""


def _poison(how: str, where: str) -> None:
    from voicebus.services.session import uplink  # noqa: PLC0415
    from voicebus.services.session.core import step as core  # noqa: PLC0415

    module, name = {
        "step": (core, "step"),
        "deadline": (core, "deadline"),
        "read": (uplink, "from_provider"),
    }[where]
    right = getattr(module, name)

    def poisoned(*given: Any) -> Any:
        # The one that was set aside for it is closed, and takes its last steps.
        is_over = where == "step" and given[0].phase == "closed"
        if not is_over and "poisoned" in repr(given[1:] or given):
            if how == "raise":
                raise ZeroDivisionError("poisoned")
            while how == "spin":
                pass
            os.kill(os.getpid(), signal.SIGABRT)
        return right(*given)

    setattr(module, name, poisoned)


def _version(name: str) -> None:
    from voicebus.bus import version  # noqa: PLC0415

    version.VERSION = name


def _clock() -> None:
    wrong_ns = 0
    wall_ns, wall = time.time_ns, time.time

    def set_again(*_: object) -> None:
        nonlocal wrong_ns
        wrong_ns = round(float(_read("clock") or 0) * 1e9)

    time.time_ns = lambda: wall_ns() + wrong_ns
    time.time = lambda: wall() + wrong_ns / 1e9
    set_again()
    signal.signal(signal.SIGWINCH, set_again)


if FOLDER and any(_is(role) for role in ("session", "transport", "dispatcher", "health")):
    _clock()
    if _is("session"):
        if version := _read("version"):
            _version(version)
        if poison := _read("poison"):
            _poison(poison, _read("where") or "step")
