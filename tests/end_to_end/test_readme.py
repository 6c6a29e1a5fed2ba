"""The README's examples do what it says, and the first ones of the protocol's page."""

import ast
import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from voicebus.cli.testing import Stack
from voicebus.client import RealtimeClient

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")


def example(holding: str, page: str = README) -> str:
    """The one Python example that holds these words."""
    [found] = [code for code in re.findall(r"```python\n(.*?)```", page, re.S) if holding in code]
    return str(found)


@pytest.fixture(scope="module")
def cell(start_shared_stack: object, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    tools = tmp_path_factory.mktemp("tools") / "tools.py"
    tools.write_text(example("book_table"))
    stack: Stack = start_shared_stack(tools=[str(tools)])  # type: ignore[operator]
    return stack


async def test_the_tool_is_offered_with_its_description(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        [offered] = await client.catalogue()

    assert offered["name"] == "book_table"
    assert offered["description"] == "Book a table at a restaurant."
    assert offered["parameters"]["required"] == ["restaurant", "people"]


async def test_the_subscriber_prints_what_happens(cell: Stack) -> None:
    code = example("zmq.SUB").replace("ipc://var/run", f"ipc://{cell.run_dir}")
    ast.parse(code)
    subscriber = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", code, stdout=subprocess.PIPE
    )
    try:
        assert subscriber.stdout is not None
        async with asyncio.timeout(30), RealtimeClient(cell.run_dir) as client:
            assert b'"welcome"' in await subscriber.stdout.readline()
            async with client.connect() as session:
                line = await subscriber.stdout.readline()
                while not line.startswith(b"event/" + session.id.encode() + b"/session_opened"):
                    line = await subscriber.stdout.readline()
    finally:
        subscriber.kill()
        await subscriber.wait()


async def test_the_ten_lines_of_the_protocol_follow_what_its_next_ones_open(cell: Stack) -> None:
    follow, ask = (
        example(socket, PROTOCOL).replace("ipc:///path/to/run", f"ipc://{cell.run_dir}")
        for socket in ("zmq.SUB", "zmq.REQ")
    )
    follower = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-P", "-c", follow), stdout=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            await _printed(follower, b"None welcome ")
            asking = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c"),
                f"import zmq; context = zmq.Context()\n{ask}\nprint(opened['session_id'])",
                stdout=subprocess.PIPE,
            )
            opened = (await asking.communicate())[0].strip()
            assert opened
            await _printed(follower, b"1 session_opened ", opened)
    finally:
        follower.kill()
        await follower.wait()
    async with RealtimeClient(cell.run_dir) as client:
        await (await client.attach(opened.decode())).close()


async def _printed(process: asyncio.subprocess.Process, start: bytes, holding: bytes = b"") -> None:
    """Until it has printed such a line."""
    assert process.stdout is not None
    async for line in process.stdout:
        if line.startswith(start) and holding in line:
            return
    raise AssertionError(f"it ended before {start!r}")
