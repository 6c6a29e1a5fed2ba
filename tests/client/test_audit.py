from typing import Any

import pytest

from voicebus.client import audit


def events(*kinds_and_data: tuple[str, dict[str, Any]], epoch: int = 0) -> list[dict[str, Any]]:
    """Numbered, as one incarnation publishes them."""
    last: dict[str, int] = {}
    found = []
    for seq, (kind, data) in enumerate(kinds_and_data, start=1):
        found.append(
            {
                "seq": seq,
                "prev": last.get(kind, 0),
                "kind": kind,
                "epoch": epoch,
                "inc": "a",
                "data": data,
            }
        )
        last[kind] = seq
    return found


def call(kind: str, call_id: str = "c1", **more: Any) -> tuple[str, dict[str, Any]]:
    return (f"tool_call_{kind}", {"call_id": call_id, "turn_id": "t1", **more})


Said = tuple[str, dict[str, Any]]
OPENED: Said = ("session_opened", {})
CLOSED: Said = ("session_closed", {})
BATCH = ("tool_batch_submitted", {"turn_id": "t1", "call_ids": ["c1", "c2"]})
WHOLE = (
    OPENED,
    ("assistant_turn_started", {"turn_id": "t1"}),
    call("started"),
    call("started", "c2"),
    ("assistant_turn_completed", {"turn_id": "t1"}),
    call("dispatched"),
    call("dispatched", "c2"),
    call("completed", "c2"),
    call("failed"),
    BATCH,
    CLOSED,
)


def test_a_sound_conversation_has_no_faults() -> None:
    assert audit.conversation(events(*WHOLE)) == []


@pytest.mark.parametrize(
    ("taken_out", "told"),
    [
        (3, "seq has gaps"),
        (7, "call c2 has 0 outcomes"),
        (10, "session_closed is not once and last"),
    ],
)
def test_what_is_missing_is_told(taken_out: int, told: str) -> None:
    found = events(*WHOLE)
    del found[taken_out]

    assert any(told in fault for fault in audit.conversation(found))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (call("completed"), "call c1 has 2 outcomes"),
        (call("dispatched"), "call c1 was dispatched 2 times"),
        (BATCH, "response t1 has 2 batches"),
        (("assistant_turn_completed", {"turn_id": "t1"}), "turn t1 ended 2 times"),
        (("assistant_turn_completed", {"turn_id": "t9"}), "turn t9 ended and never began"),
    ],
)
def test_what_comes_twice_is_told(more: tuple[str, dict[str, Any]], told: str) -> None:
    assert audit.conversation(events(*WHOLE[:-1], more, CLOSED)) == [told]


def test_outputs_out_of_order_or_too_early_are_told() -> None:
    swapped = ("tool_batch_submitted", {"turn_id": "t1", "call_ids": ["c2", "c1"]})
    found = events(*(swapped if one is BATCH else one for one in WHOLE))

    assert audit.conversation(found) == ["batch of t1: ['c2', 'c1'], called were ['c1', 'c2']"]
    assert "batch of t1 before the end of ['c1']" in audit.conversation(
        events(*WHOLE[:8], BATCH, WHOLE[8], CLOSED)
    )


def test_an_open_conversation_may_have_open_calls_and_no_end() -> None:
    assert audit.conversation(events(*WHOLE[:7]), is_over=False) == []


def test_an_epoch_never_goes_back() -> None:
    found = [*events(OPENED, epoch=2), {**events(OPENED, CLOSED)[1], "epoch": 1}]

    assert audit.conversation(found) == ["session_closed 2: the epoch went back from 2"]


def test_what_was_published_must_be_what_is_kept() -> None:
    kept = events(*WHOLE)
    other = [{**kept[0], "data": {"x": 1}}]

    assert audit.same_as_live(kept, kept, is_whole=True) == []
    assert audit.same_as_live(kept, kept[:3]) == []
    assert audit.same_as_live(kept, kept[:3], is_whole=True) == [
        "11 events are kept, 3 were published"
    ]
    assert audit.same_as_live(kept[:2], kept[:3]) == [
        "tool_call_started 3 was published and is not kept"
    ]
    assert "is kept as session_opened {}" in audit.same_as_live(kept, other)[0]


def test_a_call_goes_out_once_and_its_output_once_to_each_connection() -> None:
    assert audit.tools({"c1": 1}, {(1, "c1"): 1, (2, "c1"): 1}, {"c2": 1}, []) == []
    assert audit.tools({"c1": 2}, {(1, "c1"): 2}, {"c1": 1}, ["c3"]) == [
        "call c1 was submitted 2 times",
        "the output of call c1 was sent 2 times on connection 1",
        "call c1 was answered, and its item deleted",
        "call c3 dangles: it ended, and has no output",
    ]


@pytest.mark.parametrize(
    ("begun", "told"),
    [
        ({"c1": 1, "c2": 1}, []),
        ({"c1": 1, "c2": 3}, []),
        ({"c1": 2, "c2": 1}, ["call c1 of pay began 2 times, 1 allowed"]),
        ({"c1": 1, "c2": 4}, ["call c2 of read began 4 times, 3 allowed"]),
        ({"c1": 1}, ["call c2 is ok and never ran"]),
        ({"c2": 1, "c9": 1}, ["call c9 ran, and no event tells how it ended"]),
    ],
)
def test_what_ran_is_held_against_what_was_told(begun: dict[str, int], told: list[str]) -> None:
    ends = events(
        call("failed", "c1", name="pay", reason="unknown"), call("completed", "c2", name="read")
    )

    assert audit.runs(ends, begun, {"pay": "once", "read": "none"}, most=3) == told
