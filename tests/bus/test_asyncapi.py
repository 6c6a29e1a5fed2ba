"""The AsyncAPI document holds together, and says what a ZeroMQ program must know."""

import json
from typing import Any

import pytest

from voicebus.bus import asyncapi, schemas
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.planes import PLANES

DOCUMENT = asyncapi.document()
FILES: dict[str, Any] = json.loads(schemas.render(schemas.every()))


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
