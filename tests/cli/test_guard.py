"""A killed test leaves no cell behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from voicebus.bus import testing

CELL = """
import sys, time
from voicebus.cli.plan import Wish
from voicebus.cli.testing import running
with running(Wish(settings={"VOICEBUS_SIMULATOR_SPEECH": "off"})) as cell:
    print(cell.run_dir, *cell.pids().values(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_test_process_that_is_killed_takes_its_cell_with_it(number: signal.Signals) -> None:
    test = subprocess.Popen([sys.executable, "-P", "-c", CELL], stdout=subprocess.PIPE, text=True)
    with test:
        assert test.stdout is not None
        folder, *pids = test.stdout.readline().split()
        processes = [psutil.Process(int(pid)) for pid in pids]
        assert len(processes) >= 5
        os.kill(test.pid, number)

    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []
    end = time.monotonic() + 20
    while Path(folder).exists():  # the guard removes it last, and tells nobody
        assert time.monotonic() < end
        time.sleep(0.05)
    assert testing.left_behind(Path(folder)) == []
