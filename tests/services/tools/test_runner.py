"""What a runner makes of what it hears."""

import asyncio
import os
import socket

import pytest

from tests.services.tools.conftest import PATIENCE_S
from voicebus.bus.sockets import CancelWatch
from voicebus.services.tools import api, confine, pipe, runner, schema
from voicebus.services.tools.toolbox import Tool

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


class SecondWord(Watch):
    """A broadcast that comes right after the runner has looked for one."""

    def __init__(self, frames: list[list[bytes]]) -> None:
        super().__init__(frames)
        self._looks = 0
        self._silent, self._other = os.pipe()

    def poll(self) -> list[list[bytes]]:
        self._looks += 1
        return super().poll() if self._looks > 1 else []

    @property
    def fd(self) -> int:
        return self._silent

    def close(self) -> None:
        os.close(self._silent)
        os.close(self._other)


async def test_a_call_that_is_cancelled_before_its_first_step_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # This process is no runner: it, and all that the tests start, must not make way.
    monkeypatch.setattr(confine, "yield_the_cpu", lambda: True)
    began = []

    async def begins() -> None:
        """Never."""
        began.append(1)

    tool = Tool("begins", schema.describe(begins), api.Options(), begins, True, "here", begins)
    order = pipe.Run(session_id="s", call_id="c", tool="begins", args={}, budget_s=60)
    watch = SecondWord([[b"cancel/", GOOD]])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        one = runner.Runner({"begins": tool}, runner.Limits(), pipe.Link(ours), watch)
        # It is there when the loop looks for the first time, so that the runner looks twice before
        # the call takes its first step.
        theirs.sendall(pipe.pack(order))
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        serving = loop.create_task(runner.serve_async(one))
        async with asyncio.timeout(PATIENCE_S):
            said = await loop.sock_recv(theirs, 65536)
        theirs.shutdown(socket.SHUT_WR)
        await serving
        for heard in (ours.fileno(), watch.fd):  # its process would end now
            loop.remove_reader(heard)
    watch.close()

    (done,) = [pipe.UP.decode(body) for body in pipe.Splitter().feed(said)]
    assert isinstance(done, pipe.Done)
    assert (done.status, done.began, began) == ("cancelled", False, [])
    assert done.message == "cancelled before it began (interrupt)"
