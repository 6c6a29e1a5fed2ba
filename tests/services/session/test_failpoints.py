"""Failpoints: named, counted, and refused when misspelt."""

import signal
import subprocess
import sys

import pytest

from voicebus.services.session.failpoints import BadFailpoint, Failpoints


def test_an_unarmed_place_does_nothing() -> None:
    Failpoints(None).reached("committed")


def test_a_place_that_does_not_exist_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadFailpoint, match="decided, committed, published"):
        Failpoints("comitted:1")


def test_the_process_dies_at_the_given_time_and_no_other() -> None:
    code = (
        "from voicebus.services.session.failpoints import Failpoints\n"
        "f = Failpoints('sent:2')\n"
        "f.reached('sent'); f.reached('committed'); print('once', flush=True)\n"
        "f.reached('sent'); print('twice', flush=True)\n"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )

    assert done.stdout == "once\n"
    assert done.returncode == -signal.SIGKILL
