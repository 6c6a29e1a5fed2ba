"""What a runner makes of what it hears."""

import socket

import pytest

from voicebus.bus.sockets import CancelWatch
from voicebus.services.tools import pipe, runner

GOOD = b'{"session_id": "s", "epoch": 1, "call_ids": ["c"], "reason": "interrupt"}'


class Watch(CancelWatch):
    """A broadcast that is at hand."""

    def __init__(self, frames: list[list[bytes]]) -> None:
        self._frames = frames

    def poll(self) -> list[list[bytes]]:
        found, self._frames = self._frames, []
        return found


@pytest.mark.parametrize(
    "bad", [[b"cancel/"], [b"cancel/", b"{"], [b"cancel/", b'"\xff"'], [b"", b"[" * 100_000]]
)
def test_a_broadcast_that_cannot_be_read_ends_no_runner(bad: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch = Watch([bad, [b"cancel/", GOOD]])
        one = runner.Runner({}, runner.Limits(), pipe.Link(ours), watch)

        one.listen()

    assert one.cancelled == {("s", "c"): "interrupt"}
