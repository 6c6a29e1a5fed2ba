"""The server on a loopback socket, with the openai package's own client and with a bare one."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from voicebus.services.simulator.server import Options, Running, running
from voicebus.services.simulator.sounds import tone

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Looks up the weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running(Options(pace=0)) as listening:
        yield listening


@asynccontextmanager
async def openai_client(server: Running) -> AsyncIterator[AsyncRealtimeConnection]:
    base = server.url.removesuffix("/realtime")
    async with (
        AsyncOpenAI(api_key="any", websocket_base_url=base) as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        yield connection


@asynccontextmanager
async def bare_client(
    server: Running, query: str = "model=gpt-realtime", key: str = "any"
) -> AsyncIterator[ClientConnection]:
    async with connect(
        f"{server.url}?{query}",
        additional_headers={"Authorization": f"Bearer {key}"},
        max_size=None,
    ) as socket:
        yield socket


async def until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    events = []
    async for event in connection:
        events.append(event)
        if event.type == kind:
            return events
    raise AssertionError(f"the connection closed before {kind}")


async def receive(socket: ClientConnection, kind: str) -> dict[str, Any]:
    async for frame in socket:
        event: dict[str, Any] = json.loads(frame)
        if event["type"] == kind:
            return event
    raise AssertionError(f"the connection closed before {kind}")


def user(text: str) -> Any:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def test_the_openai_client_has_a_text_turn(server: Running) -> None:
    async with openai_client(server) as connection:
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        await connection.conversation.item.create(item=user("Hello there"))
        await connection.response.create()
        events = await until(connection, "response.done")

    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "Hello. How can I help you?"
    assert events[-1].response.status == "completed"


async def test_the_openai_client_has_a_tool_turn(server: Running) -> None:
    async with openai_client(server) as connection:
        await connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"], "tools": [WEATHER]}
        )
        await connection.conversation.item.create(item=user("What is the weather in Berlin?"))
        await connection.response.create()
        [call] = (await until(connection, "response.done"))[-1].response.output
        await connection.conversation.item.create(
            item={
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": '{"city": "Berlin", "temperature_c": 21, "sky": "sunny"}',
            }
        )
        await connection.response.create()
        events = await until(connection, "response.done")

    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Berlin"})
    [said] = [event.text for event in events if event.type == "response.output_text.done"]
    assert said == "It is twenty one degrees and sunny in Berlin."


async def test_without_speech_packages_answers_are_tones_with_a_transcript(
    server: Running,
) -> None:
    async with openai_client(server) as connection:
        await connection.conversation.item.create(item=user("Hello there"))
        await connection.response.create()
        events = await until(connection, "response.done")

    sound = b"".join(
        base64.b64decode(event.delta)
        for event in events
        if event.type == "response.output_audio.delta"
    )
    [said] = [
        event.transcript
        for event in events
        if event.type == "response.output_audio_transcript.done"
    ]
    assert sound == tone(len(said) * 60, "audio/pcm")


async def test_without_speech_packages_loud_sound_is_speech_that_is_not_understood(
    server: Running,
) -> None:
    loud = base64.b64encode(tone(600, "audio/pcm")).decode()
    quiet = base64.b64encode(bytes(48 * 700)).decode()
    async with bare_client(server) as socket:
        for sound in (quiet, loud, quiet):
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": sound}))
        began = await receive(socket, "input_audio_buffer.speech_started")
        ended = await receive(socket, "input_audio_buffer.speech_stopped")
        said = await receive(socket, "response.output_audio_transcript.done")

    assert 350 <= began["audio_start_ms"] <= 420
    assert 1780 <= ended["audio_end_ms"] <= 1900
    assert said["transcript"].startswith("I am sorry, I did not understand that.")


async def test_two_sessions_do_not_share_ids(server: Running) -> None:
    async with bare_client(server) as one, bare_client(server) as two:
        first = await receive(one, "session.created")
        second = await receive(two, "session.created")

    assert first["session"]["id"] != second["session"]["id"]


@pytest.mark.parametrize("frame", ["", "{", "null", "[1]", '"x"', "\ud7ff", b"\x00\x01"])
async def test_a_frame_that_is_no_event_is_an_error_and_the_socket_stays_open(
    server: Running, frame: str | bytes
) -> None:
    async with bare_client(server) as socket:
        await socket.send(frame)
        error = await receive(socket, "error")
        await socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        await receive(socket, "input_audio_buffer.cleared")

    assert error["error"]["type"] == "invalid_request_error"


async def test_deep_nesting_is_an_error_and_the_socket_stays_open(server: Running) -> None:
    parameters = "{}"
    for _ in range(900):
        parameters = f'{{"a":{parameters}}}'
    tool = f'{{"type":"function","name":"x","parameters":{parameters}}}'
    async with bare_client(server) as socket:
        await socket.send(
            f'{{"type":"session.update","session":{{"type":"realtime","tools":[{tool}]}}}}'
        )
        await receive(socket, "error")
        await socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        await receive(socket, "input_audio_buffer.cleared")


async def test_a_wrong_key_and_no_key_are_refused_at_the_handshake() -> None:
    async with running(Options(key="right")) as server:
        with pytest.raises(InvalidStatus) as wrong:
            async with bare_client(server, key="wrong"):
                pass
        with pytest.raises(InvalidStatus) as missing:
            async with connect(f"{server.url}?model=gpt-realtime"):
                pass
        async with bare_client(server, key="right") as socket:
            await receive(socket, "session.created")

    assert wrong.value.response.status_code == 401
    assert b"invalid_api_key" in (wrong.value.response.body or b"")
    assert missing.value.response.status_code == 401


async def test_a_browser_hands_its_key_over_in_a_subprotocol_that_is_not_echoed() -> None:
    protocols = [Subprotocol("realtime"), Subprotocol("openai-insecure-api-key.right")]
    async with (
        running(Options(key="right")) as server,
        connect(f"{server.url}?model=gpt-realtime", subprotocols=protocols) as socket,
    ):
        await receive(socket, "session.created")

        assert socket.subprotocol == "realtime"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("model=gpt-5", "model_not_found"),
        ("", "missing_model"),
        ("intent=transcription&model=gpt-realtime", "invalid_model"),
    ],
)
async def test_an_unknown_model_is_an_error_and_then_the_socket_closes(
    server: Running, query: str, code: str
) -> None:
    async with bare_client(server, query) as socket:
        error = await receive(socket, "error")
        with pytest.raises(ConnectionClosed):
            await socket.recv()

    assert error["error"]["code"] == code
    assert socket.close_code == 4000


async def test_a_transcription_session_is_opened_by_its_intent(server: Running) -> None:
    async with bare_client(server, "intent=transcription") as socket:
        created = await receive(socket, "session.created")

    assert created["session"]["type"] == "transcription"


async def test_another_path_is_not_found(server: Running) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(server.url.replace("/v1/", "/v2/")):
            pass

    assert refused.value.response.status_code == 404


async def test_the_old_beta_header_is_refused(server: Running) -> None:
    headers = {"Authorization": "Bearer any", "OpenAI-Beta": "realtime=v1"}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{server.url}?model=gpt-realtime", additional_headers=headers):
            pass

    assert refused.value.response.status_code == 400
