"""Connections come and go under a conversation: scenarios 60 to 68, at a provider of our own."""

import asyncio
import base64
import json
import struct
from typing import Any

import pytest
from msgspec.structs import replace

from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, scene
from tests.end_to_end.support_provider import Call, Provider, calls_tool, stream
from tests.ports import free_port
from voicebus.bus.messages.commands import ReportPlayback
from voicebus.cli.testing import Stack

PORT = free_port()
TONE = struct.pack("<480h", *range(480))
WORDS = "one two three four five six seven eight nine ten"
APPEND, COMMIT = "input_audio_buffer.append", "input_audio_buffer.commit"
TOOL = {
    "type": "function",
    "name": "ask_the_caller",
    "description": "Answered by the program that opened the session.",
    "parameters": {"type": "object", "properties": {}},
}


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(provider_url=f"ws://127.0.0.1:{PORT}")


async def _asked(caller: Caller, call: Call, text: str = "Hello?") -> None:
    """The provider is asked for an answer, and knows the question."""
    await caller.session.send_text(text)
    await call.expect("response.create")
    item = call.of("conversation.item.create")[-1]["item"]
    await call.send(type="conversation.item.added", item={**item, "status": "completed"})


async def _answer(call: Call, response: str, *, words: str = "Good day.") -> None:
    item = f"item_{response}"
    await call.send(type="response.created", response={"id": response})
    for _ in range(50):  # a second
        await call.say(response, item, TONE)
    await call.send(
        type="response.output_audio_transcript.done",
        response_id=response,
        item_id=item,
        content_index=0,
        transcript=words,
    )
    await call.send(type="response.done", response={"id": response, "status": "completed"})


async def _answered(caller: Caller, call: Call, response: str) -> None:
    await _answer(call, response)
    await caller.event("assistant_turn_completed", turn_id=response, status="completed")


def _told(call: Call) -> list[dict[str, Any]]:
    """The items that the connection was told."""
    return [one["item"] for one in call.of("conversation.item.create")]


def _words(item: dict[str, Any]) -> str:
    return str(item["content"][0]["text"])


async def _say(caller: Caller, first: int, end: int) -> None:
    """Frames of sound that tell their numbers."""
    for n in range(first, end):
        await caller.session.send_audio(struct.pack("<h", n) * 480)


def _turn(call: Call) -> list[int]:
    """The numbers of the frames before the commit."""
    types = [one["type"] for one in call.received]
    turn = call.received[: types.index(COMMIT)]
    said = [base64.b64decode(one["audio"]) for one in turn if one["type"] == APPEND]
    return [struct.unpack_from("<h", one)[0] for one in said]


async def test_a_connection_that_ends_soon_is_changed_after_the_sound_and_under_a_tool(
    cell: Stack,
) -> None:
    """60"""
    async with Provider(PORT, expires_in_s=10) as provider, scene(cell) as on:
        caller = await on.caller(plays=True, tools=[TOOL])
        call = await provider.call()
        await _asked(caller, call)
        called = await calls_tool(call, "ask_the_caller", "{}")
        await caller.event("tool_call_dispatched", call_id=called, by="client")
        await call.send(type="response.created", response={"id": "resp_1"})
        await stream(call, "resp_1", "item_1", 11.0)  # beyond the end that it told
        await call.send(type="response.done", response={"id": "resp_1", "status": "completed"})
        lost = await caller.event("session_reconnecting")
        again = await provider.call()
        resumed = await caller.event("session_resumed")
        await caller.session.submit_tool_output(called, {"said": "blue"})
        await again.expect("response.create")
        await _answered(caller, again, "resp_2")

        expiring = caller.found("session_expiring")[0]
        done = caller.found("assistant_turn_completed", turn_id="resp_1")[0]
        assert expiring.seq < done.seq < lost.seq < resumed.seq
        assert done.data.status == "completed"
        assert lost.data.reason == "rotation"
        assert sum(piece.count for _, piece in caller.pieces("resp_1")) == 11 * 24_000
        assert [one.data.call_id for one in caller.found("tool_call_completed")] == [called]
        assert _words(_told(again)[0]) == "Hello?"
        assert "blue" in _words(_told(again)[-1])
        assert len(again.of("response.create")) == 1


async def test_what_was_asked_of_a_lost_connection_is_not_asked_of_the_next(cell: Stack) -> None:
    """63, 64: a truncation without an answer; ids and content of what is told again."""
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)
        turn, item = "resp_" + "x" * 60, "item_" + "y" * 60
        await call.send(type="response.created", response={"id": turn})
        for _ in range(500):  # ten seconds, of which three are heard
            await call.say(turn, item, TONE)
        await call.send(
            type="response.output_audio_transcript.done",
            response_id=turn,
            item_id=item,
            content_index=0,
            transcript=WORDS,
        )
        await call.send(type="response.done", response={"id": turn, "status": "completed"})
        await caller.event("assistant_turn_completed", turn_id=turn)
        playing = ReportPlayback(item_id=item, content_index=0, played_ms=3000, state="playing")
        await caller.session.report_playback(playing)
        await caller.session.interrupt()
        await caller.flushed(turn)
        await caller.session.report_playback(replace(playing, state="stopped"))
        await call.expect("conversation.item.truncate")
        heard = (await caller.event("assistant_heard", turn_id=turn)).data
        call.cut()
        again = await provider.call()
        await caller.event("session_resumed")
        await _asked(caller, again, "Go on.")
        await _answered(caller, again, "resp_2")

        question, answer, _ = _told(again)
        assert _words(question) == "Hello?"
        assert answer["role"] == "assistant"
        assert answer["content"][0]["type"] == "output_text"
        assert not heard.complete
        assert 3000 <= heard.heard_ms < 10_000
        assert _words(answer) == heard.text
        assert WORDS.startswith(f"one two three{heard.text.removeprefix('one two three')} ")
        assert all(len(one.get("id", "")) <= 32 for one in _told(again))
        assert not again.of("conversation.item.truncate")
        assert len(again.of("response.create")) == 1


