"""`voicebus down`: stop all processes in order and leave nothing behind."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Sockets
from voicebus.cli import calm, folders, stack
from voicebus.cli.options import RunDir

WAIT_S = 30.0


def down(
    run_dir: RunDir = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Take no new calls and wait so long for those that are there; 0: cut them.",
        ),
    ] = WAIT_S,
) -> None:
    """Stop all processes in order, after the last call; leave no process, socket or lock. Also
    after a crash."""
    folder = folders.choose(run_dir)
    with stack.going_down(folder):
        _wait(folder, wait)
        ended = stack.stop(folder, _tell)
    if ended.processes:
        for straggler in ended.stragglers:
            print(f"ended by force: process {straggler}", file=sys.stderr)
        print(f"Voicebus has stopped in {folder}")
    else:
        print(f"nothing was running in {folder}")


def _wait(folder: Path, within_s: float) -> None:
    """For the last conversation to end, and say how many did not."""
    shards = stack.shards(folder)
    if not shards:
        return
    try:
        left = asyncio.run(_last(Endpoints(folder), shards, within_s))
    except KeyboardInterrupt:
        _tell(
            "nothing was stopped, but new calls are refused; to take them again: "
            "voicebus restart session; to go on: voicebus down"
        )
        raise
    if left:
        verb = "is" if len(left) == 1 else "are"
        _tell(f"{_conversations(len(left))} {verb} cut: still open after {within_s:g} s")


async def _last(endpoints: Endpoints, shards: list[int], within_s: float) -> calm.Sessions:
    with Sockets() as sockets:
        calm.take_no_more(sockets, endpoints, shards)
        return await calm.until(
            endpoints,
            lambda found: not found,
            within_s,
            lambda found: _tell(
                f"waiting up to {within_s:g} s for {_conversations(len(found))} to end "
                "(`voicebus down --wait 0` cuts at once)"
            ),
        )


def _conversations(count: int) -> str:
    return "1 conversation" if count == 1 else f"{count} conversations"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
