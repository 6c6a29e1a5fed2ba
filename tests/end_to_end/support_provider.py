"""A provider that shares no code with the simulator: what it says is what the test tells it."""

import asyncio
import base64
import itertools
import json
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.end_to_end.support import WITHIN_S, until

FRAME_BYTES = 960
"""20 ms of pcm16."""


class Call:
    """One connection of the transport's."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.path = socket.request.path if socket.request else ""
        self.headers = dict(socket.request.headers.raw_items()) if socket.request else {}
        self.received: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.ended_at: float | None = None
        """When the other side was gone, in the loop's time."""
        self.stammers = False
        """Everything but sound is sent twice."""
        self._taken: dict[str, int] = {}

    async def follow(self, *, confirms: bool) -> None:
        """Collect what comes; confirm configurations if told so."""
        try:
            async for frame in self._socket:
                event = json.loads(frame)
                self.received.append(event)
                if confirms and event["type"] == "session.update":
                    await self.send(type="session.updated", session=event["session"])
                self.changed.set()
        except ConnectionClosed:
            pass
        finally:
            self.ended_at = asyncio.get_running_loop().time()
            self.changed.set()

    def of(self, type: str) -> list[dict[str, Any]]:
        """The frames of that type so far."""
        return [one for one in self.received if one["type"] == type]

    async def expect(self, type: str, *, within_s: float = WITHIN_S) -> dict[str, Any]:
        """The next frame of that type."""
        self._taken[type] = nth = self._taken.get(type, 0) + 1

        def there() -> dict[str, Any] | None:
            found = self.of(type)
            return found[nth - 1] if len(found) >= nth else None

        def what() -> str:
            return f"{type} number {nth}; received {[one['type'] for one in self.received][-30:]}"

        event: dict[str, Any] = await until(there, self.changed, what, within_s)
        return event

    async def until(self, met: Callable[[], Any], what: str) -> None:
        """Until that is so, looked at after each frame."""
        await until(met, self.changed, lambda: what, WITHIN_S)

    async def gone(self, *, within_s: float = WITHIN_S) -> float:
        """When the other side was gone."""
        ended: float = await until(
            lambda: self.ended_at, self.changed, lambda: "the provider's socket to end", within_s
        )
        return ended

    async def send(self, **event: Any) -> None:
        """One event, nothing added."""
        frame = json.dumps(event)
        await self._socket.send(frame)
        if self.stammers and event["type"] != "response.output_audio.delta":
            await self._socket.send(frame)

    async def send_text(self, text: str) -> None:
        """A frame that need not be an event."""
        await self._socket.send(text)

    async def send_binary(self, data: bytes) -> None:
        """A binary frame."""
        await self._socket.send(data)

    async def close(self, code: int, reason: str = "") -> None:
        """Close with that code."""
        await self._socket.close(code, reason)

    def cut(self) -> None:
        """Cut the connection without a word."""
        self._socket.transport.abort()

    async def say(self, response: str, item: str, sound: bytes) -> None:
        """A piece of sound, with the fewest fields that can name it."""
        await self.send(
            type="response.output_audio.delta",
            response_id=response,
            item_id=item,
            delta=base64.b64encode(sound).decode(),
        )


class Provider:
    """Listens on a port; `async with`. Confirms configurations unless told otherwise."""

    def __init__(
        self, port: int, *, confirms: bool = True, expires_in_s: float | None = None
    ) -> None:
        """`expires_in_s`: how long each connection says that it lives; unsaid by default."""
        self._port = port
        self._expires_in_s = expires_in_s
        self._confirms = confirms
        self._server: Server | None = None
        self.calls: list[Call] = []
        self.changed = asyncio.Event()
        self._taken = 0

    async def call(self) -> Call:
        """The next connection."""
        nth = self._taken
        self._taken += 1
        await until(
            lambda: len(self.calls) > nth, self.changed, lambda: f"connection {nth + 1}", WITHIN_S
        )
        return self.calls[nth]

    async def _serve(self, socket: ServerConnection) -> None:
        call = Call(socket)
        self.calls.append(call)
        self.changed.set()
        created: dict[str, Any] = {"id": f"sess_{len(self.calls)}"}
        if self._expires_in_s is not None:
            created["expires_at"] = int(time.time() + self._expires_in_s)
        await call.send(type="session.created", session=created)
        await call.follow(confirms=self._confirms)

    async def __aenter__(self) -> Self:
        self._server = await serve(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


def stamped() -> bytes:
    """A frame of sound that says when it was made."""
    return struct.pack("<q", time.monotonic_ns()).ljust(FRAME_BYTES, b"\0")


def age_ms(samples: bytes, heard_at: float) -> float:
    """How old a stamped frame was when it was heard, on the monotonic clock."""
    made: int = struct.unpack_from("<q", samples)[0]
    return heard_at * 1000 - made / 1e6


async def stream(call: Call, response: str, item: str, seconds: float) -> None:
    """Stamped frames at the speed of time."""
    loop = asyncio.get_running_loop()
    at = loop.time()
    for _ in range(round(seconds * 50)):
        await call.say(response, item, stamped())
        at += 0.02
        await asyncio.sleep(max(0.0, at - loop.time()))


_numbers = itertools.count(1)


async def calls_tool(call: Call, name: str, arguments: str, **more: Any) -> str:
    """A response, with `more` of its fields, that only calls a tool. Returns the call's id."""
    number = next(_numbers)
    response, item, call_id = f"resp_t{number}", f"item_t{number}", f"call_t{number}"
    await call.send(
        type="response.created",
        response={"id": response, "status": "in_progress", "output": [], **more},
    )
    await call.send(
        type="response.output_item.added",
        response_id=response,
        output_index=0,
        item={"id": item, "type": "function_call", "name": name, "call_id": call_id},
    )
    await call.send(
        type="response.function_call_arguments.done",
        response_id=response,
        item_id=item,
        output_index=0,
        call_id=call_id,
        arguments=arguments,
    )
    output = {
        "id": item,
        "type": "function_call",
        "name": name,
        "call_id": call_id,
        "arguments": arguments,
        "status": "completed",
    }
    await call.send(
        type="response.output_item.done", response_id=response, output_index=0, item=output
    )
    await call.send(
        type="response.done",
        response={"id": response, "status": "completed", "output": [output], **more},
    )
    return call_id
