"""Scenarios: what their files may say, and the built-in ones played on a loopback socket."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from voicebus.services.simulator.scenario import BadScenario, parsed
from voicebus.services.simulator.server import SCENARIOS, Options, load_scenario, running


@asynccontextmanager
async def playing(name: str, connections: int = 1) -> AsyncIterator[list[ClientConnection]]:
    """Clients of a server that plays the scenario: a built-in one, or a text."""
    scenario = parsed(name, "inline") if "\n" in name else load_scenario(name)
    sockets: list[ClientConnection] = []
    async with running(Options(pace=0).with_scenario(scenario)) as server:
        try:
            for _ in range(connections):
                sockets.append(
                    await connect(
                        f"{server.url}?model=gpt-realtime",
                        additional_headers={"Authorization": "Bearer any"},
                        max_size=None,
                        close_timeout=0.1,
                    )
                )
            yield sockets
        finally:
            for socket in sockets:
                await socket.close()


async def say(socket: ClientConnection, text: str, modality: str = "audio") -> None:
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
    await ask(socket, modality)


async def ask(socket: ClientConnection, modality: str = "audio") -> None:
    response = {"output_modalities": [modality]}
    await socket.send(json.dumps({"type": "response.create", "response": response}))


async def commit(socket: ClientConnection) -> None:
    """A second of sound, pushed to talk, with its words told."""
    audio = {"turn_detection": None, "transcription": {"model": "whisper-1"}}
    session = {"type": "realtime", "audio": {"input": audio}}
    for event in (
        {"type": "session.update", "session": session},
        {"type": "input_audio_buffer.append", "audio": "AAAA" * 16000},
        {"type": "input_audio_buffer.commit"},
    ):
        await socket.send(json.dumps(event))


async def events(socket: ClientConnection, last: str) -> list[dict[str, Any]]:
    """All events up to the one of that type; frames that are no events are left out."""
    got = []
    async for frame in socket:
        try:
            event = json.loads(frame)
        except ValueError:
            continue
        if isinstance(event, dict):
            got.append(event)
            if event["type"] == last:
                return got
    raise AssertionError(f"the connection closed before {last}")


def types(got: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in got]


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_built_in_scenario_can_be_loaded_and_says_what_it_is(path: Any) -> None:
    assert load_scenario(path.stem).about


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[answer]]\nsays = 1", "unknown field `says`"),
        ("[[answer]\n", "line 1"),
        ("[[on]]\ndo = []", "exactly one of opens, receives, sends, after_ms"),
        ('[[on]]\nopens = true\ndo = [{ wait_ms = 1, text = "" }]', "exactly one thing"),
        ("[[on]]\nopens = true\ndo = [{}]", "it says nothing"),
        ('[server]\npace = "fast"', "server.pace"),
        ("{", "inline"),
    ],
)
def test_a_bad_scenario_is_refused_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(BadScenario, match="scenario inline") as refused:
        parsed(text, "inline")

    assert complaint in str(refused.value)


def test_an_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(BadScenario, match="weather"):
        load_scenario("wether")


def test_the_examples_of_the_documentation_are_right() -> None:
    text = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)

    assert examples
    for example in examples:
        assert parsed(example, "simulator.md").answer


def test_a_scenario_may_be_json() -> None:
    assert parsed('{"about": "x", "answer": [{"say": "hi"}]}', "x.json").answer[0].say == "hi"


async def test_weather_calls_the_tool_and_says_its_output() -> None:
    async with playing("weather") as [socket]:
        await say(socket, "Weather?", "text")
        [call] = (await events(socket, "response.done"))[-1]["response"]["output"]
        item = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"mm": 3}'}
        await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        await ask(socket, "text")
        done = (await events(socket, "response.done"))[-1]

    assert (call["name"], call["arguments"]) == ("get_weather", '{"city": "Berlin"}')
    assert done["response"]["output"][0]["content"][0]["text"] == "The mm is three."


async def test_two_calls_grow_in_turns() -> None:
    async with playing("two_calls") as [socket]:
        await say(socket, "Hello")
        got = await events(socket, "response.done")
    deltas = [e["output_index"] for e in got if e["type"].endswith("arguments.delta")]

    assert deltas == [0, 1, 0, 1]
    assert len(got[-1]["response"]["output"]) == 2


async def test_the_story_holds_30_s_of_sound_and_a_call() -> None:
    async with playing("story_and_search") as [socket]:
        await say(socket, "Tell me a story")
        got = await events(socket, "response.done")
    sound = sum(len(e["delta"]) * 3 // 4 for e in got if e["type"] == "response.output_audio.delta")

    assert sound == 30_000 * 48
    assert [item["type"] for item in got[-1]["response"]["output"]] == ["message", "function_call"]


async def test_speech_over_an_answer_can_be_scripted_without_ears() -> None:
    async with playing("barge_in") as [socket]:
        append = {"type": "input_audio_buffer.append", "audio": "AAAA" * 16000}
        await socket.send(json.dumps(append))
        await say(socket, "Tell me a long story")
        interrupted = await events(socket, "response.done")
        answered = await events(socket, "response.done")

    assert interrupted[-1]["response"]["status_details"]["reason"] == "turn_detected"
    assert "input_audio_buffer.speech_stopped" in types(answered)
    assert answered[-1]["response"]["status"] == "completed"


async def test_a_refused_key_and_a_busy_server_refuse_the_handshake() -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with playing("refused_key"):
            pass
    scenario = load_scenario("busy_at_first")
    statuses = []
    async with running(Options().with_scenario(scenario)) as server:
        for _ in range(3):
            try:
                async with connect(
                    f"{server.url}?model=gpt-realtime",
                    additional_headers={"Authorization": "Bearer any"},
                ):
                    statuses.append(101)
            except InvalidStatus as busy:
                statuses.append(busy.response.status_code)

    assert refused.value.response.status_code == 401
    assert statuses == [429, 429, 101]


async def test_without_quota_there_is_an_error_without_a_code_and_a_close() -> None:
    async with playing("no_quota") as [socket]:
        error = (await events(socket, "error"))[-1]["error"]
        with pytest.raises(ConnectionClosed):
            await socket.recv()

    assert (error["type"], error["code"]) == ("insufficient_quota", None)
    assert socket.close_code == 1000


async def test_the_first_response_meets_an_active_one_and_the_second_does_not() -> None:
    async with playing("active_response") as [socket]:
        await say(socket, "Hello")
        error = (await events(socket, "error"))[-1]["error"]
        await ask(socket)
        done = (await events(socket, "response.done"))[-1]

    assert error["code"] == "conversation_already_has_active_response"
    assert done["response"]["status"] == "completed"


async def test_a_rate_limited_answer_fails_and_the_next_one_does_not() -> None:
    async with playing("rate_limited") as [socket]:
        await say(socket, "Hello")
        failed = (await events(socket, "response.done"))[-1]["response"]
        await ask(socket)
        done = (await events(socket, "response.done"))[-1]["response"]

    assert failed["status_details"]["error"]["code"] == "rate_limit_exceeded"
    assert done["status"] == "completed"


async def test_an_answer_that_never_ends_can_be_cancelled() -> None:
    async with playing("never_ends") as [socket]:
        await say(socket, "Hello", "text")
        await events(socket, "response.output_text.done")
        await socket.send(json.dumps({"type": "response.cancel"}))
        done = (await events(socket, "response.done"))[-1]["response"]

    assert done["status"] == "cancelled"


async def test_an_answer_cut_short_is_incomplete_with_its_sound_so_far() -> None:
    async with playing("cut_short") as [socket]:
        await say(socket, "Hello")
        got = await events(socket, "response.done")
    sound = sum(len(e["delta"]) * 3 // 4 for e in got if e["type"] == "response.output_audio.delta")

    assert sound == 1000 * 48
    assert got[-1]["response"]["status_details"]["reason"] == "max_output_tokens"
    assert got[-1]["response"]["output"][0]["status"] == "incomplete"


async def test_a_lost_event_is_lost_and_the_rest_is_not() -> None:
    async with playing("missing_done") as [socket]:
        await say(socket, "Hello")
        first = await events(socket, "rate_limits.updated")
        await ask(socket)
        second = await events(socket, "rate_limits.updated")

    assert "response.done" not in types(first)
    assert "response.done" in types(second)


async def test_duplicates_come_twice_and_have_the_same_id() -> None:
    async with playing("duplicates") as [socket]:
        await say(socket, "Hello", "text")
        got = await events(socket, "response.done")
    done = [e["event_id"] for e in got if e["type"] == "response.output_item.done"]

    assert len(done) == 2
    assert len(set(done)) == 1


async def test_reordered_events_come_later() -> None:
    async with playing("reordered") as [socket]:
        await say(socket, "Hello", "text")
        before = await events(socket, "response.done")
        after = await events(socket, "rate_limits.updated")

    assert not [kind for kind in types(before) if kind.startswith("conversation.")]
    assert types(after)[:-1] == ["conversation.item.added", "conversation.item.done"] * 2


async def test_what_may_be_missing_can_be_missing() -> None:
    async with playing("bare") as [socket]:
        await say(socket, "Hello", "text")
        got = await events(socket, "response.done")

    assert got[-1]["response"]["status_details"] == "completed"
    assert "usage" not in got[-1]["response"]
    assert "previous_item_id" not in got[1]


async def test_broken_frames_come_between_whole_ones() -> None:
    async with playing("broken_frames") as [socket]:
        await say(socket, "Hello", "text")
        frames: list[str | bytes] = []
        while not frames or '"response.done"' not in str(frames[-1]):
            frames.append(await socket.recv())

    assert b"\x00\xff\x10" in frames
    assert {"", '{"type":', "[]"} <= set(frames)
    assert any("response.something_new" in str(frame) for frame in frames)


async def test_a_minute_of_sound_can_come_at_once() -> None:
    async with playing("burst") as [socket]:
        await say(socket, "Hello")
        got = await events(socket, "response.done")
    sound = sum(len(e["delta"]) * 3 // 4 for e in got if e["type"] == "response.output_audio.delta")

    assert sound == 60_000 * 48


async def test_a_connection_can_be_cut_and_the_next_one_works() -> None:
    async with playing("cut_off", connections=2) as [first, second]:
        await say(first, "Hello")
        with pytest.raises(ConnectionClosedError):
            await events(first, "response.done")
        await say(second, "Hello")
        done = (await events(second, "response.done"))[-1]

    assert first.close_code == 1006
    assert done["response"]["status"] == "completed"


async def test_a_session_can_expire_in_the_middle() -> None:
    async with playing("expires") as [socket]:
        await say(socket, "Hello")
        error = (await events(socket, "error"))[-1]["error"]
        await socket.wait_closed()

    assert error["code"] == "session_expired"
    assert (socket.close_code, socket.close_reason) == (1001, "session_expired")


async def test_a_broken_call_is_never_complete() -> None:
    async with playing("broken_arguments") as [socket]:
        await say(socket, "Hello")
        got = await events(socket, "response.done")
    [call] = got[-1]["response"]["output"]

    assert (call["status"], call["arguments"]) == ("incomplete", '{"city": "Ber')
    assert got[-1]["response"]["status"] == "cancelled"


async def test_a_transcript_can_come_after_the_answer() -> None:
    async with playing("late_transcript") as [socket]:
        await commit(socket)
        await ask(socket, "text")
        got = await events(socket, "conversation.item.input_audio_transcription.completed")

    assert "response.done" in types(got)
    assert got[-1]["transcript"] == "what is the weather in berlin"


async def test_a_half_open_connection_says_nothing_and_stays() -> None:
    async with playing("half_open", connections=2) as [first, second]:
        await say(first, "Hello")
        await events(first, "response.output_audio.delta")
        await say(second, "Hello")
        await events(second, "response.done")
        pong = asyncio.ensure_future(await first.ping())
        await say(second, "Hello again")
        await events(second, "response.done")

        assert not pong.done()
        assert first.close_code is None


async def test_rules_count_and_look_into_events() -> None:
    scenario = """
    [[on]]
    receives = "conversation.item.create"
    where = { "item.content.0.text" = "secret" }
    times = 1
    instead = true
    do = [{ error = { code = "not_yours", param = "$event.item.role" } }]
    """
    async with playing(scenario) as [socket]:
        await say(socket, "secret")
        error = (await events(socket, "error"))[-1]["error"]
        await events(socket, "response.done")
        await say(socket, "secret")
        got = await events(socket, "response.done")

    assert (error["code"], error["param"]) == ("not_yours", "user")
    assert "error" not in types(got)


async def test_the_client_can_be_made_to_say_things_and_the_configuration_to_begin_otherwise() -> (
    None
):
    scenario = """
    [server.defaults]
    "audio.input.turn_detection.silence_duration_ms" = 200

    [[on]]
    opens = true
    do = [{ client = { type = "response.create", response = { output_modalities = ["text"] } } }]
    """
    async with playing(scenario) as [socket]:
        got = await events(socket, "response.done")

    detection = got[0]["session"]["audio"]["input"]["turn_detection"]
    assert detection["silence_duration_ms"] == 200
    assert got[-1]["response"]["status"] == "completed"


async def test_what_the_client_sent_can_be_changed_on_its_way_in() -> None:
    scenario = """
    [[on]]
    receives = "conversation.item.create"
    set = { "item.content.0.text" = "say goodbye" }
    """
    async with playing(scenario) as [socket]:
        await say(socket, "say hello", "text")
        done = (await events(socket, "response.done"))[-1]

    assert "goodbye" in done["response"]["output"][0]["content"][0]["text"].lower()


async def test_sound_can_come_in_pieces_of_any_size() -> None:
    scenario = """
    [[answer]]
    say = "Long pieces."
    tone_ms = 60_000
    chunk_ms = 30_000
    """
    async with playing(scenario) as [socket]:
        await say(socket, "Hello")
        got = await events(socket, "response.done")
    sizes = [len(e["delta"]) for e in got if e["type"] == "response.output_audio.delta"]

    assert sizes == [30_000 * 48 * 4 // 3] * 2


async def test_a_frame_can_come_in_pieces_and_need_not_be_utf_8() -> None:
    scenario = """
    [[on]]
    sends = "response.created"
    do = [{ fragments = ['{"type":', '"whole"}'] }, { text_bytes = "7bff7d" }]
    """
    async with playing(scenario) as [socket]:
        await say(socket, "Hello")
        got = await events(socket, "whole")
        with pytest.raises(ConnectionClosedError) as closed:
            await socket.recv()

    assert got[-1] == {"type": "whole"}
    assert closed.value.sent is not None
    assert closed.value.sent.code == 1007


async def test_what_an_action_makes_the_server_say_comes_before_the_next_action() -> None:
    scenario = """
    [[on]]
    receives = "input_audio_buffer.append"
    do = [{ speech_began_ms = 0 }, { send = { type = "between" } }, { speech_ended_ms = 200 }]
    """
    async with playing(scenario) as [socket]:
        append = {"type": "input_audio_buffer.append", "audio": "AAAA" * 4800}
        await socket.send(json.dumps(append))
        got = types(await events(socket, "input_audio_buffer.committed"))

    assert got[1:] == [
        "input_audio_buffer.speech_started",
        "between",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ]
