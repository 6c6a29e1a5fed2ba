"""The committed schemas are those of the types, and they are schemas."""

import jsonschema
import pytest

from voicebus.bus import schemas


def test_the_committed_schemas_are_fresh() -> None:
    assert schemas.stale() == [], "run: python -P -m voicebus.bus.schemas"


@pytest.mark.parametrize("name", sorted(schemas.every()))
def test_each_file_is_a_valid_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.every()[name])


def test_an_event_is_checked_by_its_kind() -> None:
    validator = jsonschema.Draft202012Validator(schemas.every()["events.json"])
    event = {
        "v": 1,
        "kind": "user_transcript",
        "session_id": "s0-00000000000000000000000000",
        "seq": 3,
        "prev": 0,
        "epoch": 0,
        "inc": "00000000",
        "at_us": 1,
        "cause": None,
        "data": {"item_id": "i", "text": "hello"},
    }

    assert validator.is_valid(event)
    assert not validator.is_valid({**event, "data": {"item_id": "i"}})
    assert not validator.is_valid({**event, "kind": "no_such_kind"})


def test_a_stale_file_is_named(tmp_path: object) -> None:
    folder = schemas.FOLDER.__class__(str(tmp_path))
    schemas.write(folder)
    (folder / "events.json").write_text("{}")

    assert schemas.stale(folder) == ["events.json"]


@pytest.mark.parametrize("kind", ["assistant_audio_delta", "end", "flush", "caller_audio"])
def test_sound_is_checked_by_its_kind(kind: str) -> None:
    schema = schemas.every()["sound.json"]
    kinds = {one["properties"].get("kind", {}).get("const") for one in schema["$defs"].values()}
    flush = {
        "v": 1,
        "kind": kind,
        "session_id": "s0-00000000000000000000000000",
        "inc": "00000000",
        "seq": 1,
        "responses": [],
        "why": "manual",
    }

    assert kind in kinds
    assert jsonschema.Draft202012Validator(schema).is_valid(flush) == (kind == "flush")
