"""A conversation of `voicebus chaos` through the gateway: it comes back, and misses nothing."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from voicebus.bus import ids
from voicebus.bus.messages.base import BadMessage
from voicebus.client.errors import ClientError, CommandRefused, NobodyAnswers, SessionGone
from voicebus.client.events import Event
from voicebus.client.events import decode as decode_event
from voicebus.client.sound import Heard
from voicebus.client.sound import decode as decode_sound

AGAIN_S = 0.1
ANSWER_S = 5.0
"""A connection on which nothing comes for so long after a question is given up."""
NO_WAY_BACK = {4401, 4404, 4409}
"""Close codes of docs/gateway.md after which nobody need come back."""

Frame = dict[str, Any]


class PhoneCall:
    """One session; its connections come and go. Made by `dial`."""

    def __init__(self, port: int, patience_s: float) -> None:
        self.id = ""
        self.again = 0
        """How often it had to connect again."""
        self.strange: list[str] = []
        """What the gateway must not do, as sentences."""
        self._url = f"ws://127.0.0.1:{port}/ws"
        self._patience_s = patience_s
        self._token = ""
        self._last = 0
        self._is_over = False
        self._socket: ClientConnection | None = None
        self._asked: dict[str, tuple[Frame, asyncio.Future[Frame]]] = {}
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._sound: asyncio.Queue[Heard | None] = asyncio.Queue()
        self._opened: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._staying: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether the session has ended, or nobody can come back to it."""
        return self._is_over

    @property
    def events_healed(self) -> int:
        """The gateway fetches what was missed before it hands anything on."""
        return 0

    async def open(self, config: Frame) -> None:
        """Raises CommandRefused, NobodyAnswers."""
        self._staying = asyncio.create_task(self._stay({"open": config}))
        await asyncio.wait([self._opened], timeout=self._patience_s)
        if not self._opened.done():
            raise NobodyAnswers(f"no gateway at {self._url} within {self._patience_s:g} s")
        self._opened.result()

    async def tell(self, command: str, data: Frame) -> str:
        """A command under one id until it is done, on whichever connection. Raises ClientError."""
        id = ids.ulid()
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        frame = {"v": 1, "id": id, "command": command, "data": data}
        self._asked[id] = (frame, answer)
        try:
            await self._send(frame)
            end = time.monotonic() + self._patience_s
            while True:
                await asyncio.wait([answer], timeout=ANSWER_S)
                if answer.done():
                    break
                if self._is_over:
                    raise SessionGone(f"session {self.id} has ended")
                if time.monotonic() > end:
                    raise NobodyAnswers(f"{command} {id}: no answer in {self._patience_s:g} s")
                if self._socket is not None:  # perhaps it lives, and nobody is behind it
                    self._socket.transport.abort()
            reply = answer.result()
        finally:
            self._asked.pop(id, None)
        if not reply["ok"]:
            error = reply["error"]
            raise CommandRefused(command, error["code"], error["message"], error["retry"])
        return id

    async def events(self) -> AsyncIterator[Event]:
        """Every event once, in order."""
        while (event := await self._events.get()) is not None:
            yield event

    async def audio_output(self) -> AsyncIterator[Heard]:
        """The sound, as it comes."""
        while (heard := await self._sound.get()) is not None:
            yield heard

    async def detach(self) -> None:
        """Hang up; the session stays."""
        if self._staying is not None:
            self._staying.cancel()
            await asyncio.gather(self._staying, return_exceptions=True)
        self._end()

    # --- inside -------------------------------------------------------------------------------

    async def _stay(self, first: Frame) -> None:
        """Connected until the session ends."""
        try:
            while not self._is_over:
                code = await self._connection(first)
                if code in NO_WAY_BACK or (code == 1000 and self.id):
                    if code != 1000:
                        self.strange.append(f"the gateway sent its caller away with {code}")
                    break
                if self.id:
                    self.again += 1
                    attach = {"session_id": self.id, "token": self._token, "after_seq": self._last}
                    first = {"attach": attach}
                elif self._opened.done():
                    break  # refused
                await asyncio.sleep(AGAIN_S)
        finally:
            self._end()

    async def _connection(self, first: Frame) -> int:
        """One connection from its first frame to its end. Its close code; 1006 for none."""
        try:
            socket = await connect(self._url, proxy=None, compression=None, open_timeout=ANSWER_S)
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed):
            return 1006
        async with socket:
            try:
                await socket.send(json.dumps(first))
                async for message in socket:
                    if isinstance(message, bytes):
                        self._heard(message)
                    else:
                        await self._told(socket, message)
            except ConnectionClosed:
                pass
            finally:
                self._socket = None
        return socket.close_code or 1006

    async def _told(self, socket: ClientConnection, text: str) -> None:
        frame: Frame = msgspec.json.decode(text)
        if "kind" in frame:
            self._event(text)
        elif "ok" in frame:
            if (asked := self._asked.get(frame["id"])) is not None and not asked[1].done():
                asked[1].set_result(frame)
        elif (opened := frame.get("opened") or frame.get("attached")) is not None:
            self.id, self._token = opened["session_id"], opened["token"]
            if not self._opened.done():
                self._opened.set_result(opened)
            self._socket = socket
            for asked_frame, answer in tuple(self._asked.values()):
                if not answer.done():
                    await self._send(asked_frame)
        elif (error := frame.get("error")) is not None and not self._opened.done():
            refused = CommandRefused("open", error["code"], error["message"], error["retry"])
            self._opened.set_exception(refused)

    def _event(self, text: str) -> None:
        try:
            event = decode_event(text.encode())
        except BadMessage as error:
            self.strange.append(f"the gateway sent no event: {error}")
            return
        if event.seq is None:
            return
        if event.seq != self._last + 1:
            self.strange.append(f"the gateway sent seq {event.seq} after {self._last}")
        self._last = event.seq
        self._events.put_nowait(event)
        if event.kind == "session_closed":
            self._end()

    def _heard(self, message: bytes) -> None:
        length = int.from_bytes(message[:2], "big")
        with contextlib.suppress(BadMessage):
            heard = decode_sound([message[2 : 2 + length], message[2 + length :]])
            if heard is not None:
                self._sound.put_nowait(heard)

    async def _send(self, frame: Frame) -> None:
        """Now, if there is a connection; else with the next one. Raises nothing: on one that is
        being closed there may still be something to read."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(json.dumps(frame))

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._events.put_nowait(None)
            self._sound.put_nowait(None)


async def dial(port: int, config: Frame, patience_s: float) -> PhoneCall:
    """Open a session through the gateway there. Raises ClientError."""
    call = PhoneCall(port, patience_s)
    try:
        await call.open(config)
    except ClientError:
        await call.detach()
        raise
    return call
