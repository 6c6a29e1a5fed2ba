"""Failpoints: named, counted, and refused when misspelt."""

import signal
import subprocess
import sys

import pytest

from voicebus.services.session.failpoints import BadFailpoint, Failpoints


def test_an_unarmed_place_does_nothing() -> None:
    Failpoints(None).reached("committed")


def test_a_place_that_does_not_exist_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadFailpoint, match="decided, told, committed"):
        Failpoints("comitted:1")


@pytest.mark.parametrize("setting", ["committed/response.create:1", "sent:often"])
def test_only_what_is_sent_has_a_type_and_times_are_a_number(setting: str) -> None:
    with pytest.raises(BadFailpoint, match="sent/FRAME_TYPE"):
        Failpoints(setting)


def test_the_process_dies_after_the_frame_that_is_named_and_no_other() -> None:
    code = (
        "from voicebus.services.session.failpoints import Failpoints\n"
        "f = Failpoints('sent/response.create:2')\n"
        "f.sent(None); f.sent(b'{\"type\":\"response.cancel\"}'); f.reached('sent')\n"
        "f.sent(b'{\"type\":\"response.create\"}'); print('once', flush=True)\n"
        "f.sent(b'{\"type\":\"response.create\"}'); print('twice', flush=True)\n"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )

    assert done.stdout == "once\n"
    assert done.returncode == -signal.SIGKILL


def test_what_is_told_at_once_has_left_the_process_before_it_dies() -> None:
    code = (
        "from voicebus.services.session import failpoints\n"
        "failpoints.time.sleep = lambda s: print('sent', flush=True)\n"
        "f = failpoints.Failpoints('told:1')\n"
        "f.reached('decided'); print('decided', flush=True)\n"
        "f.told(); print('alive', flush=True)\n"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )

    assert done.stdout == "decided\nsent\n"
    assert done.returncode == -signal.SIGKILL


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
