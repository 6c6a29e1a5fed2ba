"""The Node examples: a whole conversation with sound, and the port of the gap detector."""

import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from voicebus.cli.testing import Stack
from voicebus.client import RealtimeClient

Need = Callable[[str], dict[str, str]]

ROOT = Path(__file__).parents[2]
NODE = ROOT / "examples" / "node"
SCENARIO_TONE_MS = 700


def _node(environment: dict[str, str], script: str, *words: object) -> list[str]:
    done = subprocess.run(
        ["node", str(NODE / script), *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_its_gap_detector_agrees_with_the_vectors(need: Need) -> None:
    vectors = ROOT / "tests" / "bus" / "vectors" / "gaps.json"

    said = _node(need("node"), "vectors.js", vectors)

    assert said[-1].endswith(" cases, 0 wrong")


async def test_it_speaks_a_recording_and_saves_the_answer(
    cell: Stack, need: Need, tmp_path: Path
) -> None:
    answer = tmp_path / "answer.wav"

    said = _node(
        need("node"),
        "talk.js",
        cell.run_dir,
        ROOT / "examples" / "speech" / "question_weather.wav",
        answer,
    )

    assert "caller: What is the weather in Berlin?" in said
    assert "assistant: It is twenty one degrees and sunny in Berlin." in said
    session_id = said[0].removeprefix("opened ")
    async with RealtimeClient(cell.run_dir) as client:
        reply = await client.commander.ask(0, "replay", {"from": 1}, session_id=session_id)
    heard = [event["data"] for event in reply.data["events"] if event["kind"] == "assistant_heard"]
    assert [(one["complete"], one["estimated"]) for one in heard] == [(True, False)]
    with wave.open(str(answer)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, 24_000, 2)
        assert file.getnframes() * 1000 // 24_000 == pytest.approx(heard[0]["heard_ms"], abs=1)
        assert any(file.readframes(file.getnframes())), "the answer is silent"
    assert said[-1].endswith(" 0 samples missing")
