"""`voicebus top`: what each process does, every second."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import psutil
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.frames import Codec
from voicebus.bus.messages.base import BadMessage
from voicebus.bus.messages.system import ProcessReport, State
from voicebus.bus.sockets import Sockets
from voicebus.cli import folders, stack
from voicebus.cli.options import RunDir
from voicebus.cli.problems import Problem
from voicebus.client import ClientError, RealtimeClient

EVERY_S = 1.0
NEWS = 6
COUNTERS = 3

_states: Codec[State] = Codec(State, what="state")
_reports: Codec[ProcessReport] = Codec(ProcessReport, what="report")


@dataclass
class Seen:
    """What is known of the cell."""

    states: dict[str, State] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)
    looks: dict[int, psutil.Process] = field(default_factory=dict)
    sessions: int | None = None
    silent: int = 0


def top(
    run_dir: RunDir = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", help="Show it so often and end. Default: for ever.")
    ] = None,
) -> None:
    """Show each process with its processor time, memory, lateness and counters, every second, and
    what those who watch processes have to tell. Ends with Ctrl-C."""
    endpoints = folders.endpoints(run_dir)
    status = stack.status(endpoints.run_dir)
    if not status.is_running:
        where = endpoints.run_dir
        raise Problem(
            f"Voicebus does not run in {where}; start it with `voicebus up --run-dir {where}`"
        )
    asyncio.run(_show(endpoints, [one.name for one in status.processes], count))


async def _show(endpoints: Endpoints, names: list[str], count: int | None) -> None:
    seen = Seen()
    console = Console(width=None if sys.stdout.isatty() else 110)

    def heard(frames: list[bytes]) -> None:
        with contextlib.suppress(BadMessage):
            if frames[0].endswith(b"/state"):
                state, _ = _states.decode(frames[1:])
                seen.states[f"{state.role}-{state.instance}"] = state
            elif frames[0].endswith(b"/process"):
                report, _ = _reports.decode(frames[1:])
                at = time.strftime("%H:%M:%S", time.localtime(report.at_us / 1e6))
                seen.news.append(f"{at}  {report.process} {report.what}: {report.why or ''}")
                del seen.news[:-NEWS]

    with Sockets() as sockets:
        addresses = [endpoints.state(*stack.role_of(name)) for name in names]
        sockets.subscriber(addresses, [b"system/"], heard)
        async with RealtimeClient(endpoints, deadline_s=EVERY_S) as client:
            with _own_line(console), Live(console=console, auto_refresh=False) as live:
                shown = 0
                while count is None or shown < count:
                    await asyncio.sleep(EVERY_S)
                    await _ask(client, seen)
                    live.update(_page(endpoints, names, seen), refresh=True)
                    shown += 1


@contextlib.contextmanager
def _own_line(console: Console) -> Iterator[None]:
    """Where Live draws only its last picture it ends in the middle of a line."""
    try:
        yield
    finally:
        if not console.is_terminal:
            console.print()


async def _ask(client: RealtimeClient, seen: Seen) -> None:
    try:
        found = await client.sessions()
    except ClientError:
        seen.sessions = None
        return
    seen.sessions = len(found)
    seen.silent = sum(bool(one.get("silent")) for one in found)


def _page(endpoints: Endpoints, names: list[str], seen: Seen) -> Group:
    table = Table(title=str(endpoints.run_dir), title_justify="left", box=None, pad_edge=False)
    for column in ("name", "state", "pid", "cpu %", "PSS MB", "fds", "late ms", "why, counters"):
        left = column in {"name", "state", "why, counters"}
        table.add_column(column, justify="left" if left else "right")
    for name in names:
        table.add_row(name, *_row(seen.states.get(name), seen))
    talk = "?" if seen.sessions is None else f"{seen.sessions} ({seen.silent} silent)"
    return Group(table, Text(f"conversations: {talk}"), *(Text(one) for one in seen.news))


def _row(state: State | None, seen: Seen) -> tuple[str, ...]:
    if state is None:
        return ("silent", "-", "-", "-", "-", "-", "")
    is_late = time.time() - state.at_us / 1e6 > 3 * EVERY_S
    busy, memory, descriptors = _body(state.pid, seen)
    most = sorted(state.counters.items(), key=lambda one: -one[1])[:COUNTERS]
    told = ", ".join(f"{what} {n}" for what, n in most)
    return (
        "silent" if is_late else state.state,
        str(state.pid),
        busy,
        memory,
        descriptors,
        f"{state.lag_ms:.0f}",
        "; ".join(part for part in (state.why, told) if part),
    )


def _body(pid: int, seen: Seen) -> tuple[str, str, str]:
    """Processor, memory and descriptors, its children included in the memory."""
    with contextlib.suppress(psutil.Error):
        process = seen.looks.setdefault(pid, psutil.Process(pid))
        kb = 0
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                memory = one.memory_full_info()
                kb += int(getattr(memory, "pss", memory.uss)) // 1024
        return f"{process.cpu_percent():.0f}", f"{kb / 1024:.0f}", str(process.num_fds())
    return "-", "-", "-"
