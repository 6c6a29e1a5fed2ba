"""Other software that speaks the dialect: other orders, fewer fields, surprises, sudden ends."""

import asyncio
import base64
import contextlib
import json
import signal
import struct
import sys
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from tests.end_to_end.cells import DEMO_TOOLS
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import Caller, Line, measured, scene
from tests.end_to_end.support_provider import Call, Provider, calls_tool
from tests.ports import free_port
from voicebus.bus import ids
from voicebus.cli.testing import Stack

PORT = free_port()
MAX_SESSIONS = 3
TONE = struct.pack("<480h", *range(480))
WEATHER = '{"city": "Berlin"}'


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(
        provider_url=f"ws://127.0.0.1:{PORT}",
        tools=[str(DEMO_TOOLS)],
        settings={"VOICEBUS_SESSION_MAX_SESSIONS": str(MAX_SESSIONS)},
    )


async def _asked(caller: Caller, call: Call) -> None:
    """The provider is asked for an answer."""
    await caller.session.send_text("Hello?")
    await call.expect("response.create")


async def _answer(call: Call, response: str) -> None:
    """A whole answer: two pieces of sound and what was said."""
    await call.send(type="response.created", response={"id": response})
    await call.say(response, f"item_{response}", TONE)
    await call.say(response, f"item_{response}", TONE)
    await call.send(
        type="response.output_audio_transcript.done",
        response_id=response,
        item_id=f"item_{response}",
        content_index=0,
        transcript="Good day.",
    )
    await call.send(type="response.done", response={"id": response, "status": "completed"})


async def _heard(caller: Caller, response: str) -> None:
    """All of that answer has come."""
    await caller.event("assistant_turn_completed", turn_id=response, status="completed")
    await caller.until(lambda: len(caller.pieces(response)) == 2, "both pieces of sound")
    assert b"".join(piece.samples for _, piece in caller.pieces(response)) == TONE * 2


async def test_an_answer_in_another_order_with_the_fewest_fields_is_heard_whole(
    cell: Stack,
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)

        await call.send(type="response.created", response={"id": "resp_1"})
        await call.say("resp_1", "item_1", TONE)
        await call.send(
            type="response.output_audio_transcript.done",
            response_id="resp_1",
            item_id="item_1",
            output_index=0,
            content_index=0,
            transcript="Good day.",
        )
        await call.send(
            type="conversation.item.added",
            item={"id": "item_1", "type": "message", "role": "assistant"},
        )
        await call.say("resp_1", "item_1", TONE)
        await call.send(type="response.done", response={"id": "resp_1", "status": "completed"})
        # What others send before, comes after.
        await call.send(type="response.output_audio.done", response_id="resp_1", item_id="item_1")
        await call.send(
            type="response.output_item.done",
            response_id="resp_1",
            item={"id": "item_1", "type": "message", "role": "assistant"},
        )

        await _heard(caller, "resp_1")
        assert caller.words() == "Good day."
        await _asked(caller, call)
        await _answer(call, "resp_2")
        await _heard(caller, "resp_2")
        assert not caller.found("error")


async def test_frames_that_are_no_events_and_events_of_tomorrow_disturb_nothing(
    cell: Stack,
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)

        for text in ("", "{", "[]", "null", '"x"', "{}", '{"type":7}', "[" * 50_000, "\0"):
            await call.send_text(text)
        await call.send_binary(b"\xff\xfe")
        surprises: list[dict[str, Any]] = [
            {"type": "response.smell.delta", "delta": "roses"},
            {"type": "response.output_audio.delta"},
            {"type": "response.output_audio.delta", "response_id": 7, "item_id": [], "delta": {}},
            {
                "type": "response.output_audio.delta",
                "response_id": "r",
                "item_id": "i",
                "delta": "?",
            },
            {"type": "response.output_audio_transcript.delta"},
            {"type": "response.function_call_arguments.done", "arguments": "{}"},
            {"type": "response.output_item.done", "item": None},
            {"type": "response.created"},
            {"type": "response.done"},
            {"type": "response.done", "response": {"id": "resp_never_created"}},
            {"type": "conversation.item.truncated"},
            {"type": "input_audio_buffer.speech_stopped"},
            {"type": "conversation.item.input_audio_transcription.completed"},
            {"type": "rate_limits.updated", "rate_limits": "none"},
            {"type": "session.updated", "session": None},
            {"type": "error"},
            {"type": "error", "error": {"message": None, "code": 5}},
        ]
        for event in surprises:
            await call.send(**event)
        await _answer(call, "resp_1")

        await _heard(caller, "resp_1")
        await _asked(caller, call)
        await _answer(call, "resp_2")
        await _heard(caller, "resp_2")
        assert not caller.found("session_closed")
        assert all(one.data.recoverable for one in caller.found("error"))


