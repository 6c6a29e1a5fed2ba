"""`voicebus talk`: hold a conversation with text or sound."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from voicebus.bus.endpoints import Endpoints
from voicebus.cli import folders, lines
from voicebus.cli.conversation import Conversation, TimedOut, client_of, settings
from voicebus.cli.options import RunDir
from voicebus.cli.problems import Problem
from voicebus.client import Event
from voicebus.client.errors import BadSound
from voicebus.client.microphone import Microphone
from voicebus.client.wav import Recording, WavWriter, read

MODALITIES = ("text", "audio")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be said, and what is to become of the answer."""

    texts: tuple[str, ...] = ()
    recording: Recording | None = None
    config: dict[str, object] = {}
    timeout_s: float = 60.0


def talk(
    run_dir: RunDir = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Say this; may be repeated: one turn after the other."),
    ] = None,
    wav: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Speak this recording: 24 kHz, mono, 16 bit."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write what was heard, as a WAV, into a folder that is there."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print event headers as JSON lines on standard output, nothing else."
        ),
    ] = False,
    instructions: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the assistant is told to be.")
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(metavar="text|audio", help="How the assistant answers. Default: audio."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long to wait for an answer to be complete."),
    ] = 60.0,
) -> None:
    """Open a session, say something, print each event, wait until the answer is complete.

    A tool's call and the answer that follows it belong to the turn. Exit code 0 when the last turn
    is complete; 1 with one sentence on standard error otherwise.
    """
    if not text and wav is None:
        raise Problem("nothing to say: give --text TEXT or --wav FILE")
    if modality is not None and modality not in MODALITIES:
        raise Problem(f"--modality {modality!r} is neither text nor audio")
    if out is not None and not out.parent.is_dir():
        raise Problem(f"--out {out}: there is no folder {out.parent}; make it, or choose another")
    if not timeout > 0:
        raise Problem(f"--timeout {timeout:g}: give a number of seconds above 0")
    try:
        wish = Wish(
            texts=tuple(text or ()),
            recording=None if wav is None else read(wav),
            config=settings(
                instructions=instructions, modalities=None if modality is None else [modality]
            ),
            timeout_s=timeout,
        )
        with contextlib.ExitStack() as files:
            writer = files.enter_context(WavWriter(out)) if out is not None else None
            endpoints = folders.endpoints(run_dir)
            asyncio.run(hold(endpoints, wish, json_line if as_json else people(), writer))
    except BadSound as error:
        raise Problem(str(error)) from None
    if writer is not None and not writer.seconds:
        sys.stderr.write(f"voicebus talk: no sound was heard, {writer.path} is empty\n")


async def hold(
    endpoints: Endpoints, wish: Wish, show: Callable[[Event], None], writer: WavWriter | None
) -> None:
    """The whole conversation. Raises Problem."""
    async with client_of(endpoints) as client:
        session = await client.connect(wish.config)
        for warning in session.warnings:
            sys.stderr.write(f"voicebus talk: {warning}\n")
        heard = writer.write if writer is not None else _drop
        talking = Conversation(session, show, timeout_s=wish.timeout_s, heard=heard)
        async with talking:
            await talking.opened()
            for text in wish.texts:
                await talking.turn(partial(session.send_text, text))
            if wish.recording is not None:
                # Silence follows the recording, so that the provider hears that it has ended.
                async with Microphone(session) as microphone:
                    try:
                        await talking.turn(partial(microphone.say, wish.recording))
                    except TimedOut as error:
                        if talking.has_spoken:
                            raise
                        raise Problem(f"{error}: the provider heard no voice in it") from None


def json_line(event: Event) -> None:
    """One header as a line of JSON."""
    sys.stdout.buffer.write(event.as_json() + b"\n")
    sys.stdout.buffer.flush()


def people() -> Callable[[Event], None]:
    """A line per event, with the seconds since the first."""
    first: list[int] = []

    def show(event: Event) -> None:
        first.append(event.at_us) if not first else None
        print(lines.line(event, (event.at_us - first[0]) / 1e6), flush=True)

    return show


def _drop(played: object) -> None:
    """Heard by nobody."""
