"""`voicebus down`: stop all processes in order and leave nothing behind."""

import sys

from voicebus.cli import folders, stack
from voicebus.cli.options import RunDir


def down(run_dir: RunDir = None) -> None:
    """Stop all processes in order; leave no process, socket or lock. Also after a crash."""
    folder = folders.choose(run_dir)
    ended = stack.stop(folder, lambda text: print(text, file=sys.stderr, flush=True))
    if ended.processes:
        for straggler in ended.stragglers:
            print(f"ended by force: process {straggler}", file=sys.stderr)
        print(f"Voicebus has stopped in {folder}")
    else:
        print(f"nothing was running in {folder}")