async def test_everything_said_twice_counts_once(cell: Stack) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)

        call.stammers = True
        call_id = await calls_tool(call, "get_weather", WEATHER)
        await call.expect("response.create")
        await _answer(call, "resp_1")

        await _heard(caller, "resp_1")
        assert len(caller.found("tool_call_dispatched", call_id=call_id)) == 1
        outputs = [one["item"] for one in call.of("conversation.item.create")]
        given = [one["output"] for one in outputs if one["type"] == "function_call_output"]
        assert len(given) == 1
        assert "21" in given[0]
        assert len(call.of("response.create")) == 2


@pytest.mark.parametrize("left_out", ["response.function_call_arguments.done", "all but the end"])
async def test_a_call_is_understood_from_whichever_event_tells_of_it(
    cell: Stack, left_out: str
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)

        item = {
            "id": "item_c",
            "type": "function_call",
            "name": "get_weather",
            "call_id": "call_c",
            "arguments": WEATHER,
        }
        await call.send(type="response.created", response={"id": "resp_c"})
        if left_out != "all but the end":
            await call.send(
                type="response.output_item.done", response_id="resp_c", output_index=0, item=item
            )
        await call.send(
            type="response.done", response={"id": "resp_c", "status": "completed", "output": [item]}
        )

        done = await caller.event("tool_call_completed", call_id="call_c")
        await call.expect("response.create")
        assert done.data.result["city"] == "Berlin"
        await _answer(call, "resp_d")
        await _heard(caller, "resp_d")


@pytest.mark.parametrize("how", ["cancelled", "incomplete", "failed", "hangs up"])
async def test_a_call_that_the_provider_never_finished_asking_for_has_an_outcome(
    cell: Stack, how: str
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)

        await call.send(type="response.created", response={"id": "resp_c"})
        item = {"id": "i", "type": "function_call", "name": "get_weather", "call_id": "call_c"}
        await call.send(
            type="response.output_item.added", response_id="resp_c", output_index=0, item=item
        )
        await call.send(
            type="response.function_call_arguments.delta",
            response_id="resp_c",
            item_id="i",
            call_id="call_c",
            delta='{"ci',
        )
        await caller.event("tool_call_started")
        if how == "hangs up":
            await call.close(4000)
        else:
            await call.send(type="response.done", response={"id": "resp_c", "status": how})
        await caller.event("assistant_turn_completed", turn_id="resp_c")

        failed = await caller.event("tool_call_failed", call_id="call_c")
        assert failed.data.reason == "cancelled"
        assert not caller.found("tool_call_dispatched")
        if how != "hangs up":
            await _asked(caller, call)
            await _answer(call, "resp_d")
            await _heard(caller, "resp_d")


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013])
async def test_a_provider_that_hangs_up_in_mid_answer_is_dialled_again(
    cell: Stack, code: int
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)
        (said,) = call.of("conversation.item.create")
        await call.send(
            type="conversation.item.added",
            item={"id": "item_q", **said["item"], "status": "completed"},
        )
        await call.send(type="response.created", response={"id": "resp_cut"})
        await call.say("resp_cut", "item_cut", TONE)
        await caller.until(lambda: caller.pieces("resp_cut"), "the beginning")

        await call.close(code, "so long")
        ended = await caller.event("assistant_turn_completed", turn_id="resp_cut")
        again = await provider.call()
        await again.expect("session.update")
        await again.expect("response.create")
        await _answer(again, "resp_again")

        await _heard(caller, "resp_again")
        assert ended.data.status == "incomplete"
        assert "so long" in caller.found("session_reconnecting")[0].data.reason
        assert _said_again(again), "the question was not said again"


