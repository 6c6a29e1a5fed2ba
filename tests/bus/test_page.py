"""The page about the protocol says what the types say, and its examples are true."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from voicebus.bus import page, reference, schemas
from voicebus.bus.messages import commands, events, sound, system
from voicebus.bus.messages.base import Message
from voicebus.bus.planes import PLANES, Plane, key_of

MESSAGES = [
    pytest.param(plane, name, of, id=key_of(plane, name))
    for plane in PLANES
    for name, of in plane.messages.items()
]


def test_the_page_is_fresh() -> None:
    assert page.stale() == [], "run: python -P -m voicebus.bus.schemas"


def test_every_message_is_on_the_page() -> None:
    assert page.undocumented() == []


def test_every_type_that_a_table_names_has_a_table_of_its_own() -> None:
    text = page.PAGE.read_text("utf-8")
    rows = re.findall(r"^\| `\w+` \| (.+?) \| (?:required|`.*?`) \| ", text, re.MULTILINE)
    # Of ours; values stand in backticks, and "any JSON" is none.
    named = set(re.findall(r"\b[A-Z]\w+\b", re.sub(r"`[^`]*`", "", "\n".join(rows)))) - {"JSON"}

    assert "CommandError" in named
    assert named <= set(re.findall(r"<!-- made: fields (\w+) -->", text))


@pytest.mark.parametrize(
    "registry",
    [events.EVENTS, commands.COMMANDS, sound.SOUND, system.SYSTEM],
    ids=["events", "commands", "sound", "system"],
)
def test_every_type_travels_on_some_socket(registry: dict[str, type[Message]]) -> None:
    """Or the page, made from the sockets, would not know of it."""
    on_sockets = {of for plane in PLANES for of in plane.messages.values()}

    assert set(registry.values()) <= on_sockets


@pytest.mark.parametrize(("plane", "name", "of"), MESSAGES)
def test_each_example_follows_its_schema(plane: Plane, name: str, of: type[Message]) -> None:
    schema = _REGISTRY[plane.file]
    example = page.example_of(plane, name, of)

    jsonschema.Draft202012Validator(schema).validate(example)


@pytest.mark.parametrize("command", commands.ANSWERS)
def test_each_example_of_a_reply_follows_its_schemas(command: str) -> None:
    replies = _REGISTRY["replies.json"]
    reply = page.answer_of(command)

    jsonschema.Draft202012Validator(replies).validate(reply)
    data = {"$ref": replies["x-data"][command], "$defs": replies["$defs"]}
    jsonschema.Draft202012Validator(data).validate(reply["data"])


@pytest.mark.parametrize(("plane", "name", "of"), MESSAGES)
def test_each_message_says_what_it_is(plane: Plane, name: str, of: type[Message]) -> None:
    assert reference.says(of), f"{of.__name__} needs a docstring: the page and the schema show it"


def test_each_error_code_says_what_to_do() -> None:
    assert page.RETRY_WORDS.keys() == commands.RETRY.keys()


def test_a_changed_part_makes_the_page_stale(tmp_path: Path) -> None:
    copy = tmp_path / "protocol.md"
    copy.write_text(page.PAGE.read_text("utf-8").replace("| `seq` |", "| `sequence` |", 1), "utf-8")

    assert page.stale(copy) == ["protocol.md"]

    page.write(copy)
    assert copy.read_text("utf-8") == page.PAGE.read_text("utf-8")


def test_an_unknown_mark_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown mark 'weather'"):
        page.render("<!-- made: weather -->\n<!-- end -->\n")


def test_links_within_the_page_lead_somewhere() -> None:
    text = page.PAGE.read_text("utf-8")
    headings = {
        line.lstrip("# ").lower().replace(" ", "-").replace(":", "").replace("`", "")
        for line in text.splitlines()
        if line.startswith("#")
    }
    links = {part.split(")")[0] for part in text.split("](#")[1:]}

    assert links - headings == set()


def test_the_note_under_a_field_is_its_description() -> None:
    found = {field.name: field for field in reference.fields(commands.Command)}
    schema = _REGISTRY["commands.json"]["oneOf"][0]

    assert found["id"].note == "A ULID or UUID of the client's."
    assert schema["properties"]["id"]["description"] == "A ULID or UUID of the client's."


_REGISTRY: dict[str, Any] = json.loads(schemas.render(schemas.every()))
