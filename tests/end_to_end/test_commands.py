"""A command is done once, in order, and told when it must wait: whoever restarts meanwhile."""

import asyncio
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from voicebus.bus import ids
from voicebus.bus.messages.base import encode
from voicebus.bus.messages.commands import Command
from voicebus.bus.schemas import FOLDER
from voicebus.bus.sockets import Frames, Sockets
from voicebus.cli.testing import Stack
from voicebus.client import CommandRefused, Event, Lagged, RealtimeClient
from voicebus.client.ring import Reader

SCENARIO = """
about = "Long answers in words."

[[answer]]
when = { text = "much" }
say = "{words}"

[[answer]]
when = { text = "little" }
say = "Done."
"""
WORDS = 12_000


@pytest.fixture(scope="module")
def cell(start_shared_stack: Callable[..., Stack], tmp_path_factory: Any) -> Stack:
    scenario: Path = tmp_path_factory.mktemp("commands") / "much.toml"
    scenario.write_text(SCENARIO.replace("{words}", " ".join(f"w{n}" for n in range(WORDS))))
    return start_shared_stack(scenario=scenario, settings={"VOICEBUS_SESSION_MAX_SESSIONS": "3"})


@pytest.fixture(autouse=True)
async def _hung_up(cell: Stack) -> AsyncIterator[None]:
    """What a test that failed has left open would be too much for the next."""
    yield
    async with RealtimeClient(cell.run_dir) as client:
        for one in await client.sessions():
            await client.commander.ask(0, "close", session_id=one["session_id"])


def _item(text: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"item": {"type": "message", "role": "user", "content": content}}


async def _texts(client: RealtimeClient, session_id: str) -> list[str]:
    """The texts of the conversation's items, in order."""
    snapshot = (await client.commander.ask(0, "snapshot", session_id=session_id)).data
    return [str(item["text"]) for item in snapshot["items"]]


