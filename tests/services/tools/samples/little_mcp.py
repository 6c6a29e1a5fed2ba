"""A small MCP server: on standard input and output, or by HTTP: `little_mcp.py PORT`."""

import asyncio
import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

server = MCPServer("little")
_seen: list[str] = []


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return f"{a} and {b} are {a + b}"


@server.tool(name="files.read")
def read_file(path: str) -> str:
    """Have a name that MCP allows and providers refuse."""
    return path


@server.tool()
def table(rows: int) -> dict[str, int]:
    """Something with a structure."""
    return {"rows": rows, "cells": rows * 2}


@server.tool()
async def count(ctx: Context) -> str:
    """Count, tell, and note when it is cancelled."""
    try:
        for number in range(600):
            await ctx.report_progress(number, 600)
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        _seen.append("cancelled")
        raise
    return "done"


@server.tool()
def cancels() -> str:
    """How often `count` was cancelled."""
    return str(len(_seen))


@server.tool()
def fail() -> str:
    """Raise."""
    raise ToolError("no such city")


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


@server.tool()
def much() -> str:
    """Return a long text."""
    return "x" * 1_000_000


@server.tool()
def surroundings() -> str:
    """What it was given."""
    return "\n".join(os.environ)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
