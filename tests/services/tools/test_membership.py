"""What a worker tells the dispatcher, and when it has said its last word."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from voicebus.bus.messages import base, work
from voicebus.bus.sockets import Frames
from voicebus.services.tools.membership import Membership

KEY = ("s0-" + "0" * 26, "c1")


class Idle:
    """Runs nothing."""

    def capacity(self, lane: str) -> int:
        return 2

    free = capacity

    def tools_of(self, lane: str) -> list[work.ToolSpec]:
        return []

    def running(self, lane: str) -> list[Any]:
        return []

    def holds(self, key: Any) -> bool:
        return False

    def call(self, call: work.Call) -> None: ...

    def cancel(self, key: Any, reason: str) -> None: ...


class Dispatcher:
    """The other end of its line."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        runtime = SimpleNamespace(
            role="toolhost",
            instance=0,
            inc="i1",
            endpoints=SimpleNamespace(workers="ipc://nowhere"),
            sockets=SimpleNamespace(dealer=self._dealer),
        )
        self.member = Membership(runtime, Idle(), "sync")  # type: ignore[arg-type]

    def _dealer(self, endpoint: str, heard: Any, name: str) -> Any:
        self._tell = heard
        return SimpleNamespace(send=self._hear)

    def _hear(self, frames: Frames) -> None:
        self.heard.append(msgspec.json.decode(frames[0])["kind"])

    def tell(self, message: work.FromPool) -> None:
        self._tell([base.encode(message)])


RESULT = work.Result(session_id=KEY[0], call_id=KEY[1], status="ok")
HEARD = [
    work.PoolWelcome(inc="d2"),
    work.Reset(),
    work.Acked(session_id=KEY[0], call_id=KEY[1]),
]


async def test_it_says_hello_and_beats_once_it_is_welcome() -> None:
    dispatcher = Dispatcher()

    dispatcher.tell(work.PoolWelcome(inc="d1"))
    dispatcher.member.beat()

    assert dispatcher.heard == ["hello", "heartbeat"]


@pytest.mark.parametrize("heard", HEARD)
async def test_nothing_follows_its_bye_whatever_it_hears(heard: work.FromPool) -> None:
    dispatcher = Dispatcher()
    dispatcher.tell(work.PoolWelcome(inc="d1"))
    dispatcher.member.ended(RESULT)
    dispatcher.member.bye()

    dispatcher.tell(heard)
    dispatcher.member.beat()
    dispatcher.member.ended(RESULT)
    dispatcher.member.changed()
    await asyncio.sleep(0)  # credit is told once for all that happens in a turn of the loop

    assert dispatcher.heard == ["hello", "result", "bye"]
