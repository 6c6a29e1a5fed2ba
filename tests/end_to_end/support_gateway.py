"""A caller at the gateway's WebSocket, as any program: plain frames, everything kept."""

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.end_to_end.support import WITHIN_S, until

Frame = dict[str, Any]


class Phone:
    """One connection; `session` and `events` may be those of one before."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Frame] = []
        """Text frames that are no events."""
        self.events: list[Frame] = []
        self.sound: list[tuple[Frame, bytes]] = []
        self.closed: tuple[int, str] | None = None
        self.changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.socket:
                if isinstance(message, bytes):
                    length = int.from_bytes(message[:2], "big")
                    head = json.loads(message[2 : 2 + length])
                    self.sound.append((head, message[2 + length :]))
                else:
                    frame = json.loads(message)
                    (self.events if "kind" in frame else self.frames).append(frame)
                self.changed.set()
        except ConnectionClosed:
            pass
        self.closed = (self.socket.close_code or 0, self.socket.close_reason or "")
        self.changed.set()

    async def until(self, met: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
        """The first true value of `met`, looked at after each frame."""

        def seen() -> str:
            kinds = [one["kind"] for one in self.events][-30:]
            return f"{what}; frames {self.frames[-3:]}, events {kinds}, closed {self.closed}"

        return await until(met, self.changed, seen, within_s)

    async def frame(self, name: str) -> Frame:
        """The first text frame with that member; what it holds."""
        found: Frame = await self.until(
            lambda: next((one[name] for one in self.frames if name in one), None), name
        )
        return found

    async def send(self, frame: Any) -> None:
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def ask(self, command: str, data: Any = None, *, id: str | None = None) -> Frame:
        """The reply."""
        id = id or uuid.uuid4().hex
        await self.send({"v": 1, "id": id, "command": command, "data": data or {}})
        return await self.reply(id)

    async def reply(self, id: str) -> Frame:
        found: Frame = await self.until(
            lambda: next((one for one in self.frames if one.get("id") == id), None), f"reply {id}"
        )
        return found

    def found(self, kind: str, **fields: Any) -> list[Frame]:
        return [
            one
            for one in self.events
            if one["kind"] == kind
            and all(one["data"].get(name) == value for name, value in fields.items())
        ]

    async def event(self, kind: str, *, nth: int = 1, **fields: Any) -> Frame:
        def there() -> Frame | None:
            mine = self.found(kind, **fields)
            return mine[nth - 1] if len(mine) >= nth else None

        found: Frame = await self.until(there, f"{kind} number {nth} with {fields}")
        return found

    def pieces(self) -> list[tuple[Frame, bytes]]:
        return [one for one in self.sound if one[0]["kind"] == "assistant_audio_delta"]

    async def end(self) -> tuple[int, str]:
        """How the gateway closed it."""
        await self.until(lambda: self.closed, "the end")
        assert self.closed is not None
        return self.closed

    async def hang_up(self) -> None:
        """Ends the conversation."""
        if self.closed is None:
            await self.ask("close")
            assert await self.end() == (1000, "the session has ended")

    async def __aenter__(self) -> "Phone":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()
        await self._reading


@contextlib.asynccontextmanager
async def phone(port: int, first: Any = None, **headers: str) -> AsyncIterator[Phone]:
    """A connection; `first` is its first frame."""
    socket = await connect(
        f"ws://127.0.0.1:{port}/ws", proxy=None, additional_headers=headers, compression=None
    )
    async with Phone(socket) as one:
        if first is not None:
            await one.send(first)
        yield one


def attaching(opened: Frame, after_seq: int) -> Frame:
    """The first frame of one who comes back."""
    return {
        "attach": {
            "session_id": opened["session_id"],
            "token": opened["token"],
            "after_seq": after_seq,
        }
    }


async def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body."""

    def ask() -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    return await asyncio.to_thread(ask)