async def test_a_caller_may_hang_up_while_speaking_and_does_so_once(cell: Stack) -> None:
    """66"""
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller(turn_detection="none")
        call = await provider.call()

        async def speak() -> None:
            while True:
                await caller.session.send_audio(TONE)
                await asyncio.sleep(0.02)

        speaking = asyncio.create_task(speak())
        await call.expect("input_audio_buffer.append")
        closings = [on.line.command("close", session_id=caller.id) for _ in range(2)]
        replies = [await on.line.reply(id) for id in closings]
        await call.gone()
        await caller.event("session_closed", reason="client")
        speaking.cancel()
        late = await on.line.refused("close", session_id=caller.id)

        assert replies[0]["ok"]
        assert replies[1]["ok"] or replies[1]["error"]["code"] == "gone"
        assert late[0] == "gone"
        assert len(caller.found("session_closed")) == 1


async def test_a_caller_may_hang_up_before_the_provider_has_answered(cell: Stack) -> None:
    """66"""
    async with Provider(PORT, confirms=False) as provider, scene(cell) as on:
        caller = Caller(await on.client.connect())
        call = await provider.call()
        await call.expect("session.update")
        await caller.close()
        await call.gone()

        assert [one.kind for one in caller.events] == ["session_closed"]


@pytest.mark.parametrize("expires_in_s", [-3600.0, 0.0])
async def test_an_end_in_the_past_is_a_wrong_clock_and_changes_nothing(
    cell: Stack, expires_in_s: float
) -> None:
    """67; what says nothing of its end is each other provider here."""
    async with Provider(PORT, expires_in_s=expires_in_s) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        for n in range(3):
            await _asked(caller, call)
            await _answered(caller, call, f"resp_{n}")

        assert len(provider.calls) == 1
        assert not caller.found("session_expiring")


async def test_push_to_talk_under_way_is_not_lost_by_a_rotation(cell: Stack) -> None:
    """60"""
    async with Provider(PORT, expires_in_s=10) as provider, scene(cell) as on:
        caller = await on.caller(turn_detection="none")
        call = await provider.call()
        await _say(caller, 0, 10)
        await call.until(lambda: len(call.of(APPEND)) == 10, "ten frames")
        await caller.event("session_reconnecting", reason="rotation")
        await _say(caller, 10, 25)
        again = await provider.call()
        await caller.session.commit_audio(respond=False)
        await again.expect(COMMIT)

        assert _turn(again) == list(range(25))
        assert not call.of(COMMIT)
        assert not caller.found("audio_dropped")


async def test_push_to_talk_goes_on_where_the_connection_broke_and_a_turn_is_said_once(
    cell: Stack,
) -> None:
    """63"""
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller(turn_detection="none")
        first = await provider.call()
        await _say(caller, 0, 10)
        await first.until(lambda: len(first.of(APPEND)) == 10, "ten frames")
        first.cut()
        second = await provider.call()
        await _say(caller, 10, 25)
        await caller.session.commit_audio(respond=False)
        await second.expect(COMMIT)
        second.cut()  # before it has confirmed the turn
        third = await provider.call()
        await third.expect(COMMIT)
        await third.send(type="input_audio_buffer.committed", item_id="item_u")
        await third.close(1001, "after it has")
        fourth = await provider.call()
        await caller.event("session_resumed", nth=3)
        await _asked(caller, fourth)
        await _answered(caller, fourth, "resp_1")

        assert _turn(second) == _turn(third) == list(range(25))
        assert not fourth.of(APPEND)
        assert not fourth.of(COMMIT)
        assert not caller.found("error")


async def test_a_session_that_only_writes_down_asks_for_no_answer_and_keeps_the_order(
    cell: Stack,
) -> None:
    """68"""
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller(session_type="transcription")
        call = await provider.call()
        await caller.session.send_audio(TONE)
        await call.expect("input_audio_buffer.append")
        for item, before in (("item_a", None), ("item_b", "item_a"), ("item_c", "item_b")):
            await call.send(
                type="input_audio_buffer.committed", item_id=item, previous_item_id=before
            )
        for item in ("item_b", "item_c", "item_a"):
            await call.send(
                type="conversation.item.input_audio_transcription.completed",
                item_id=item,
                content_index=0,
                transcript=f"words of {item}",
            )
        await caller.event("user_transcript", nth=3)
        state = await caller.session.snapshot()
        code, _ = await on.line.refused("create_response", {"overrides": {}}, session_id=caller.id)
        changes = {"config": {"tools": [], "instructions": "Be brief.", "lease_s": 50}}
        why_not = await on.line.refused("update", changes, session_id=caller.id)

        assert "intent=transcription" in call.path
        assert "model=" not in call.path
        update = call.of("session.update")[0]["session"]
        assert update["type"] == "transcription"
        items = [one for one in state["items"] if "words of" in json.dumps(one)]
        assert [one["item_id"] for one in items] == ["item_a", "item_b", "item_c"]
        assert code in ("unsupported", "not_allowed")
        assert why_not[0] == "unsupported"
        assert why_not[1].startswith("instructions, tools: a transcription session has no answers")
        assert state["tools"] == []
        assert not call.of("response.create")
