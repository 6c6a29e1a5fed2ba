"""`voicebus status`: name, state and pid of each process."""

import json
import sys

import typer
from rich.console import Console
from rich.table import Table

from voicebus.cli import folders, stack
from voicebus.cli.options import AsJson, RunDir
from voicebus.cli.stack import ProcessStatus, StackStatus

NOT_READY = 1
NOT_RUNNING = 3
COLOURS = {"ready": "green", "starting": "yellow", "draining": "yellow", "restarting": "yellow"}


def status(run_dir: RunDir = None, as_json: AsJson = False) -> None:
    """Show name, state and pid of each process.

    Exit code 0 when all are ready, 1 when one is not, 3 when Voicebus does not run here.
    """
    found = stack.status(folders.choose(run_dir))
    if as_json:
        print(json.dumps([_plain(one) for one in found.processes], indent=2))
    elif not found.is_running:
        where = found.run_dir
        print(f"Voicebus does not run in {where}; start it with `voicebus up --run-dir {where}`")
    elif sys.stdout.isatty():
        Console().print(_table(found))
    else:
        for one in found.processes:
            print(f"{one.name:<14} {one.state:<10} {one.pid or '-':>8}  {one.why or ''}".rstrip())
    if found.is_running and found.note is not None:
        print(found.note, file=sys.stderr)
    if not found.is_running:
        raise typer.Exit(NOT_RUNNING)
    if not found.is_ready:
        raise typer.Exit(NOT_READY)


def _plain(one: ProcessStatus) -> dict[str, object]:
    return {
        "name": one.name,
        "state": one.state,
        "pid": one.pid,
        "why": one.why,
        "running_s": one.running_s,
    }


def _table(found: StackStatus) -> Table:
    table = Table(title=str(found.run_dir), title_justify="left", box=None, pad_edge=False)
    for column in ("name", "state", "pid", "for", "why"):
        table.add_column(column, justify="right" if column in {"pid", "for"} else "left")
    for one in found.processes:
        colour = COLOURS.get(one.state, "red")
        table.add_row(
            one.name,
            f"[{colour}]{one.state}[/{colour}]",
            str(one.pid or "-"),
            f"{one.running_s} s" if one.pid else "-",
            one.why or "",
        )
    return table
