"""The AsyncAPI document holds together, and says what a ZeroMQ program must know."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from voicebus.bus import asyncapi, schemas
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.planes import PLANES

DOCUMENT = asyncapi.document()
FILES: dict[str, Any] = json.loads(schemas.render(schemas.every()))


OFFICIAL = json.loads((Path(__file__).parent / "asyncapi" / "3.0.0.json").read_text("utf-8"))


def _faults(document: Any) -> list[str]:
    """What the official schema has against it, at the deepest place each."""
    found = jsonschema.Draft7Validator(OFFICIAL).iter_errors(document)
    best = [jsonschema.exceptions.best_match([one]) for one in found]
    return [f"{one.json_path}: {one.message[:200]}" for one in best]


def test_the_committed_document_is_asyncapi_by_the_official_schema() -> None:
    committed = json.loads((schemas.FOLDER / "asyncapi.json").read_text("utf-8"))

    assert _faults(committed) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: it.pop("info"),
        lambda it: it.update(asyncapi="3"),
        lambda it: it["operations"]["event"].update(action="publish"),
        lambda it: it["channels"]["event"].update(zmq={}),
        lambda it: it["operations"]["commands"].pop("channel"),
    ],
)
def test_a_document_that_is_none_is_told(spoil: Callable[[Any], Any]) -> None:
    document = copy.deepcopy(DOCUMENT)
    spoil(document)

    assert _faults(document)


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for one in value.values() for ref in _refs(one)]
    if isinstance(value, list):
        return [ref for one in value for ref in _refs(one)]
    return []


@pytest.mark.parametrize("ref", sorted(set(_refs(DOCUMENT))))
def test_each_reference_leads_somewhere(ref: str) -> None:
    file, _, path = ref.partition("#/")
    found: Any = FILES[file] if file else DOCUMENT
    for step in path.split("/"):
        found = found[int(step)] if isinstance(found, list) else found[step]

    assert found


def test_an_event_is_referred_to_with_its_header() -> None:
    message = DOCUMENT["components"]["messages"]["event.user_transcript"]
    index = int(message["payload"]["schema"]["$ref"].rpartition("/")[2])

    assert FILES["events.json"]["oneOf"][index]["properties"]["kind"]["const"] == "user_transcript"


def test_each_channel_says_how_to_connect() -> None:
    for name, channel in DOCUMENT["channels"].items():
        zmq = channel["x-zmq"]
        assert zmq["socket"] in ("XPUB", "ROUTER"), name
        assert zmq["bind"], name
        assert zmq["frames"], name


def test_each_endpoint_exists() -> None:
    known = {
        name.replace("-0.", "-<n>.")
        for name in Endpoints("/tmp/run").every()
        if ".state" not in name
    }
    named = {plane.endpoint for plane in PLANES if "state" not in plane.endpoint}

    assert known == {name for name in named if not name.startswith("tcp://")}


def test_commands_name_their_replies() -> None:
    reply = DOCUMENT["operations"]["commands"]["reply"]

    assert reply == {"channel": {"$ref": "#/channels/replies"}}
