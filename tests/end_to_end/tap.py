"""A tap on a bound Unix socket of a running cell: every message, both ways, as bytes on the wire.

The socket's file is moved aside and a proxy stands in its place: whoever connects from then on
talks through it, to the same process as before. What passes is copied unchanged; ZMTP is only read.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

Messages = Callable[[list[bytes]], None]
GREETING_BYTES = 64
MORE, LONG, COMMAND = 1, 2, 4


class Reader:
    """Bytes of one direction of a ZMTP 3 connection, without encryption, as messages."""

    def __init__(self) -> None:
        self._bytes = b""
        self._greeted = False
        self._frames: list[bytes] = []

    def feed(self, more: bytes) -> Iterator[list[bytes]]:
        """The messages that are complete now."""
        self._bytes += more
        if not self._greeted and len(self._bytes) >= GREETING_BYTES:
            self._greeted, self._bytes = True, self._bytes[GREETING_BYTES:]
        while self._greeted and (frame := self._frame()) is not None:
            flags, body = frame
            if flags & COMMAND:
                continue  # READY, PING, PONG
            self._frames.append(body)
            if not flags & MORE:
                message, self._frames = self._frames, []
                yield message

    def _frame(self) -> tuple[int, bytes] | None:
        """ZMTP 3.1: flags, a length of one byte or eight, the body."""
        if not self._bytes:
            return None
        flags = self._bytes[0]
        begin = 9 if flags & LONG else 2
        if len(self._bytes) < begin:
            return None
        end = begin + int.from_bytes(self._bytes[1:begin], "big")
        if len(self._bytes) < end:
            return None
        body, self._bytes = self._bytes[begin:end], self._bytes[end:]
        return flags, body


@contextlib.asynccontextmanager
async def tapped(path: Path, to_owner: Messages, from_owner: Messages) -> AsyncIterator[None]:
    """While it is open, connections made to the socket are listened to."""
    aside = path.with_name(path.name + ".owner")
    os.rename(path, aside)
    passing: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        owner_reader, owner_writer = await asyncio.open_unix_connection(aside)
        there = asyncio.create_task(_pass_on(reader, owner_writer, to_owner))
        back = asyncio.create_task(_pass_on(owner_reader, writer, from_owner))
        passing.update((there, back))
        await asyncio.wait((there, back))

    server = await asyncio.start_unix_server(connected, path)
    try:
        yield
    finally:
        server.close()
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        os.replace(aside, path)


async def _pass_on(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, told: Messages
) -> None:
    """Until either side ends; then the other is ended, too."""
    reader = Reader()
    try:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
            for message in reader.feed(data):
                told(message)
    except OSError:
        pass  # one of the two was killed
    finally:
        target.close()
