"""What chaos does to processes; and that it counts nothing which it did to nobody."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Sockets
from voicebus.cli import processes
from voicebus.cli.chaos_faults import Tormentor
from voicebus.cli.chaos_stack import Wire
from voicebus.services.supervisor import Program, Supervisor

NAMES = ("session-0", "toolhost-0")
ALL = ("kill session", "freeze session", "kill runner", "freeze runner", "cut provider")


@pytest.fixture
def victim() -> Iterator[psutil.Process]:
    with subprocess.Popen(["sleep", "100"]) as started:
        yield psutil.Process(started.pid)
        started.kill()


def _supervised(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    """All that supervisord tells: this process is each of them, 0 for none."""
    programs = {name: Program(name, "RUNNING", pid, "", "", 1) for name in NAMES}
    monkeypatch.setattr(Supervisor, "now", lambda _: programs)


@pytest.mark.parametrize("kind", ALL)
async def test_where_nobody_is_there_to_feel_it_no_fault_is_counted(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    _supervised(monkeypatch, 0)

    with Sockets(failed=_failed) as sockets:
        one = Tormentor(Endpoints(run_dir), NAMES, sockets, random.Random(1), Wire(1))

        assert kind in one.kinds()
        assert await one.do(kind) is None


async def test_a_tool_host_without_runners_feels_nothing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, victim: psutil.Process
) -> None:
    _supervised(monkeypatch, victim.pid)

    with Sockets(failed=_failed) as sockets:
        one = Tormentor(Endpoints(run_dir), NAMES, sockets, random.Random(1), None)

        assert await one.do("kill runner") is None
        assert victim.status() != psutil.STATUS_ZOMBIE


async def test_who_is_there_is_killed_and_that_counts(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, victim: psutil.Process
) -> None:
    _supervised(monkeypatch, victim.pid)

    with Sockets(failed=_failed) as sockets:
        one = Tormentor(Endpoints(run_dir), NAMES, sockets, random.Random(1), None)
        fault = await one.do("kill session")

    assert fault is not None
    assert (fault.kind, fault.target, fault.pid) == ("kill session", "session-0", victim.pid)
    assert processes.wait(victim, 30.0)


def _failed(error: Exception) -> None:
    raise error
