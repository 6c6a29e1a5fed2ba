"""Whether what the tests see and send is what the published schemas promise."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from voicebus.bus import schemas
from voicebus.bus.messages.base import encode
from voicebus.bus.sockets import Dealer, Frames
from voicebus.client import commands, feed, session, voice

ENOUGH = 300
"""So many of each kind are checked per test: a flood would take its time."""

Schema = dict[str, Any]


def _read(name: str) -> Schema:
    """As committed, not as generated: what a stranger has."""
    found: Schema = json.loads((Path(schemas.FOLDER) / name).read_text("utf-8"))
    return found


def _alternatives(file: str, tag: str) -> dict[str, jsonschema.Draft202012Validator]:
    """One validator for each kind: quicker than trying all of them, and the errors are better."""
    whole = _read(file)
    return {
        one["properties"][tag]["const"]: jsonschema.Draft202012Validator(
            {**one, "$defs": whole["$defs"]}
        )
        for one in whole["oneOf"]
    }


def _answers() -> dict[str, jsonschema.Draft202012Validator]:
    """What a reply holds, by the command it answers."""
    whole = _read("replies.json")
    return {
        command: jsonschema.Draft202012Validator({"$ref": ref, "$defs": whole["$defs"]})
        for command, ref in whole["x-data"].items()
    }


class Published:
    """Collects what does not follow the schemas."""

    events = _alternatives("events.json", "kind")
    commands = _alternatives("commands.json", "command")
    replies = jsonschema.Draft202012Validator(_read("replies.json"))
    answers = _answers()
    refusals = jsonschema.Draft202012Validator(_read("remote.json"))
    sound = jsonschema.Draft202012Validator(_read("sound.json"))
    sound_in = jsonschema.Draft202012Validator(_read("sound.json")["$defs"]["SoundIn"])

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.seen: Counter[str] = Counter()

    def check(self, lane: str, raw: bytes) -> None:
        """A header as it came or went."""
        try:
            header = json.loads(raw)
            kind = str(header.get("kind", header.get("command", "")))
        except (ValueError, AttributeError):
            return  # tests send garbage, too; that is refused, not described
        self.seen[f"{lane} {kind}"] += 1
        if self.seen[f"{lane} {kind}"] > ENOUGH:
            return
        validator = self._validator(lane, kind)
        if validator is None:
            if lane == "event":
                self.faults.append(f"{lane}: no schema for {kind!r}: {raw[:300]!r}")
            return
        for error in validator.iter_errors(header):
            place = "/".join(map(str, error.absolute_path))
            self.faults.append(f"{lane} {kind} at {place}: {error.message[:200]}")

    def check_answer(self, asked: bytes, data: Any) -> None:
        """What an ok reply to this command holds."""
        command = json.loads(asked)["command"]
        if command not in self.answers:
            if data is not None:
                self.faults.append(f"reply to {command}: holds what no schema tells: {data!r:.200}")
            return
        for error in self.answers[command].iter_errors(data):
            place = "/".join(map(str, error.absolute_path))
            self.faults.append(f"reply to {command} at {place}: {error.message[:200]}")

    def _validator(self, lane: str, kind: str) -> jsonschema.Draft202012Validator | None:
        match lane:
            case "event" if kind == "subscription_refused":
                return self.refusals
            case "event":
                return self.events.get(kind)
            case "command":
                return self.commands.get(kind)
            case "reply":
                return self.replies
            case "sound-in":
                return self.sound_in
            case _:
                return self.sound


@contextmanager
def watching(patch: pytest.MonkeyPatch) -> Iterator[Published]:
    """All that the SDK sends and gets in this process goes through the schemas."""
    published = Published()
    once, received = commands.Commander._once, commands.Commander._received
    receive, sound = feed.Feed.receive, session.RealtimeSession._sound_frames

    asked: dict[str, bytes] = {}

    async def ask(self: Any, to: Dealer, id: str, frames: Frames, wait_s: float) -> Any:
        asked[id] = frames[0]
        return await once(self, to, id, frames, wait_s)

    def answered(self: Any, shard: int, frames: Frames) -> None:
        published.check("reply", frames[-1])
        reply = json.loads(frames[-1])
        if reply["ok"] and reply["id"] in asked:  # tests send wrong ones on purpose
            command = asked.pop(reply["id"])
            published.check("command", command)
            published.check_answer(command, reply["data"])
        received(self, shard, frames)

    def happened(self: Any, raw: bytes) -> None:
        published.check("event", raw)
        receive(self, raw)

    def spoke(header: Any) -> bytes:
        raw = encode(header)
        published.check("sound-in", raw)
        return raw

    def heard(self: Any, frames: list[bytes]) -> None:
        published.check("sound", frames[1])
        sound(self, frames)

    patch.setattr(commands.Commander, "_once", ask)
    patch.setattr(commands.Commander, "_received", answered)
    patch.setattr(feed.Feed, "receive", happened)
    patch.setattr(voice, "encode", spoke)
    patch.setattr(session.RealtimeSession, "_sound_frames", heard)
    yield published
    told = "\n  ".join(["not as schemas/ has it:", *published.faults[:5]])
    assert not published.faults, told
