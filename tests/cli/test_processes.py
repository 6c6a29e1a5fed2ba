"""Which processes still run, and which are waited for."""

import subprocess

import psutil

from voicebus.cli import processes


def test_only_those_that_do_not_end_by_themselves_outlive_the_wait() -> None:
    with subprocess.Popen(["true"]) as ending, subprocess.Popen(["sleep", "100"]) as lasting:
        both = [psutil.Process(one.pid) for one in (ending, lasting)]

        ended = processes.outlive(both[:1], 30.0)
        left = processes.outlive(both, 0.0)
        lasting.kill()
        after = processes.outlive(both, 30.0)

    assert ended == []
    assert left == both[1:]
    assert after == []
