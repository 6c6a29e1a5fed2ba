"""What is not kept any more is `gone`, and whoever asks for it is told so."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartStack
from voicebus.cli.testing import Stack
from voicebus.client import CommandRefused, RealtimeClient
from voicebus.client.watch import Watch

FOLLOW = Path(__file__).parents[2] / "examples" / "python" / "follow.py"
IN_MEMORY = 20
FLOOD = 10_000
"""Events: more than a publisher (5000) and a subscriber (1000) keep for each other."""
SCENARIO = f"""
about = "More events than are kept for a follower that is frozen."

[[answer]]
when = {{ text = "flood" }}
say = "{" ".join(f"w{n}" for n in range(FLOOD))}"
"""


@pytest.fixture
def cell(start_stack: StartStack, tmp_path: Path) -> Stack:
    scenario = tmp_path / "flood.toml"
    scenario.write_text(SCENARIO)
    settings = {
        "VOICEBUS_SESSION_RING_EVENTS": str(IN_MEMORY),
        "VOICEBUS_SESSION_RETENTION_DAYS": "0",
    }
    return start_stack(scenario=scenario, settings=settings)


async def _first(client: RealtimeClient, session_id: str) -> str:
    """What `replay` of the first event is answered with."""
    try:
        await client.commander.ask(0, "replay", {"from": 1, "limit": 1}, session_id=session_id)
    except CommandRefused as error:
        return error.code
    return "ok"


async def _pruned(client: RealtimeClient, session_id: str) -> None:
    """The journal is looked through every ten seconds, and tells nobody."""
    async with asyncio.timeout(30):
        while await _first(client, session_id) == "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_expired_events_are_gone_and_a_follower_that_lacks_them_is_told(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        session = await client.connect(modalities=["text"])
        command = [sys.executable, "-P", str(FOLLOW), str(cell.run_dir), session.id]
        follower = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert follower.stdout is not None
            assert (await follower.stdout.readline()).startswith(b"following")
            follower.send_signal(signal.SIGSTOP)
            events = session.events()
            await session.send_text("flood")
            async for event in events:
                if event.kind == "assistant_turn_completed":
                    break
            while_open = await _first(client, session.id)
            await session.close()
            await _pruned(client, session.id)
            follower.send_signal(signal.SIGCONT)
            _, told = await asyncio.wait_for(follower.communicate(), 20)
        finally:
            if follower.returncode is None:
                follower.kill()
                await follower.wait()
        assert while_open == "ok"  # from the journal: memory holds the last twenty
        assert follower.returncode == 1
        assert b"the session says: the events from" in told
        assert b"are not kept any more" in told

        with pytest.raises(CommandRefused, match="the events from 1 on are not kept") as gone:
            await session.replay()
        assert gone.value.code == "gone"
        assert not gone.value.retry
        head = [event.seq or 0 async for event in events][-1]
        tail = await session.replay(head - IN_MEMORY + 1)
        assert [event.seq for event in tail] == list(range(head - IN_MEMORY + 1, head + 1))
        assert tail[-1].kind == "session_closed"
        watch = Watch(client, session.id)
        with pytest.raises(CommandRefused, match="not kept any more"):
            await watch.joined()
        watch.close()

        async with asyncio.timeout(60):
            while not any("journal.rewritten" in line for line in cell.log("session-0")):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        data = cell.run_dir / "data"
        on_disk = b"".join(one.read_bytes() for one in data.iterdir() if one.is_file())
        assert session.id.encode() not in on_disk
        assert b"w77 " not in on_disk
