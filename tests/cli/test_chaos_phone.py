"""The caller of chaos who comes through the gateway: what it takes, and what it tells."""

import json
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from voicebus.cli import chaos_phone
from voicebus.cli.chaos_phone import PhoneCall

SID = "s0-01m8brxw7vcsn4b7yt93xhkedq"


def _event(seq: int, kind: str = "head") -> str:
    header = {"v": 1, "kind": kind, "session_id": SID, "seq": seq, "prev": 0, "epoch": 0}
    return json.dumps({**header, "inc": "a", "at_us": 1, "cause": None, "data": {}})


class Gateway:
    """Says to each connection what was written for it, and closes it."""

    def __init__(self, *scripts: tuple[list[str], int]) -> None:
        self.firsts: list[Any] = []
        self._scripts = list(scripts)

    async def __call__(self, socket: ServerConnection) -> None:
        first = json.loads(await socket.recv())
        self.firsts.append(first)
        (name,) = first
        told = {"opened" if name == "open" else "attached": {"session_id": SID, "token": "t"}}
        await socket.send(json.dumps(told))
        frames, code = self._scripts.pop(0)
        for frame in frames:
            await socket.send(frame)
        await socket.close(code)


async def _call(gateway: Gateway) -> tuple[PhoneCall, list[int | None]]:
    async with serve(gateway, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        call = await chaos_phone.dial(port, {}, 10.0)
        heard = [event.seq async for event in call.events()]
        await call.detach()
    return call, heard


async def test_it_comes_back_after_what_it_has_and_is_over_with_the_last_event() -> None:
    gateway = Gateway(([_event(1), _event(2)], 1012), ([_event(3, "session_closed")], 1000))

    call, heard = await _call(gateway)

    assert heard == [1, 2, 3]
    assert (call.again, call.strange, call.is_over) == (1, [], True)
    attach = {"session_id": SID, "token": "t", "after_seq": 2}
    assert gateway.firsts[1] == {"attach": attach}


async def test_an_event_that_comes_twice_or_is_left_out_is_told() -> None:
    gateway = Gateway(
        ([_event(1), _event(1), _event(2)], 1012), ([_event(4, "session_closed")], 1000)
    )

    call, _ = await _call(gateway)

    assert call.strange == ["the gateway sent seq 1 after 1", "the gateway sent seq 4 after 2"]


async def test_a_gateway_that_sends_its_caller_away_is_told() -> None:
    call, heard = await _call(Gateway(([_event(1)], 4404)))

    assert heard == [1]
    assert call.strange == ["the gateway sent its caller away with 4404"]
