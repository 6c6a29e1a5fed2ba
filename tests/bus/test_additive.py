"""Version 1 keeps its promises: changes of the schemas are additive."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from voicebus.bus import additive

Change = Callable[[dict[str, Any]], Any]


def test_the_schemas_of_today_keep_version_1() -> None:
    found = additive.breaks(additive.published(), additive.today())

    assert found == [], "not additive within version 1; see docs/protocol.md, Versions"


def _defs(files: dict[str, Any], file: str, name: str) -> Any:
    return files[file]["$defs"][name]


def _channel(files: dict[str, Any], name: str) -> Any:
    return files["asyncapi.json"]["channels"][name]


BREAKING: dict[str, tuple[Change, str]] = {
    "a field is removed": (
        lambda f: _defs(f, "events.json", "UserTranscript")["properties"].pop("text"),
        "events.json: UserTranscript.text is gone",
    ),
    "a new field has no default": (
        lambda f: _defs(f, "worker-up.json", "WorkerHello")["required"].append("capabilities"),
        "worker-up.json: WorkerHello.capabilities is required now: give it a default",
    ),
    "a field may be left out": (
        lambda f: _defs(f, "events.json", "UserTranscript")["required"].remove("text"),
        "events.json: UserTranscript.text was always there and may be left out now",
    ),
    "a type changes": (
        lambda f: _defs(f, "events.json", "Head")["properties"].update(seq={"type": "string"}),
        "events.json: Head.seq can no longer be integer",
    ),
    "a type gets wider": (
        lambda f: _defs(f, "events.json", "UserTranscript")["properties"].update(
            text={"anyOf": [{"type": "string"}, {"type": "null"}]}
        ),
        "events.json: UserTranscript.text can be null now; receivers do not expect that",
    ),
    "a name disappears from a list": (
        lambda f: _defs(f, "events.json", "SessionClosed")["properties"]["reason"]["enum"].remove(
            "abandoned"
        ),
        'events.json: SessionClosed.reason can no longer be "abandoned"',
    ),
    "a closed list grows": (
        lambda f: _defs(f, "replies.json", "CommandError")["properties"]["code"]["enum"].append(
            "oops"
        ),
        'replies.json: CommandError.code: its list is closed; new is "oops"',
    ),
    "a default changes": (
        lambda f: _defs(f, "commands.json", "Replay")["properties"]["limit"].update(default=100),
        "commands.json: Replay.limit: its default was 200 and is 100",
    ),
    "a command disappears": (
        lambda f: f["commands.json"]["oneOf"].pop(0),
        "commands.json: open is gone",
    ),
    "a file disappears": (
        lambda f: f.pop("cancel.json"),
        "cancel.json: the whole file is gone",
    ),
    "the values of an object change": (
        lambda f: _defs(f, "events.json", "Welcome")["properties"]["heads"].update(
            additionalProperties={"type": "string"}
        ),
        "events.json: Welcome.heads can no longer be object of integer",
    ),
    "a reply holds something else": (
        lambda f: f["replies.json"]["x-data"].update(attach="#/$defs/Replayed"),
        "replies.json: the reply to attach no longer holds Opened",
    ),
    "a topic is renamed": (
        lambda f: _channel(f, "event").update(address="events/{session_id}/{kind}"),
        "asyncapi.json: address of event was 'event/{session_id}/{kind}' "
        "and is 'events/{session_id}/{kind}'",
    ),
    "a socket has another name": (
        lambda f: _channel(f, "commands")["x-zmq"].update(endpoint="session-<n>.rpc"),
        "asyncapi.json: endpoint of commands was 'session-<n>.commands' and is 'session-<n>.rpc'",
    ),
    "a frame is added": (
        lambda f: _channel(f, "replies")["x-zmq"]["frames"].insert(0, "topic"),
        "asyncapi.json: frames of replies was ['reply'] and is ['topic', 'reply']",
    ),
    "a socket disappears": (
        lambda f: f["asyncapi.json"]["channels"].pop("audio-in"),
        "asyncapi.json: channel audio-in is gone",
    ),
    "a message travels elsewhere": (
        lambda f: _channel(f, "audio-out")["messages"].pop("flush"),
        "asyncapi.json: flush no longer travels on audio-out",
    ),
}


@pytest.mark.parametrize("name", BREAKING)
def test_it_is_refused_that(name: str) -> None:
    change, sentence = BREAKING[name]
    before = additive.today()
    after = copy.deepcopy(before)
    change(after)

    assert sentence in additive.breaks(before, after)


ADDITIVE: dict[str, Change] = {
    "a field with a default": lambda f: _defs(f, "events.json", "Head")["properties"].update(
        weather={"type": "string", "default": ""}
    ),
    "a name in an open list": lambda f: _defs(f, "events.json", "SessionClosed")["properties"][
        "reason"
    ]["enum"].append("tired"),
    "a kind of event": lambda f: f["events.json"]["oneOf"].append(
        {"title": "new on event/<session_id>/new", "properties": {}, "required": []}
    ),
    "a description": lambda f: _defs(f, "events.json", "Head").update(description="Other words."),
    "a socket": lambda f: f["asyncapi.json"]["channels"].update(weather={"address": None}),
    "a message on a socket": lambda f: _channel(f, "audio-out")["messages"].update(welcome={}),
    "a file": lambda f: f.update({"weather.json": {"$defs": {}}}),
}


@pytest.mark.parametrize("name", ADDITIVE)
def test_it_is_allowed_to_add(name: str) -> None:
    before = additive.today()
    after = copy.deepcopy(before)
    ADDITIVE[name](after)

    assert additive.breaks(before, after) == []
