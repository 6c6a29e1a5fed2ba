"""What `recording.json` says of a recording: when, what, and what is missing. Pure."""

from typing import Literal

import msgspec

from voicebus.services.recorder.timeline import Gap

GAPS_KEPT = 500
SEAM_MS = 20
"""Gaps of the same kind that are no further apart are one."""

EventGap = tuple[int, int]
"""The first and the last seq of events that are gone for good."""


class GapTold(msgspec.Struct, frozen=True):
    """Silence that nobody made, in milliseconds since the beginning."""

    channel: Literal["caller", "assistant", "both"]
    from_ms: int
    to_ms: int
    why: str


class Stall(msgspec.Struct, frozen=True):
    """The recorder stood still: nothing is missing, but what came then may stand a little off."""

    from_ms: int
    to_ms: int


class Account(msgspec.Struct, kw_only=True):
    """The file `recording.json`."""

    version: int = 1
    session_id: str
    began_at_us: int
    """Unix time of the first frame."""
    ended_at_us: int | None = None
    """None while it goes on."""
    ended_by: str | None = None
    """The reason of `session_closed`; `vanished` when its last events could not be had."""
    is_complete: bool = False
    """It has ended, and neither sound nor an event is missing."""
    rate_hz: int | None = None
    """Of sound.wav: that of the first sound; None while there was none."""
    left: str = "caller"
    right: str = "assistant"
    seconds: float = 0.0
    missing_ms: dict[str, int] = {}
    """By channel: the sum of its gaps; `both` counts in each."""
    gaps: list[GapTold] = []
    gaps_left_out: int = 0
    """Beyond the first 500; they count in `missing_ms`."""
    stalls: list[Stall] = []
    limit: str | None = None
    """Why no more sound was kept, if the recording was cut."""
    events: int = 0
    """The seq of the last event in events.jsonl."""
    events_gone: list[EventGap] = []
    under_way: dict[str, int] = {}
    """Answers whose end was not told: item and content index -> milliseconds recorded."""


_decoder = msgspec.json.Decoder(Account)


def read(raw: bytes) -> Account | None:
    """None if that is no account."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def written(account: Account) -> bytes:
    """As it stands in the file."""
    return msgspec.json.format(msgspec.json.encode(account), indent=2) + b"\n"


def note(account: Account, gap: Gap) -> None:
    """Something is missing."""
    lasts_ms = gap.to_ms - gap.from_ms
    account.missing_ms = {
        name: account.missing_ms.get(name, 0) + (lasts_ms if gap.channel in (name, "both") else 0)
        for name in ("caller", "assistant")
    }
    last = account.gaps[-1] if account.gaps else None
    if (
        last is not None
        and (last.channel, last.why) == (gap.channel, gap.why)
        and -SEAM_MS <= gap.from_ms - last.to_ms <= SEAM_MS
    ):
        told = GapTold(last.channel, last.from_ms, max(gap.to_ms, last.to_ms), last.why)
        account.gaps[-1] = told
    elif len(account.gaps) < GAPS_KEPT:
        account.gaps.append(GapTold(*gap))
    else:
        account.gaps_left_out += 1


def stalled(account: Account, from_ms: int, to_ms: int) -> None:
    """The recorder stood still."""
    if len(account.stalls) < GAPS_KEPT:
        account.stalls.append(Stall(from_ms, to_ms))


def end(account: Account, at_us: int, by: str) -> None:
    """The conversation is over, and everything that can be had of it is here."""
    account.ended_at_us = max(at_us, account.began_at_us)
    account.ended_by = by
    account.under_way = {}
    account.is_complete = not (
        account.gaps or account.events_gone or account.limit or by == "vanished"
    )