def _said_again(call: Call) -> bool:
    return any("Hello?" in json.dumps(one) for one in call.of("conversation.item.create"))


async def test_a_text_that_was_not_acknowledged_is_said_again(cell: Stack) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)

        call.cut()
        again = await provider.call()
        await again.expect("response.create")
        await _answer(again, "resp_again")
        await _heard(caller, "resp_again")

        assert _said_again(again)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
async def test_a_transport_without_descriptors_says_so_and_dials_once_it_has_some(
    cell: Stack,
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)
        await _answer(call, "resp_1")
        await _heard(caller, "resp_1")
        process = psutil.Process(cell.pids()["transport-0"])
        soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)

        # Not even the descriptor of the connection that ends can be had again.
        process.rlimit(psutil.RLIMIT_NOFILE, (3, hard))
        try:
            call.cut()
            refused = await caller.event("session_reconnecting", attempt=2)
        finally:
            process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
        await caller.event("session_resumed")
        again = await provider.call()
        await _asked(caller, again)
        await _answer(again, "resp_2")
        await _heard(caller, "resp_2")

        assert "Too many open files" in refused.data.reason
        assert "ulimit -n" in refused.data.reason
        assert cell.pids()["transport-0"] == process.pid


@pytest.mark.parametrize("code", [1000, 1008, 4000])
async def test_a_provider_that_hangs_up_for_good_is_told_with_its_code(
    cell: Stack, code: int
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)
        await call.send(type="response.created", response={"id": "resp_cut"})

        await call.close(code, "not your number")

        ended = await caller.event("assistant_turn_completed", turn_id="resp_cut")
        closed = await caller.event("session_closed")
        assert ended.data.status == "incomplete"
        assert (closed.data.reason, closed.data.code) == ("server", str(code))
        assert "not your number" in (closed.data.message or "")


async def test_speech_silences_the_answer_also_while_the_session_process_is_frozen(
    cell: Stack,
) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)
        await call.send(type="response.created", response={"id": "resp_1"})
        await call.say("resp_1", "item_1", TONE)
        await caller.until(lambda: caller.pieces("resp_1"), "the beginning")

        cell.kill("session-0", signal.SIGSTOP)
        try:
            at = asyncio.get_running_loop().time()
            await call.send(
                type="input_audio_buffer.speech_started", audio_start_ms=0, item_id="item_u"
            )
            flushed_at, _ = await caller.flushed("resp_1")
            await call.say("resp_1", "item_1", TONE)
            await call.say("resp_1", "item_1", TONE)
        finally:
            cell.kill("session-0", signal.SIGCONT)
        interrupted = await caller.event("interrupted")
        await call.send(type="response.done", response={"id": "resp_1", "status": "cancelled"})
        await caller.event("assistant_turn_completed", turn_id="resp_1", status="cancelled")

        measured("speech at the provider to the flush at the player", (flushed_at - at) * 1000)
        assert interrupted.data.reason == "barge_in"
        assert len(caller.pieces("resp_1")) == 1
        truncated = call.of("conversation.item.truncate")
        assert all(one["audio_end_ms"] <= 20 for one in truncated)


async def test_sound_waits_for_the_confirmation_and_the_commit_for_the_sound(cell: Stack) -> None:
    async with Provider(PORT, confirms=False) as provider, scene(cell) as on:
        caller = Caller(await on.client.connect(turn_detection="none"))
        call = await provider.call()
        update = await call.expect("session.update")

        for n in range(20):
            await caller.session.send_audio(struct.pack("<h", n) * 480)
        committing = asyncio.create_task(caller.session.commit_audio())
        await caller.session.ping()
        assert not call.of("input_audio_buffer.append")
        await call.send(type="session.updated", session=update["session"])
        await call.expect("input_audio_buffer.commit")
        await committing
        await caller.close()

        types = [one["type"] for one in call.received]
        assert types.index("input_audio_buffer.commit") == types.index(_APPEND) + 20
        said = [base64.b64decode(one["audio"]) for one in call.of(_APPEND)]
        assert [struct.unpack_from("<h", one)[0] for one in said] == list(range(20))


