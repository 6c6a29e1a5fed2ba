"""Tools at a front desk: one asks first, one tells how far it is, two go on after interrupts."""

import time

from voicebus import ToolContext, tool


@tool(approval=True, effects="once")
def refund(euros: int) -> dict[str, int]:
    """Pay money back; a person has to agree."""
    return {"refunded": euros}


@tool(effects="none")
def search(ctx: ToolContext) -> dict[str, int]:
    """Look through three drawers."""
    for drawer in range(1, 4):
        ctx.progress(f"drawer {drawer}")
        ctx.sleep(0.1)
    return {"drawers": 3}


@tool(on_interrupt="detach", effects="once", timeout_s=30)
def order(ctx: ToolContext) -> dict[str, str]:
    """Order a taxi, which takes a moment and goes on whatever the caller says."""
    ctx.progress("calling the taxi")
    time.sleep(1.5)
    return {"taxi": "in ten minutes"}


@tool(on_interrupt="finish", effects="once", timeout_s=30)
def book(ctx: ToolContext) -> dict[str, str]:
    """Book a table; it is booked even when the caller interrupts."""
    ctx.progress("calling the restaurant")
    time.sleep(1.5)
    return {"table": "at eight"}