async def test_the_same_id_again_is_the_same_reply_and_one_deed(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client, RealtimeClient(cell.run_dir) as other:
        session = await client.connect(modalities=["text"])
        id = ids.ulid()
        told = [
            await asked.commander.ask(0, "add_item", _item("once"), session_id=session.id, id=id)
            for asked in (client, client, other)  # also from another connection
        ]

        assert told[0] == told[1] == told[2]
        assert (await _texts(client, session.id)).count("once") == 1
        await session.close()


async def test_another_body_under_the_same_id_is_a_conflict(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        session = await client.connect(modalities=["text"])
        id = ids.ulid()
        await client.commander.ask(0, "add_item", _item("one"), session_id=session.id, id=id)

        with pytest.raises(CommandRefused) as refused:
            await client.commander.ask(0, "add_item", _item("two"), session_id=session.id, id=id)

        assert (refused.value.code, refused.value.retry) == ("conflict", False)
        assert "two" not in await _texts(client, session.id)
        await session.close()


async def test_a_reply_is_remembered_through_a_restart_of_the_session_process(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        opening, adding = ids.ulid(), ids.ulid()
        config = {"config": {"modalities": ["text"]}}
        opened = await client.commander.ask(0, "open", config, id=opening)
        session_id = opened.data["session_id"]
        added = await client.commander.ask(
            0, "add_item", _item("kept"), session_id=session_id, id=adding
        )

        cell.kill("session-0")  # nobody waits: the commands do

        assert await client.commander.ask(0, "open", config, id=opening) == opened
        again = await client.commander.ask(
            0, "add_item", _item("kept"), session_id=session_id, id=adding
        )
        assert again == added
        assert (await _texts(client, session_id)).count("kept") == 1
        live = (await client.commander.ask(0, "list")).data["sessions"]
        assert [one["session_id"] for one in live] == [session_id]
        await client.commander.ask(0, "close", session_id=session_id)


async def test_commands_of_one_client_are_done_in_the_order_they_came(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        session = await client.connect(modalities=["text"])
        # Before the provider has confirmed, only 32 are kept: one that is told to wait and tried
        # again would be overtaken.
        async for event in session.events():
            if event.kind == "session_opened":
                break
        wanted = [f"item {number}" for number in range(60)]

        await asyncio.gather(
            *(
                client.commander.ask(0, "add_item", _item(text), session_id=session.id)
                for text in wanted
            )
        )

        assert await _texts(client, session.id) == wanted
        await session.close()


async def test_a_client_with_too_many_unanswered_commands_is_told_to_wait(cell: Stack) -> None:
    replies: asyncio.Queue[Any] = asyncio.Queue()

    def received(frames: Frames) -> None:
        replies.put_nowait(json.loads(frames[-1]))

    with Sockets() as sockets:
        dealer = sockets.dealer(cell.endpoints.commands(0), received, name="hasty")
        waiting = {"config": {"tools": ["no_such_tool"]}}  # `open` waits 3 s for its tools
        for _ in range(70):
            dealer.send([encode(Command(id=ids.ulid(), command="open", data=waiting))])
        async with asyncio.timeout(20):
            told = [await replies.get() for _ in range(70)]

    codes = [one["error"]["code"] for one in told]
    assert codes[:6] == ["busy"] * 6  # at once
    assert set(codes[6:]) == {"tool_unavailable"}
    assert all(one["error"]["retry"] for one in told)
    assert told[0]["error"]["after_ms"] > 0
    assert "64 commands of this client" in told[0]["error"]["message"]


async def test_the_sdk_waits_and_tries_again_when_told_to(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        full = [await client.connect(modalities=["text"]) for _ in range(3)]
        fourth = asyncio.ensure_future(client.connect(modalities=["text"]))
        with pytest.raises(CommandRefused, match="its limit \\(max_sessions\\) is 3"):
            await client.commander.ask(0, "open", {"config": {}}, deadline_s=0.5)
        assert not fourth.done()

        await full[0].close()

        session = await fourth
        for one in (session, *full[1:]):
            await one.close()


async def test_the_protocol_s_schemas_are_served(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        names = (await client.schema())["names"]
        served = {name: (await client.schema(name))["schema"] for name in names}
        with pytest.raises(CommandRefused, match="did you mean events"):
            await client.schema("event.json")

    committed = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert served == committed


def test_a_plain_req_client_works(cell: Stack) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as req:
        req.setsockopt(zmq.LINGER, 0)
        req.setsockopt(zmq.RCVTIMEO, 10_000)
        req.connect(cell.endpoints.commands(0))

        def ask(command: str, session_id: str | None = None, **data: Any) -> Any:
            header = {"v": 1, "id": str(uuid.uuid4()), "command": command}
            req.send_json({**header, "session_id": session_id, "data": data})
            return req.recv_json()

        opened = ask("open", config={"modalities": ["text"]})["data"]
        sent = ask("send_text", opened["session_id"], text="hello")
        replayed = ask("replay", opened["session_id"], **{"from": 1})["data"]["events"]
        nonsense = ask("sing", opened["session_id"])

        assert sent["ok"]
        assert replayed[0]["kind"] == "session_opened"
        assert (nonsense["ok"], nonsense["error"]["code"]) == (False, "bad_request")
        assert ask("close", opened["session_id"])["ok"]


async def test_every_consumer_sees_each_event_once_through_a_restart(cell: Stack) -> None:
    async with RealtimeClient(cell.run_dir) as client:
        session = await client.connect(modalities=["text"])
        readers = [session.events() for _ in range(3)]
        idle = session.events()
        # Known beforehand, and killed at the first word: the whole answer takes it a second. Where
        # that word reaches us later, the restart falls between this answer and the next.
        pid = cell.pids()["session-0"]
        first_answer = asyncio.Event()
        killed: list[int] = []

        async def read(reader: Reader[Event]) -> list[Event]:
            seen = []
            answers = 0
            async for event in reader:
                seen.append(event)
                if event.kind == "assistant_text_delta" and not killed:
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)
                if event.kind == "assistant_turn_completed":
                    first_answer.set()
                    answers += 1
                    if answers == 2:
                        break
            return seen

        reading = asyncio.gather(*map(read, readers))
        await session.send_text("much")
        await first_answer.wait()
        await cell.ready("session-0", after=pid)
        await session.send_text("little")
        seen = await reading

        for one in seen:
            assert [event.seq for event in one] == list(range(1, len(one) + 1))
        assert len({event.header.inc for event in seen[0]}) == 2, "it was not restarted in between"
        assert sum(event.kind == "assistant_text_delta" for event in seen[0]) == WORDS + 1
        with pytest.raises(Lagged, match="was too slow and missed"):  # bounded, and told
            await anext(idle)
        await session.close()