_APPEND = "input_audio_buffer.append"


async def test_the_provider_hears_each_text_once_and_in_order_whoever_dies(cell: Stack) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        line = Line(cell.endpoints, on.sockets)
        texts = {ids.ulid(): f"text {n}" for n in range(12)}

        for n, (id, text) in enumerate(texts.items()):
            line.command("send_text", {"text": text}, session_id=caller.id, id=id)
            if n in (3, 8):
                pid = cell.kill("session-0")
                await cell.ready("session-0", after=pid)
            answered = {one["id"] for one in line.replies}
            for lost in [one for one in list(texts)[: n + 1] if one not in answered]:
                line.command("send_text", {"text": texts[lost]}, session_id=caller.id, id=lost)
                await line.reply(lost)

        await call.until(lambda: len(_texts(call)) >= len(texts), "all texts")
        assert _texts(call) == list(texts.values())
        event_ids = [one["event_id"] for one in call.received if "event_id" in one]
        assert len(set(event_ids)) == len(event_ids)
        assert len(call.of("response.create")) == 1, "one at a time"


def _texts(call: Call) -> list[str]:
    items = [one["item"] for one in call.of("conversation.item.create")]
    return [part["text"] for item in items for part in item["content"]]


async def test_a_frame_as_large_as_the_provider_may_send_is_heard_whole(cell: Stack) -> None:
    sound = TONE * (11 * 1024 * 1024 // len(TONE))
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)

        await call.send(type="response.created", response={"id": "resp_1"})
        await call.say("resp_1", "item_1", sound)
        await call.send(type="response.done", response={"id": "resp_1", "status": "completed"})
        await caller.event("assistant_turn_completed", turn_id="resp_1")

        def heard() -> int:
            return sum(len(piece.samples) for _, piece in caller.pieces("resp_1"))

        await caller.until(lambda: heard() == len(sound), "all of the sound")
        assert not caller.found("audio_dropped")


async def test_a_frame_beyond_the_limit_ends_the_session_and_names_the_limit(cell: Stack) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()

        with contextlib.suppress(ConnectionClosed):
            await call.send_text('{"type":"' + "x" * (17 * 1024 * 1024) + '"}')
        closed = await caller.event("session_closed")
        await call.gone()

        assert closed.data.code == "1009"
        assert str(16 * 1024 * 1024) in closed.data.message


async def test_a_provider_that_never_confirms_is_given_up(cell: Stack) -> None:
    async with Provider(PORT, confirms=False) as provider, scene(cell) as on:
        reply = await on.line.ask("open")
        sid = reply["data"]["session_id"]
        call = await provider.call()
        await call.expect("session.update")

        await on.tape.until(lambda: on.tape.of(sid, "session_closed"), "the end", within_s=15)
        closed = on.tape.of(sid, "session_closed")[0]["data"]

        assert closed["reason"] == "error"
        assert "configuration" in closed["message"]
        await call.gone(within_s=5)


async def test_a_caller_who_hangs_up_frees_the_provider_at_once(cell: Stack) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await _asked(caller, call)
        await call.send(type="response.created", response={"id": "resp_1"})
        at = asyncio.get_running_loop().time()

        await caller.close()
        gone = await call.gone(within_s=3)

        measured("close to the end of the provider's socket", (gone - at) * 1000)
        assert caller.found("session_closed")[0].data.reason == "client"


CLIENT = """
import asyncio, sys
from voicebus.client import RealtimeClient

async def main():
    async with RealtimeClient(sys.argv[1]) as client:
        async with client.connect(lease_s=1.5) as session:
            async for event in session.events():
                print(event.kind, event.session_id, flush=True)

asyncio.run(main())
"""


