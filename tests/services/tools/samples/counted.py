"""Tools that write down each time they begin, for tests that count."""

import os
import time

from voicebus import ToolContext, tool


def _note(ctx: ToolContext) -> None:
    file = os.open(os.environ["BEGUN_FILE"], os.O_APPEND | os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(file, f"{ctx.call_id}\n".encode())
    os.close(file)


@tool(effects="none")
def read(ctx: ToolContext, ms: int) -> int:
    """Look something up."""
    _note(ctx)
    time.sleep(ms / 1000)
    return ms


@tool(effects="idempotent")
def store(ctx: ToolContext, ms: int) -> int:
    """Put something where it may be already."""
    _note(ctx)
    time.sleep(ms / 1000)
    return ms


@tool(effects="once")
def pay(ctx: ToolContext, ms: int) -> int:
    """Pay for something."""
    _note(ctx)
    time.sleep(ms / 1000)
    return ms
