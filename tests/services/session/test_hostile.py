"""Whatever a provider or a client sends: no exception, no hang, and memory that stays bounded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicebus.bus.messages.commands import SessionConfig
from voicebus.services.session.core import inputs as i
from voicebus.services.session.providers.openai import READERS
from voicebus.services.session.providers.vendors import TRANSLATORS
from voicebus.services.session.testing import Stage, sound, tool

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["r1", "m1", "c1", "completed", "function_call", "message", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["id", "type"]), inner, max_size=4)
    ),
    max_leaves=8,
)
ids = st.sampled_from(["r1", "r2", "m1", "c1", ""]) | json_values
items = (
    st.fixed_dictionaries(
        {},
        optional={
            "id": ids,
            "type": st.sampled_from(["message", "function_call", "mcp_call"]) | json_values,
            "role": ids,
            "status": st.sampled_from(["completed", "incomplete", "in_progress"]) | json_values,
            "call_id": ids,
            "name": st.sampled_from(["a", "web_search"]) | json_values,
            "arguments": st.sampled_from(["{}", '{"x":', "[]"]) | json_values,
            "content": st.lists(json_values, max_size=2) | json_values,
        },
    )
    | json_values
)
responses = (
    st.fixed_dictionaries(
        {},
        optional={
            "id": ids,
            "status": st.sampled_from(["completed", "failed", "cancelled"]) | json_values,
            "status_details": json_values,
            "output": st.lists(items, max_size=2) | json_values,
            "usage": json_values,
            "metadata": st.fixed_dictionaries({"voicebus": st.sampled_from(["1", "2"])})
            | json_values,
            "conversation_id": json_values,
        },
    )
    | json_values
)
KINDS = sorted({*READERS, "conversation.created", "ping"})
frames = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS) | json_values},
    optional={
        "response_id": ids,
        "item_id": ids,
        "call_id": ids,
        "previous_item_id": ids,
        "output_index": json_values,
        "content_index": st.integers(0, 1) | json_values,
        "delta": json_values,
        "text": json_values,
        "transcript": json_values,
        "audio_start_ms": json_values,
        "item": items,
        "response": responses,
        "session": json_values,
        "error": json_values,
        "rate_limits": json_values,
        "status": json_values,
    },
)


@pytest.mark.parametrize("vendor", TRANSLATORS)
@settings(max_examples=150, deadline=None)
@given(frame=st.dictionaries(st.text(max_size=10), json_values, max_size=5) | frames)
def test_a_translator_takes_any_frame(vendor: str, frame: dict[str, Any]) -> None:
    for event in TRANSLATORS[vendor].read(frame, 1):
        again = msgspec.json.decode(msgspec.json.encode(event), type=i.AnyInput)
        assert type(again) is type(event)


@pytest.mark.timeout(300)  # 4 s of work, on a machine that may have other work
def test_a_conversation_survives_any_frames_and_commands() -> None:
    """Through reader, translator, desk, reception, core and fold; a failure names its seed."""
    ran = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("hostile.py")), "300"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("300 conversations, "), ran.stdout


def flooding(kind: str, n: int) -> dict[str, Any]:
    """A frame in which everything is new."""
    item = {
        "id": f"m{n}",
        "type": "function_call" if n % 2 else "message",
        "role": "assistant",
        "call_id": f"c{n}",
        "name": "a",
        "status": "completed",
    }
    return {
        "type": kind,
        "response_id": f"r{n}",
        "item_id": f"m{n}",
        "call_id": f"c{n}",
        "previous_item_id": f"m{n - 1}",
        "delta": "word ",
        "text": "word",
        "transcript": "word",
        "item": item,
        "response": {"id": f"r{n}", "status": "completed", "output": [item]},
        "error": {"code": "x", "event_id": f"e{n}"},
    }


@pytest.mark.parametrize("kind", [*sorted(READERS), "sound"])
def test_a_flood_of_new_names_does_not_grow_the_state_for_ever(kind: str) -> None:
    stage = Stage(SessionConfig(lease_s=80_000), tools=[tool("a")])

    def flood(first: int) -> int:
        for n in range(first, first + 200):
            if kind == "sound":
                stage.play(sound(f"r{n}", f"m{n}"))
            else:
                stage.play(*TRANSLATORS["openai"].read(flooding(kind, n), stage.now_us))
        stage.wait(100)
        stage.effects.clear()
        without = msgspec.structs.replace(stage.state, items={}, former={}, order=())
        return len(msgspec.json.encode(without))

    _, once, twice = flood(1000), flood(2000), flood(3000)

    assert twice < once * 1.05


def test_a_flood_of_new_ids_does_not_grow_the_state_for_ever() -> None:
    translator = TRANSLATORS["openai"]
    stage = Stage(SessionConfig(lease_s=80_000))

    def flood(first: int) -> int:
        for n in range(first, first + 3000):
            item = {"id": f"m{n}", "type": "message", "role": "assistant"}
            for frame in (
                {"type": "conversation.item.added", "item": item},
                {"type": "response.created", "response": {"id": f"r{n}"}},
                {"type": "response.output_item.added", "response_id": f"r{n}", "item": item},
                {"type": "response.done", "response": {"id": f"r{n}", "status": "completed"}},
            ):
                stage.play(*translator.read(frame, stage.now_us))
            stage.effects.clear()
        return len(msgspec.json.encode(stage.state))

    once, twice = flood(0), flood(3000)

    assert twice < once * 1.1
