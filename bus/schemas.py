"""JSON Schema and AsyncAPI of everything on the bus, generated from the types into `schemas/`.

The generated parts of docs/protocol.md come with them.

python -P -m voicebus.bus.schemas           write them
python -P -m voicebus.bus.schemas --check   say what is stale, exit 1 if anything is
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from voicebus.bus import asyncapi, page, reference
from voicebus.bus.messages import commands, events, link, raw, remote, sound, system, work
from voicebus.bus.messages.base import Message, wire_name

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).resolve().parent.parent / "schemas"


def every() -> dict[str, dict[str, Any]]:
    """File name -> schema."""
    return {
        "events.json": _events(),
        "commands.json": _commands(),
        "replies.json": _replies(),
        "cancel.json": _plane("The cancel broadcast", events.Cancel),
        "sound.json": _plane(
            "Headers of the audio lane",
            sound.AssistantAudioDelta,
            sound.AudioEnd,
            sound.AudioFlush,
            sound.CallerAudio,
            sound.SoundIn,
            sound.SoundWelcome,
        ),
        "link-down.json": _union("From a session process to its transport", link.ANY_DOWN),
        "link-up.json": _union("From a transport to a session process", link.ANY_UP),
        "calls-down.json": _union("From a session to the dispatcher", work.ANY_TO_DISPATCHER),
        "calls-up.json": _union("From the dispatcher to a session", work.ANY_FROM_DISPATCHER),
        "worker-down.json": _union("From the dispatcher to a worker", work.ANY_FROM_POOL),
        "worker-up.json": _union("From a worker to the dispatcher", work.ANY_TO_POOL),
        "system.json": _plane(
            "What every role says of itself",
            system.State,
            sound.SoundRefused,
            system.ProcessReport,
            system.PoolReport,
        ),
        "raw.json": _plane("The raw lane", raw.RawFrame),
        "remote.json": _plane("What the relay tells subscribers", remote.SubscriptionRefused),
        "asyncapi.json": asyncapi.document(),
    }


def _components(*types: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    refs, defs = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    for name, note in reference.notes_by_type(defs).items():
        for field, schema in defs[name]["properties"].items():
            if field in note:
                # Beside a $ref or an anyOf a description is allowed, and means this field.
                defs[name]["properties"][field] = {**schema, "description": note[field]}
    for definition in defs.values():
        if "description" in definition:
            # Up to Python 3.12 a docstring keeps its indentation, from 3.13 on it does not.
            definition["description"] = inspect.cleandoc(definition["description"])
        _fix_kind(definition)
    return list(refs), defs


def _fix_kind(definition: dict[str, Any]) -> None:
    """A message that has a `kind` of its own has no other: one alternative fits, not several."""
    kind = definition.get("properties", {}).get("kind", {})
    if "default" in kind:
        kind["const"] = kind["default"]


def _replies() -> dict[str, Any]:
    """The reply; `x-data` says what its `data` is, by command."""
    data = commands.ANSWERS
    refs, defs = _components(commands.Reply, *data.values())
    of_commands = dict(zip(data, (ref["$ref"] for ref in refs[1:]), strict=True))
    return {
        "$schema": DIALECT,
        "title": "Replies to commands",
        **refs[0],
        "x-data": of_commands,
        "$defs": defs,
    }


def _plane(title: str, *types: type[Message]) -> dict[str, Any]:
    refs, defs = _components(*types)
    body = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"$schema": DIALECT, "title": title, **body, "$defs": defs}


def _union(title: str, union: Any) -> dict[str, Any]:
    return _plane(title, *get_args(union))


def _events() -> dict[str, Any]:
    """Each kind is the header with its own `data`."""
    types = list(events.EVENTS.values())
    refs, defs = _components(events.EventHeader, *types)
    header = defs.pop("EventHeader")
    kinds: list[dict[str, Any]] = []
    for one, ref in zip(types, refs[1:], strict=True):
        kind = wire_name(one)
        properties = {**header["properties"], "kind": {"const": kind}, "data": ref}
        title = f"{kind} on event/<session_id>/{kind}"
        kinds.append(
            {"title": title, "type": "object", "properties": properties, "required": _required()}
        )
    return {"$schema": DIALECT, "title": "The event lane", "oneOf": kinds, "$defs": defs}


def _required() -> list[str]:
    return ["v", "kind", "session_id", "inc", "at_us", "data"]


def _commands() -> dict[str, Any]:
    """Each command is the envelope with its own `data`."""
    types = list(commands.COMMANDS.values())
    refs, defs = _components(commands.Command, *types, commands.SessionConfig)
    envelope = defs.pop("Command")
    known: list[dict[str, Any]] = []
    for one, ref in zip(types, refs[1:-1], strict=True):
        name = wire_name(one)
        properties = {**envelope["properties"], "command": {"const": name}, "data": ref}
        required = ["id", "command"]
        if name not in commands.SHARD_COMMANDS:
            required.append("session_id")
        known.append(
            {"title": name, "type": "object", "properties": properties, "required": required}
        )
    return {"$schema": DIALECT, "title": "Commands", "oneOf": known, "$defs": defs}


def render(schema: dict[str, Any]) -> str:
    """As it is committed: stable, readable, one newline at the end."""
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def stale(folder: Path = FOLDER) -> list[str]:
    """The names of files that are missing, different, or no longer made."""
    wanted = {name: render(schema) for name, schema in every().items()}
    found = {path.name: path.read_text("utf-8") for path in folder.glob("*.json")}
    return sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )


def write(folder: Path = FOLDER) -> None:
    """All of them, and nothing else."""
    for name in stale(folder):
        (folder / name).unlink(missing_ok=True)
    for name, schema in every().items():
        (folder / name).write_text(render(schema), "utf-8")


def main() -> int:
    """The command line."""
    if "--check" in sys.argv[1:]:
        outdated = [*stale(), *page.stale()]
        if outdated:
            sys.stderr.write(
                f"stale: {', '.join(outdated)}; run: python -P -m voicebus.bus.schemas\n"
            )
        return 1 if outdated else 0
    write()
    page.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
