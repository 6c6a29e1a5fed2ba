"""The tools of `voicebus chaos`: what they do to the world is a line in `marks.log` beside them.

A copy of this file is served, so that each run has marks of its own.
"""

import os
import time
from pathlib import Path

from voicebus import ToolContext, tool

MARKS = Path(__file__).with_name("marks.log")


@tool(timeout_s=20, effects="once", on_interrupt="finish")
def leave_mark(ctx: ToolContext, seconds: float = 0.1) -> dict[str, str]:
    """Leave one mark in the world, which must never be there twice."""
    with MARKS.open("ab", buffering=0) as file:  # one write: lines of two processes do not mix
        file.write(f"{ctx.call_id} {os.getpid()}\n".encode())
    time.sleep(seconds)
    return {"mark": "left"}


@tool(timeout_s=20, effects="idempotent", on_interrupt="cancel")
def look_around(ctx: ToolContext, seconds: float = 1.0) -> dict[str, str]:
    """Look around for a while; may be done again, and stops when somebody says so."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        ctx.check()
        time.sleep(0.005)
    return {"seen": "nothing"}
