"""Whatever a provider sends: no exception, and memory that stays bounded."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voicebus.bus.messages.commands import SessionConfig
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.commands import CORE_COMMANDS
from voicebus.services.session.providers.openai import READERS
from voicebus.services.session.providers.vendors import TRANSLATORS
from voicebus.services.session.testing import Stage, tool

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
commands = st.tuples(
    st.sampled_from(sorted(CORE_COMMANDS - {"close"})),
    st.dictionaries(
        st.sampled_from(["text", "item", "overrides", "item_id", "played_ms", "state", "call_id"]),
        items,
        max_size=4,
    ),
)


@pytest.mark.parametrize("vendor", TRANSLATORS)
@settings(max_examples=150, deadline=None)
@given(frame=st.dictionaries(st.text(max_size=10), json_values, max_size=5) | frames)
def test_a_translator_takes_any_frame(vendor: str, frame: dict[str, Any]) -> None:
    for event in TRANSLATORS[vendor].read(frame, 1):
        again = msgspec.json.decode(msgspec.json.encode(event), type=i.AnyInput)
        assert type(again) is type(event)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(frames | commands, max_size=25), vendor=st.sampled_from(list(TRANSLATORS)))
def test_a_conversation_survives_any_frames_and_commands(
    script: list[dict[str, Any] | tuple[str, dict[str, Any]]], vendor: str
) -> None:
    translator = TRANSLATORS[vendor]
    stage = Stage(SessionConfig(), tools=[tool("a")])
    for one in script:
        if isinstance(one, tuple):
            stage.command(one[0], **one[1])
        else:
            stage.play(*translator.read(one, stage.now_us))
        stage.wait(0.2)
    stage.wait(30)
    for effect in stage.effects:
        if isinstance(effect, fx.Ask):
            msgspec.json.encode(translator.write(effect.event_id, effect.request))
    msgspec.json.encode(stage.state)


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
