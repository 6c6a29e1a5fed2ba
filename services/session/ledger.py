"""The numbers of one conversation: seq and prev of its events, n of its frames down. Pure."""

from typing import Any

import msgspec

from voicebus.bus import topics
from voicebus.bus.messages.base import Message, encode, wire_name
from voicebus.bus.messages.events import EventHeader
from voicebus.bus.version import VERSION


class Numbered(msgspec.Struct, frozen=True):
    """An event as it goes over the bus."""

    seq: int
    kind: str
    topic: bytes
    header: bytes


class Ledger:
    """Allocates numbers when something is decided, long before it is published."""

    def __init__(self, session_id: str, inc: str) -> None:
        self.session_id = session_id
        self.inc = inc
        self.seq = 0
        self.heads: dict[str, int] = {}
        """The last seq of each kind."""
        self.down_n = 0
        self.up_n = 0

    def event(self, data: Message, *, epoch: int, at_us: int, cause: str | None) -> Numbered:
        """The next event of this session."""
        kind = wire_name(type(data))
        self.seq += 1
        header = EventHeader(
            kind=kind,
            session_id=self.session_id,
            seq=self.seq,
            prev=self.heads.get(kind, 0),
            epoch=epoch,
            inc=self.inc,
            at_us=at_us,
            cause=cause,
            data=msgspec.Raw(encode(data)),
        )
        self.heads[kind] = self.seq
        return Numbered(self.seq, kind, topics.event(self.session_id, kind), encode(header))

    def unnumbered(self, data: Message, *, epoch: int, at_us: int) -> bytes:
        """The header of a `head` or `welcome`."""
        return encode(
            EventHeader(
                kind=wire_name(type(data)),
                session_id=self.session_id,
                epoch=epoch,
                inc=self.inc,
                at_us=at_us,
                data=msgspec.Raw(encode(data)),
            )
        )

    def down(self) -> int:
        """The next number of a frame down."""
        self.down_n += 1
        return self.down_n

    def dump(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "version": VERSION,
            "seq": self.seq,
            "heads": self.heads,
            "down_n": self.down_n,
            "up_n": self.up_n,
        }

    def restore(self, dumped: dict[str, Any]) -> None:
        """From the journal."""
        self.seq = dumped["seq"]
        self.heads = dict(dumped["heads"])
        self.down_n = dumped["down_n"]
        self.up_n = dumped["up_n"]
