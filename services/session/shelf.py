"""The schemas of the bus, served to whoever asks."""

import asyncio
from typing import Any

from voicebus.bus import schemas
from voicebus.bus.messages import commands as c
from voicebus.config.loader import nearest
from voicebus.services.session.desk import Desk, Refused


class SchemaShelf:
    """Made at the first question and kept: it takes tens of milliseconds, so not on the loop."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._files: dict[str, dict[str, Any]] = {}
        self._making: asyncio.Future[dict[str, dict[str, Any]]] | None = None
        self._waiting: list[tuple[c.Command, c.Schema]] = []

    def answer(self, command: c.Command, asked: c.Schema) -> None:
        """Now, or when they are made."""
        if self._files:
            self._tell(command, asked)
            return
        self._waiting.append((command, asked))
        if self._making is None:
            loop = asyncio.get_running_loop()
            self._making = loop.run_in_executor(None, schemas.every)
            self._making.add_done_callback(self._made)

    def _made(self, files: asyncio.Future[dict[str, dict[str, Any]]]) -> None:
        self._making = None
        waiting, self._waiting = self._waiting, []
        error = files.exception()
        if error is None:
            self._files = files.result()
        for command, asked in waiting:
            if error is None:
                self._tell(command, asked)
            else:
                # They need our own source files, which some installations leave out.
                text = f"the schemas cannot be made here: {error}"
                self._desk.refuse(command, Refused("internal", text).error)

    def _tell(self, command: c.Command, asked: c.Schema) -> None:
        if asked.name is not None and asked.name not in self._files:
            text = f"there is no schema {asked.name!r}{nearest(asked.name, self._files)}"
            self._desk.refuse(command, Refused("bad_request", text).error)
            return
        schema = self._files[asked.name] if asked.name is not None else None
        self._desk.answer(command, c.Schemas(names=sorted(self._files), schema=schema))