async def test_a_killed_client_ends_its_session_when_its_lease_does(cell: Stack) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", CLIENT, str(cell.run_dir)), stdout=asyncio.subprocess.PIPE
        )
        assert client.stdout is not None
        try:
            line = await asyncio.wait_for(client.stdout.readline(), 20)
            kind, sid = line.decode().split()
            assert kind == "session_opened"
            call = await provider.call()
            with pytest.raises(TimeoutError):  # its pings keep it for longer than its lease
                await call.gone(within_s=2.5)
        finally:
            with contextlib.suppress(ProcessLookupError):
                client.kill()
        at = asyncio.get_running_loop().time()
        await client.wait()

        gone = await call.gone(within_s=10)
        closed = await on.tape.until(lambda: on.tape.of(sid, "session_closed"), "session_closed")

        measured("kill of the client to the end of the provider's socket", (gone - at) * 1000)
        assert closed[0]["data"]["reason"] == "abandoned"
        assert gone - at < 5


async def test_there_are_exactly_as_many_sessions_as_allowed(cell: Stack) -> None:
    async with Provider(PORT), scene(cell) as on:
        sent = [on.line.command("open") for _ in range(2 * MAX_SESSIONS)]
        replies = [await on.line.reply(id) for id in sent]
        opened = [one["data"]["session_id"] for one in replies if one["ok"]]
        refused = [one["error"] for one in replies if not one["ok"]]

        assert len(opened) == MAX_SESSIONS
        assert {(one["code"], one["retry"]) for one in refused} == {("busy", True)}
        assert f"max_sessions) is {MAX_SESSIONS}" in refused[0]["message"]
        assert all(one["after_ms"] > 0 for one in refused)
        await on.line.ask("close", session_id=opened[0])
        again = await on.line.ask("open")
        assert again["ok"], again
        for sid in (*opened[1:], again["data"]["session_id"]):
            await on.line.ask("close", session_id=sid)
        everybody = [*opened, again["data"]["session_id"]]
        await on.tape.until(
            lambda: all(on.tape.of(sid, "session_closed") for sid in everybody), "the ends"
        )


async def test_an_interrupt_reaches_an_answer_that_the_provider_has_not_begun(cell: Stack) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        for kind in ("speech_started", "speech_stopped", "committed"):
            await call.send(type=f"input_audio_buffer.{kind}", item_id="u1")
        await call.send(
            type="conversation.item.input_audio_transcription.completed",
            item_id="u1",
            content_index=0,
            transcript="Hello?",
        )
        await caller.event("user_transcript")

        cause = await caller.session.interrupt()
        await call.send(type="response.created", response={"id": "resp_own"})
        cancel = await call.expect("response.cancel")
        await call.send(type="response.done", response={"id": "resp_own", "status": "cancelled"})

        assert cancel["response_id"] == "resp_own"
        assert (await caller.event("interrupted")).cause == cause
        await _asked(caller, call)
        await _answer(call, "resp_1")
        await _heard(caller, "resp_1")
        assert len(call.of("response.cancel")) == 1


async def test_a_call_beside_the_conversation_is_run_and_answers_nobody(cell: Stack) -> None:
    async with Provider(PORT) as provider, scene(cell) as on:
        caller = await on.caller()
        call = await provider.call()
        await caller.session.create_response(conversation="none")
        await call.expect("response.create")

        call_id = await calls_tool(call, "get_weather", WEATHER, conversation_id=None)

        await caller.event("tool_call_completed", call_id=call_id)
        assert (await caller.event("tool_batch_submitted")).data.call_ids == []
        await _asked(caller, call)
        await _answer(call, "resp_1")
        await _heard(caller, "resp_1")
        kinds = [one["item"]["type"] for one in call.of("conversation.item.create")]
        assert kinds == ["message"]
        assert len(call.of("response.create")) == 2
        assert not call.of("conversation.item.delete")
