"""`voicebus demo`: all of it without a key, in half a minute."""

import asyncio
import contextlib
import importlib.resources
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from voicebus.bus.endpoints import Endpoints
from voicebus.cli import lines, stack
from voicebus.cli.notebook import Notebook, ToolRun, milliseconds, spoken
from voicebus.cli.options import RunDir
from voicebus.cli.performance import QUESTION, STOP, Performance, Script
from voicebus.cli.plan import Wish
from voicebus.cli.problems import Problem
from voicebus.client import Event
from voicebus.client.errors import BadSound
from voicebus.client.wav import Recording, WavWriter, read

REPLY = Path("var/demo/reply.wav")
LEFT_OUT = ("_delta", "rate_limits")
"""Ends of the kinds that the demo does not print: too many to read."""
COLOURS = {
    "session": "dim",
    "user": "cyan",
    "assistant": "green",
    "tool": "yellow",
    "interrupted": "bold red",
    "error": "bold red",
}
"""By the first word of a kind."""


def demo(
    run_dir: RunDir = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the processes running, to look around.")
    ] = False,
) -> None:
    """Show all of it without a key: start everything, speak a recorded question, run a tool, hear
    the answer, interrupt a long one and its running tool in mid-sentence, sum up, stop everything.
    """
    console = Console(highlight=False, soft_wrap=True)
    screen = Screen(console)
    began = time.monotonic()
    script = Script(*(_recording(name) for name in ("question_weather", "long_story", "stop")))
    with _folder(run_dir, keep) as folder, _running(folder, keep, console):
        try:
            with WavWriter(REPLY) as writer:
                performance = Performance(script, writer, screen.show, screen.tell)
                asyncio.run(performance.run(Endpoints(folder)))
        except BadSound as error:
            raise Problem(str(error)) from None
    _sum_up(performance.notes, writer.seconds, console)
    console.print(f"\n[dim]It took {time.monotonic() - began:.1f} s.[/]")


class Screen:
    """Prints events as they come, with the seconds since the first."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._first_us: int | None = None

    def show(self, event: Event) -> None:
        """An event."""
        if self._first_us is None:
            self._first_us = event.at_us
        if not event.kind.endswith(LEFT_OUT):
            colour = COLOURS.get(event.kind.split("_")[0], "default")
            self._print(event.at_us, f"[{colour}]{escape(lines.labelled(event))}[/]")

    def tell(self, text: str) -> None:
        """What the caller does or hears, now."""
        self._print(time.time_ns() // 1000, f"[bold]~ {escape(text)}[/]")

    def _print(self, at_us: int, text: str) -> None:
        seconds = (at_us - (self._first_us or at_us)) / 1e6
        self._console.print(f"[dim]{seconds:8.3f}[/]  {text}")


@contextlib.contextmanager
def _folder(chosen: Path | None, keep: bool) -> Iterator[Path]:
    """A run folder of the demo's own; removed at the end unless something went wrong."""
    if chosen is not None:
        yield chosen
        return
    folder = Path(tempfile.mkdtemp(prefix="voicebus-demo-", dir="/tmp"))  # short: sockets go there
    failed = False
    try:
        yield folder
    except Problem as error:
        failed = True
        raise Problem(f"{error}\n  logs: {folder}/*.log", exit_code=error.exit_code) from None
    finally:
        if not keep and not failed:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(folder: Path, keep: bool, console: Console) -> Iterator[None]:
    """The stack, with its own journal, the example tools, and a simulator that can hear."""
    wish = Wish(
        run_dir=folder,
        simulator=True,
        tools=(str(_packaged("example_tools/demo.py")),),
        settings={
            "VOICEBUS_DATA": str(folder.absolute() / "data"),
            "VOICEBUS_SIMULATOR_SPEECH": "on",
        },
    )
    began = time.monotonic()
    console.print("[dim]starting simulator, transport, session, dispatcher and tool host …[/]")
    started = stack.start(wish, lambda text: console.print(f"[dim]  {escape(text)}[/]"))
    console.print(
        f"[dim]{len(started.processes)} processes are ready "
        f"after {time.monotonic() - began:.1f} s in {started.run_dir}[/]\n"
    )
    try:
        yield
    except BaseException:
        stack.stop(started.run_dir)
        raise
    if keep:
        console.print(f"[dim]still running; end it with: voicebus down --run-dir {folder}[/]")
    else:
        stack.stop(started.run_dir)


def _recording(name: str) -> Recording:
    try:
        return read(_packaged(f"speech/{name}.wav"))
    except BadSound as error:
        raise Problem(f"{error}; install Voicebus again") from None


def _packaged(name: str) -> Path:
    return Path(str(importlib.resources.files("voicebus.cli"))) / name


# --- the summary ------------------------------------------------------------------------------


def _sum_up(notes: Notebook, reply_s: float, console: Console) -> None:
    console.print("\n[bold]What was said[/]")
    for line in notes.transcript.values():
        heard, unheard = spoken(line)
        if not (heard or unheard):
            continue
        console.print(f"  {line.who:<10} {escape(heard)}")
        if unheard:
            console.print(
                f"             [dim]… cut short after {line.heard_ms} of {line.sound_ms:.0f} ms of "
                f"sound; generated, but not heard (divided by time):[/]"
            )
            console.print(f"             [dim strike]{escape(lines.shortened(unheard))}[/]")
    console.print("\n[bold]Tools[/]")
    for run in notes.tools.values():
        console.print(f"  {_tool(run)}")
    from_voice, from_report = notes.silence_ms(STOP)
    rows = [
        ("end of speech to first sound", notes.to_first_sound_ms(QUESTION)),
        ("interrupting voice to silence", from_voice),
        silence(from_report),
        ("interrupt to tool saw it", notes.tool_saw_ms()),
        ("interrupt to tool stopped", notes.tool_stopped_ms()),
    ]
    console.print("\n[bold]Times[/]")
    for name, value in rows:
        console.print(f"  {name:<40} {milliseconds(value):>12}")
    console.print(f"\n[bold]Reply[/]\n  {REPLY}, {reply_s:.1f} s as the caller heard it")


def silence(from_report_ms: float | None) -> tuple[str, float | None]:
    """The transport flushes on its own; the event that tells of speech often comes after it."""
    if from_report_ms is not None and from_report_ms < 0:
        return "silence ahead of the report of speech", -from_report_ms
    return "report of speech to silence", from_report_ms


def _tool(run: ToolRun) -> str:
    args = ", ".join(f"{name}={lines.shown(value)}" for name, value in run.args.items())
    return (
        f"{escape(f'{run.name}({args})')}  {milliseconds(run.duration_ms)}  {escape(run.outcome)}"
    )
