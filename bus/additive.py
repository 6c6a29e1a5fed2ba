"""Whether the schemas of today still keep the promises of the version 1 that was published.

python -P -m voicebus.bus.additive            say what breaks them, exit 1 if anything does
python -P -m voicebus.bus.additive --accept   publish today's as version 1: before a release only

Within a version, changes are additive: docs/protocol.md, "Versions".
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from voicebus.bus import schemas

BASELINE = schemas.FOLDER / "baseline" / "v1.json"
CLOSED = frozenset({"code"})
"""Fields whose list of values is closed: error codes."""
Schema = Mapping[str, Any]


def breaks(published: Mapping[str, Schema], now: Mapping[str, Schema]) -> list[str]:
    """One sentence per broken promise; empty when all changes are additive."""
    found = []
    for name, old in published.items():
        if name not in now:
            found.append(f"{name}: the whole file is gone")
            continue
        found += _definitions(name, old, now[name])
        found += _alternatives(name, old, now[name])
        found += _answers(name, old, now[name])
        found += _channels(name, old, now[name])
    return found


def _answers(file: str, old: Schema, new: Schema) -> Iterator[str]:
    """What the data of a reply is, by command."""
    for command, ref in old.get("x-data", {}).items():
        if new.get("x-data", {}).get(command) != ref:
            yield f"{file}: the reply to {command} no longer holds {ref.rpartition('/')[2]}"


def _channels(file: str, old: Schema, new: Schema) -> Iterator[str]:
    """Where messages travel: a peer that was written for it must still find them there."""
    for name, channel in old.get("channels", {}).items():
        other = new.get("channels", {}).get(name)
        if other is None:
            yield f"{file}: channel {name} is gone"
            continue
        before = {"address": channel["address"], **channel["x-zmq"]}
        now = {"address": other["address"], **other["x-zmq"]}
        for field in ("address", "socket", "peer", "bind", "endpoint", "frames"):
            if before[field] != now[field]:
                yield f"{file}: {field} of {name} was {before[field]!r} and is {now[field]!r}"
        for message in channel["messages"].keys() - other["messages"].keys():
            yield f"{file}: {message} no longer travels on {name}"


def _definitions(file: str, old: Schema, new: Schema) -> Iterator[str]:
    for name, definition in old.get("$defs", {}).items():
        other = new.get("$defs", {}).get(name)
        if other is None:
            yield f"{file}: {name} is gone"
        else:
            yield from _objects(f"{file}: {name}", definition, other)


def _alternatives(file: str, old: Schema, new: Schema) -> Iterator[str]:
    """Kinds of events, commands: by title."""
    others = {one.get("title"): one for one in new.get("oneOf", ())}
    for one in old.get("oneOf", ()):
        other = others.get(one.get("title"))
        if other is None:
            yield f"{file}: {one.get('title')} is gone"
        else:
            yield from _objects(f"{file}: {one.get('title')}", one, other)


def _objects(where: str, old: Schema, new: Schema) -> Iterator[str]:
    properties = new.get("properties", {})
    for name, schema in old.get("properties", {}).items():
        if name not in properties:
            yield f"{where}.{name} is gone"
        else:
            yield from _values(f"{where}.{name}", name, schema, properties[name])
    before, now = set(old.get("required", ())), set(new.get("required", ()))
    for name in sorted(now - before):
        yield f"{where}.{name} is required now: give it a default"
    for name in sorted(before - now):
        yield f"{where}.{name} was always there and may be left out now"


def _values(where: str, field: str, old: Schema, new: Schema) -> Iterator[str]:
    """A field's type may only gain alternatives and names."""
    kept, gained = _flat(old), _flat(new)
    for value in kept.names - gained.names:
        if "string" not in gained.shapes:
            yield f"{where} can no longer be {value}"
    if field in CLOSED and gained.names - kept.names:
        yield f"{where}: its list is closed; new is {', '.join(sorted(gained.names - kept.names))}"
    for shape in sorted(kept.shapes - gained.shapes):
        yield f"{where} can no longer be {shape}"
    if not kept.names or kept.shapes:
        for shape in sorted(gained.shapes - kept.shapes):
            yield f"{where} can be {shape} now; receivers do not expect that"
    if old.get("default") != new.get("default"):
        yield f"{where}: its default was {old.get('default')!r} and is {new.get('default')!r}"


class _Flat:
    """What a value may be: named constants, and shapes."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.shapes: set[str] = set()


def _flat(schema: Schema) -> _Flat:
    flat = _Flat()
    _flatten(schema, flat)
    return flat


def _flatten(schema: Schema, into: _Flat) -> None:
    if "anyOf" in schema:
        for one in schema["anyOf"]:
            _flatten(one, into)
    elif "enum" in schema:
        into.names |= {json.dumps(value) for value in schema["enum"]}
    elif "const" in schema:
        into.names.add(json.dumps(schema["const"]))
        into.shapes |= {schema["type"]} if "type" in schema else set()
    elif "$ref" in schema:
        into.shapes.add(str(schema["$ref"]))
    elif schema.get("type") == "array":
        item = _flat(schema.get("items", {}))
        if item.names:
            into.shapes.add("list of names")
            into.names |= item.names
        for shape in item.shapes:
            into.shapes.add(f"list of {shape}")
    elif isinstance(schema.get("additionalProperties"), dict):
        values = _flat(schema["additionalProperties"])
        into.shapes |= {f"object of {one}" for one in values.shapes | values.names}
    else:
        into.shapes.add(str(schema.get("type", "anything")))


def published() -> dict[str, Schema]:
    """The schemas of the version 1 that was published."""
    found: dict[str, Schema] = json.loads(BASELINE.read_text("utf-8"))
    return found


def today() -> dict[str, Schema]:
    """The schemas of the types as they are, as plain JSON."""
    found: dict[str, Schema] = json.loads(schemas.render(schemas.every()))
    return found


def main() -> int:
    """The command line."""
    if "--accept" in sys.argv[1:]:
        BASELINE.parent.mkdir(exist_ok=True)
        BASELINE.write_text(schemas.render(schemas.every()), "utf-8")
        return 0
    found = breaks(published(), today())
    sys.stderr.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
