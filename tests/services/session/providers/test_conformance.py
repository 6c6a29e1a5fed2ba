"""What every translator must do, over transcripts of conversations with their providers.

A transcript (`transcripts/*.json`) holds the provider's frames with what clients, tools and time do
between them, and what must come of it: the kinds published (pieces of words told once) and the
types of the frames sent. `python tests/services/session/providers/test_conformance.py` writes the
two lists anew; look at the difference before you keep it.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from voicebus.services.session import configuration
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.providers.base import Translator
from voicebus.services.session.providers.vendors import TRANSLATORS
from voicebus.services.session.testing import Stage, kinds, sound, tool, tool_ok

FOLDER = Path(__file__).parent / "transcripts"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
PAIRS = [(name, vendor) for name in NAMES for vendor in TRANSLATORS]
_server_event: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)


def transcript(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return value


def play(script: dict[str, Any], translator: Translator) -> tuple[Stage, list[str]]:
    """The conversation and the types of the frames that were sent."""
    stage = Stage(
        configuration.check(script["config"]).config,
        [tool(name) for name in script["tools"]],
        capabilities=translator.capabilities,
        ready=False,
    )
    stage.play(i.ProviderConnected(generation=1))
    for one in script["steps"]:
        match one:
            case {"up": frame}:
                stage.play(*translator.read(frame, stage.now_us))
            case {"command": name, "data": data}:
                stage.command(name, **data)
            case {"tool": call_id, "result": result}:
                stage.play(tool_ok(call_id, result))
            case {"sound_ms": ms, "response_id": response_id, "item_id": item_id}:
                stage.play(sound(response_id, item_id, ms))
            case {"wait_s": seconds}:
                stage.wait(seconds)
            case _:
                raise AssertionError(f"no step: {one}")
    asked = [
        translator.write(effect.event_id, effect.request)
        for effect in stage.effects
        if isinstance(effect, fx.Ask)
    ]
    assert all(frame["event_id"] for frame in asked)
    return stage, [frame["type"] for frame in asked]


def told(stage: Stage) -> list[str]:
    """The kinds published, runs of the same piecewise kind once."""
    found: list[str] = []
    for kind in kinds(stage.effects):
        if not (found and kind.endswith("_delta") and found[-1] == kind):
            found.append(kind)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_its_own_transcripts_come_out_as_written(name: str) -> None:
    script = transcript(name)

    for vendor in script["vendors"]:
        stage, asked = play(script, TRANSLATORS[vendor])

        assert (vendor, told(stage)) == (vendor, script["kinds"])
        assert (vendor, asked) == (vendor, script["asked"])


@pytest.mark.parametrize(("name", "vendor"), PAIRS)
def test_whatever_the_dialect_nothing_breaks_and_nothing_stays_open(name: str, vendor: str) -> None:
    stage, _ = play(transcript(name), TRANSLATORS[vendor])
    stage.command("close")
    published = kinds(stage.effects)

    calls = published.count("tool_call_completed") + published.count("tool_call_failed")
    assert published.count("tool_call_started") == calls
    assert published.count("assistant_turn_started") == published.count("assistant_turn_completed")
    assert published.count("session_closed") == 1


@pytest.mark.parametrize(("name", "vendor"), PAIRS)
def test_reading_changes_no_frame_and_depends_on_nothing_else(name: str, vendor: str) -> None:
    translator = TRANSLATORS[vendor]
    for one in transcript(name)["steps"]:
        if "up" in one:
            frame = copy.deepcopy(one["up"])
            first = translator.read(frame, 7)

            assert frame == one["up"]
            assert translator.read(frame, 7) == first
            assert all(event.now_us == 7 for event in first)


@pytest.mark.parametrize("name", [name for name in NAMES if transcript(name)["ga"]])
def test_what_is_said_to_be_ga_is_valid_in_openais_own_types(name: str) -> None:
    for one in transcript(name)["steps"]:
        if "up" in one:
            event = _server_event.validate_python(one["up"])

            assert event.type == one["up"]["type"]


@pytest.mark.parametrize("vendor", TRANSLATORS)
def test_every_translator_says_who_it_is_and_what_it_can_do(vendor: str) -> None:
    translator = TRANSLATORS[vendor]

    assert translator.name == vendor
    assert translator.default_model
    assert (translator.capabilities.longest_session_s or 1) > 0


if __name__ == "__main__":
    for name in NAMES:
        script = transcript(name)
        stage, asked = play(script, TRANSLATORS[script["vendors"][0]])
        script["kinds"], script["asked"] = told(stage), asked
        text = json.dumps(script, indent=1, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(text + "\n", "utf-8")
