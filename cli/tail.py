"""`voicebus tail`: print events as they come, of one session or of all."""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.messages.sound import milliseconds
from voicebus.cli import folders, lines
from voicebus.cli.conversation import client_of
from voicebus.cli.options import RunDir
from voicebus.client import Event, Lagged
from voicebus.client.watch import Healed, Seen, SessionVanished, SoundSeen, Watch

Print = Callable[[str], None]


def tail(
    session: Annotated[
        str | None, typer.Argument(metavar="[SESSION]", help="Its id; without one, all of them.")
    ] = None,
    run_dir: RunDir = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print event headers as JSON lines, nothing else.")
    ] = False,
    audio: Annotated[
        bool, typer.Option("--audio", help="Also a line for each piece of sound: its header.")
    ] = False,
) -> None:
    """Print events as they come. Events lost on the way are fetched again, and told of.

    One session is shown from its first event to its last; of all, what happens from now on. It
    attaches to nothing: sessions do not notice. Ends with Ctrl-C, or with the session.
    """
    try:
        show = _as_json if as_json else _plain
        asyncio.run(follow(folders.endpoints(run_dir), session, audio, show))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def follow(
    endpoints: Endpoints, session_id: str | None, audio: bool, show: Callable[[Seen], None]
) -> None:
    """Show what is seen until the session ends. Raises Problem."""
    sound = [f"ipc://{path}" for path in sorted(endpoints.run_dir.glob("transport-*.audio-out"))]
    async with client_of(endpoints) as client:
        watch = Watch(client, session_id, audio_out=sound if audio else ())
        try:
            await watch.joined()
            reader = watch.seen()
            while True:
                try:
                    async for seen in reader:
                        show(seen)
                    return
                except Lagged as error:
                    _note(str(error))
        finally:
            watch.close()


def _as_json(seen: Seen) -> None:
    match seen:
        case Event():
            _line(seen.as_json())
        case SoundSeen():
            _line(msgspec.json.encode({**seen.header, "size_bytes": seen.size_bytes}))
        case _:
            _note(_told(seen))


def _plain(seen: Seen) -> None:
    match seen:
        case Event():
            clock = time.strftime("%H:%M:%S", time.localtime(seen.at_us / 1e6))
            moment = f"{clock}.{seen.at_us // 1000 % 1000:03}"
            where = f"{seen.session_id[-6:]}:{seen.seq}"
            print(f"{moment} {where:<12} {lines.labelled(seen)}", flush=True)
        case SoundSeen():
            print(f"{'':12} {'':12} {_sound(seen.header, seen.size_bytes)}", flush=True)
        case _:
            _note(_told(seen))


def _sound(header: dict[str, Any], size: int) -> str:
    kind = header.get("kind", "?")
    known = header.get("format") in ("pcm16", "g711_ulaw", "g711_alaw")
    offset = header.get("offset_samples")
    if kind == "assistant_audio_delta" and known and isinstance(offset, int):
        at_ms = milliseconds(offset, str(header["format"]))
        return f"~ {header.get('item_id')} from {at_ms} ms, {size} bytes"
    if kind == "flush":
        return f"~ flush {', '.join(map(str, header.get('responses', [])))} ({header.get('why')})"
    return f"~ {kind} {header.get('item_id', '')} {header.get('samples', '')}".rstrip()


def _told(seen: Healed | SessionVanished) -> str:
    if isinstance(seen, Healed):
        first, last = seen.stretch
        return f"events {first} to {last} of {seen.session_id} were lost and have been fetched"
    return seen.why


def _line(raw: bytes) -> None:
    sys.stdout.buffer.write(raw + b"\n")
    sys.stdout.buffer.flush()


def _note(text: str) -> None:
    sys.stderr.write(f"-- {text}\n")
    sys.stderr.flush()
