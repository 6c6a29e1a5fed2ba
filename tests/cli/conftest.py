"""A stack of stand-ins: real supervisord, real locks and beacons, no services."""

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from voicebus.bus import testing
from voicebus.cli import processes, stack
from voicebus.cli.plan import Wish

STAND_IN = Path(__file__).parent / "stand_in.py"


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with testing.run_folder() as folder:
        yield folder
        mine = [one for one in psutil.process_iter() if _belongs(one, folder)]
        processes.end(mine)


def _belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        return bool(process.environ().get("VOICEBUS_RUN") == str(folder))
    except (psutil.Error, OSError):
        return False


@pytest.fixture
def wish(run_dir: Path, tmp_path: Path) -> Callable[..., Wish]:
    """`wish(session="waiting", …)`: what stands in for each role."""
    python = tmp_path / "python"
    command = shlex.join([sys.executable, str(STAND_IN)])
    python.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    python.chmod(0o700)

    def make(*, environment: dict[str, str] | None = None, **roles: str) -> Wish:
        given = {"VOICEBUS_PYTHON": str(python), "PATH": "/usr/bin:/bin", **(environment or {})}
        given.update({f"STAND_IN_{role.upper()}": part for role, part in roles.items()})
        return Wish(run_dir=run_dir, environment=given)

    return make


@pytest.fixture
def start(wish: Callable[..., Wish]) -> Callable[..., stack.StackStatus]:
    """`start(session="waiting", …)`."""

    def started(
        *, within_s: float = 30.0, tell: stack.Tell = stack.silent, **roles: str
    ) -> stack.StackStatus:
        return stack.start(wish(**roles), tell, within_s=within_s)

    return started
