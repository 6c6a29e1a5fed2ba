"""The provider's key, given to `voicebus up` in its environment, is in no process's afterwards."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.end_to_end.support import Caller, voicebus
from tests.ports import free_port
from voicebus.bus import testing
from voicebus.client import RealtimeClient
from voicebus.services.supervisor import Supervisor

KEY = f"sk-{random.randrange(10**30):030d}"
TOOL = '''
"""Looks everywhere that a tool can read about processes."""

import os
import pathlib

def look_around(wanted: str) -> dict:
    """Look for a word, and say where it is, and in which processes one could look."""
    word = wanted[::-1].encode()
    found, read, canaries = [], [], []
    if word in str(dict(os.environ)).encode():
        found.append("os.environ")
    for what in ("environ", "cmdline"):
        for file in pathlib.Path("/proc").glob(f"[0-9]*/{what}"):
            try:
                text = file.read_bytes()
            except OSError:
                continue
            read.append(int(file.parent.name))
            if b"CANARY=sings" in text:
                canaries.append(int(file.parent.name))
            if word in text:
                found.append(str(file) + text.decode(errors="replace")[:100])
    return {"found": found, "read": sorted(set(read)), "canaries": canaries}
'''


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux only")
async def test_a_tool_that_looks_at_every_process_finds_no_key() -> None:
    port = free_port()
    with testing.run_folder() as folder:
        module, scenario = folder / "looking.py", folder / "look.toml"
        module.write_text(TOOL)
        # Backwards, so that what is looked for is not itself in a scenario's or an event's text.
        scenario.write_text(
            f'[[answer]]\nwhen = {{ text = "look" }}\n'
            f'call = {{ name = "look_around", arguments = {{ wanted = "{KEY[::-1]}" }} }}\n'
        )
        run_dir = folder / "run"
        try:
            code, _, said = await voicebus(
                *("up", "--run-dir", str(run_dir), "--simulator", "--tools", str(module)),
                *("--provider-url", f"ws://127.0.0.1:{port}/v1/realtime"),
                OPENAI_API_KEY=KEY,
                CANARY="sings",
                VOICEBUS_SIMULATOR_PORT=str(port),
                VOICEBUS_SIMULATOR_SPEECH="off",
                VOICEBUS_SIMULATOR_SCENARIO=str(scenario),
            )
            assert code == 0, said
            assert (run_dir / "provider.key").read_text().strip() == KEY
            async with RealtimeClient(run_dir) as client:
                caller = Caller(await client.connect({"tools": ["look_around"]}))
                await caller.opened()
                await caller.turn("look")
                (done,) = caller.found("tool_call_completed")
                await caller.close()
            result = done.data.result
            programs = await asyncio.to_thread(lambda: Supervisor(run_dir).programs().values())
            pids = {one.pid for one in programs if one.pid}
        finally:
            await voicebus("down", "--run-dir", str(run_dir))

    assert result["found"] == []
    assert len(pids) >= 5
    assert pids <= set(result["read"]), "it could not look at the processes that matter"
    assert pids <= set(result["canaries"]), "it would not have found the key"
