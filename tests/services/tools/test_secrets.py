"""What one tool may know, the others do not find: neither in their environment nor in /proc."""

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.services.tools.conftest import DrivenPool, failure, value
from voicebus.services.tools import process, runner

TOOLS = '''
import os, pathlib, subprocess
from voicebus import ToolContext, tool

def _around() -> str:
    found = [str(dict(os.environ))]
    for entry in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            found.append(entry.read_text(errors="replace"))
        except OSError:
            pass
    return "\\n".join(found)

@tool
def pays(ctx: ToolContext) -> list[str]:
    """May know it."""
    child = subprocess.run(["printenv", "PAY_KEY"], capture_output=True, text=True)
    return [ctx.secret("PAY_KEY"), os.environ["PAY_KEY"], child.stdout.strip(), _around()]

@tool
async def pays_too(ctx: ToolContext) -> str:
    """May know it."""
    return ctx.secret("PAY_KEY")

@tool
def asks(ctx: ToolContext) -> str:
    """May not know it, and asks."""
    return ctx.secret("PAY_KEY")

@tool
def looks_around() -> str:
    """May not know it, and looks everywhere."""
    return _around()
'''
SECRETS = {"pays": {"PAY_KEY": "p-secret"}, "pays_too": {"PAY_KEY": "p-secret"}}


@pytest.fixture
async def driven(tmp_path: Path) -> AsyncIterator[DrivenPool]:
    """One runner, so that all run in the same process."""
    file = tmp_path / "paying.py"
    file.write_text(TOOLS)
    made = DrivenPool(
        runner.Limits(result_bytes=8 * 1024 * 1024), 1, specs=(str(file),), secrets=SECRETS
    )
    await made.pool.start()
    yield made
    made.pool.close()


async def test_a_tool_that_is_named_finds_its_secret(driven: DrivenPool) -> None:
    asked, looked, child, _ = value(await driven.run("pays"))

    assert (asked, looked, child) == ("p-secret",) * 3
    assert value(await driven.run("pays_too")) == "p-secret"


async def test_a_tool_that_is_not_named_is_told_what_to_do(driven: DrivenPool) -> None:
    await driven.run("pays")

    refused = failure(await driven.run("asks"))

    assert re.search(r"'asks' has no secret PAY_KEY; name a file .* tools.toml", refused.message)


async def test_no_other_tool_and_no_process_shows_it(driven: DrivenPool) -> None:
    during = value(await driven.run("pays"))[3].split("\n", 1)[1]
    afterwards = value(await driven.run("looks_around"))

    assert "PATH" in during  # it could read what there is
    assert "p-secret" not in during
    assert "p-secret" not in afterwards
    assert os.environ["PATH"] in afterwards


async def test_a_secret_for_a_tool_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "paying.py"
    file.write_text(TOOLS)
    made = DrivenPool(runner.Limits(), 1, specs=(str(file),), secrets={"pay": {"A": "b"}})

    with pytest.raises(process.CannotLoad, match="not there: pay; the tools are: asks"):
        await made.pool.start()
    made.pool.close()
