"""The fork server as a process, with the test as its host."""

import os
import signal
import socket
import subprocess
import sys

import msgspec

from voicebus.services.tools import pipe, runner


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
