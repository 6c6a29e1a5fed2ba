"""The fork server as a process, with the test as its host."""

import os
import signal
import socket
import subprocess
import sys

import msgspec
import pytest

from voicebus.services.tools import forkserver, pipe, runner


def test_a_fork_waits_for_what_a_tool_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [BlockingIOError(), BlockingIOError()]
    cleared = []

    def refuse_twice() -> int:
        if left:
            raise left.pop()
        return 4711

    monkeypatch.setattr("os.fork", refuse_twice)
    monkeypatch.setattr(forkserver, "FORK_PAUSE_S", 0.0)

    assert forkserver.fork(lambda: cleared.append(1)) == 4711
    assert cleared == [1, 1]


def test_a_fork_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError

    monkeypatch.setattr("os.fork", refuse)
    monkeypatch.setattr(forkserver, "FORK_PAUSE_S", 0.0)

    with pytest.raises(BlockingIOError):
        forkserver.fork(lambda: None)


def test_a_host_that_dies_right_after_an_order_is_cleared_up_after() -> None:
    ours, theirs = socket.socketpair()
    server = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "voicebus.services.tools.forkserver"),
            *("--control", str(theirs.fileno())),
            *("--limits", msgspec.json.encode(runner.Limits()).decode()),
        ],
        pass_fds=(theirs.fileno(),),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    theirs.close()
    ours.settimeout(30)
    assert b"loaded" in ours.recv(65536)
    link, runners_link = socket.socketpair()
    _, output = os.pipe()

    os.kill(server.pid, signal.SIGSTOP)
    order = pipe.pack(pipe.Spawn(number=1, is_async=False))
    socket.send_fds(ours, [order], [runners_link.fileno(), output, output])
    ours.close()
    runners_link.close()
    os.kill(server.pid, signal.SIGCONT)
    _, said = server.communicate(timeout=30)
    link.close()

    assert (server.returncode, said) == (0, b"")
