"""The generated parts of docs/protocol.md: sockets, fields, examples, from the types.

Written by people, the page holds marks, and what stands between two of them is made here:

    <!-- made: event session_opened -->
    …
    <!-- end -->
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from voicebus.bus import reference
from voicebus.bus.messages import commands, events, sound, work
from voicebus.bus.messages.base import Message
from voicebus.bus.planes import BY_NAME, PLANES, Plane

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
MADE = re.compile(r"(<!-- made: (?P<what>[^>]*?) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)

RETRY_WORDS = {
    "bad_request": "Never helps; the message names the field. Change the command.",
    "unsupported": "Never helps: this provider or this version cannot do it.",
    "not_allowed": "Never helps: your key or token has no right to it.",
    "no_such_session": "Never helps: nobody has heard of it.",
    "moved": "Ask the session process that the message names; the session's id says which.",
    "gone": "Never helps: it was there and is over, or no longer kept. For `replay`: take a "
    "`snapshot`.",
    "busy": "Helps, after `after_ms`: a limit is reached, the message says which.",
    "draining": "Helps, after `after_ms`: this process is being stopped; another takes over.",
    "conflict": "Never helps: this id was used for another body (choose a new id), or what it is "
    "about has been decided already: no such call waits for an output or for `approve`, an item of "
    "that id is there. The message says which.",
    "timeout": "Helps: nobody below answered in time.",
    "provider_error": "Does not help as it stands: the provider refused it.",
    "tool_unavailable": "Helps once a worker with that tool is there.",
    "internal": "Does not help: a bug of ours, in the log.",
}


def render(text: str) -> str:
    """The page with its generated parts made anew. Raises ValueError for an unknown mark."""
    return MADE.sub(lambda found: found[1] + _make(found["what"]) + found[4], text)


def stale(path: Path = PAGE) -> list[str]:
    """The page's name if its generated parts are not those of the types."""
    text = path.read_text("utf-8")
    return [] if render(text) == text else [path.name]


def write(path: Path = PAGE) -> None:
    """Make the generated parts anew."""
    path.write_text(render(path.read_text("utf-8")), "utf-8")


def undocumented(path: Path = PAGE) -> list[str]:
    """Planes whose messages have no mark on the page."""
    marks = {found["what"] for found in MADE.finditer(path.read_text("utf-8"))}
    wanted = {f"messages {plane.name}" for plane in PLANES if plane.name not in ("replies",)}
    return sorted((wanted | {"answers"}) - marks)


def _make(what: str) -> str:
    name, _, rest = what.partition(" ")
    makers: dict[str, Callable[[str], str]] = {
        "sockets": lambda _: _sockets(),
        "messages": lambda plane: _messages(BY_NAME[plane]),
        "fields": lambda type_name: _fields(_TYPES[type_name]),
        "answers": lambda _: _answers(),
        "errors": lambda _: _errors(),
        "event": _whole_event,
    }
    if name not in makers:
        raise ValueError(f"{PAGE.name}: unknown mark {what!r} (known: {', '.join(makers)})")
    return makers[name](rest)


_TYPES: dict[str, type[Message]] = {
    one.__name__: one
    for one in (
        events.EventHeader,
        events.Usage,
        commands.Command,
        commands.Reply,
        commands.CommandError,
        commands.SessionLine,
        commands.LinkShown,
        commands.ItemShown,
        commands.CallShown,
        commands.ResponseShown,
        commands.SessionConfig,
        commands.ServerVad,
        commands.SemanticVad,
        commands.Filler,
        sound.SoundIn,
        work.ToolSpec,
        work.Failure,
        work.CallRef,
    )
}


def _whole_event(kind: str) -> str:
    whole = example_of(BY_NAME["event"], kind, events.EVENTS[kind])
    return f"```json\n{json.dumps(whole, ensure_ascii=False, indent=2)}\n```\n"


def _sockets() -> str:
    lines = [
        "| traffic | Voicebus | you | who binds | endpoint | topic | frames | in `schemas/` |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for plane in PLANES:
        topic = f"`{plane.address}`" if plane.address else "none"
        frames = " · ".join(plane.frames)
        lines.append(
            f"| {plane.name} | {plane.socket} | {plane.peer} | {plane.binds} "
            f"| `{plane.endpoint}` | {topic} | {frames} | `{plane.file}` |"
        )
    lines.append("")
    lines += [f"- **{one.name}**: {one.why}." for one in PLANES if "way back" not in one.why]
    return "\n".join(lines) + "\n"


def _messages(plane: Plane) -> str:
    parts = []
    for name, of in plane.messages.items():
        parts.append(f"#### `{name}`\n\n{reference.says(of)}\n")
        table = _fields(of)
        if table:
            parts.append(table)
        parts.append(f"```json\n{_example(plane, name, of)}\n```\n")
    return "\n".join(["", *parts])


def _fields(of: type[Message]) -> str:
    found = reference.fields(of)
    if not found:
        return ""
    lines = ["| field | type | default | |", "| --- | --- | --- | --- |"]
    for field in found:
        default = "required" if field.default is None else f"`{field.default}`"
        lines.append(
            f"| `{field.name}` | {field.type} | {default} | {field.note.replace('None', 'null')} |"
        )
    return "\n".join(lines).replace(" |  |", " | |") + "\n"


def _answers() -> str:
    parts = [""]
    for of in dict.fromkeys(commands.ANSWERS.values()):
        names = [name for name, one in commands.ANSWERS.items() if one is of]
        told = ", ".join(f"`{name}`" for name in names)
        parts.append(f"#### To {told}\n\n{reference.says(of)}\n")
        parts.append(_fields(of))
        parts.append(f"```json\n{json.dumps(answer_of(names[0]), ensure_ascii=False)}\n```\n")
    return "\n".join(parts)


def answer_of(command: str) -> dict[str, Any]:
    """A whole reply to this command, as it would stand on the wire."""
    data = reference.example(commands.ANSWERS[command])
    seq = reference.SAMPLES["seq"] if command == "interrupt" else None
    found: dict[str, Any] = msgspec.to_builtins(
        commands.Reply(id=reference.COMMAND, ok=True, seq=seq, data=data)
    )
    return found


def _errors() -> str:
    lines = ["| code | retry | what to do |", "| --- | --- | --- |"]
    for code, retry in commands.RETRY.items():
        lines.append(f"| `{code}` | {'yes' if retry else 'no'} | {RETRY_WORDS[code]} |")
    return "\n".join(lines) + "\n"


def example_of(plane: Plane, name: str, of: type[Message]) -> dict[str, Any]:
    """A whole header of this message, as it would stand on the wire."""
    if plane.name == "event":
        header = reference.example(events.EventHeader)
        numbered = name not in ("head", "welcome")
        if not numbered:
            header["cause"] = None
        return header | {
            "kind": name,
            "seq": header["seq"] if numbered else None,
            "prev": header["prev"] if numbered else None,
            "data": reference.example(of),
        }
    if plane.name == "commands":
        envelope = reference.example(commands.Command)
        if name in commands.SHARD_COMMANDS:
            envelope["session_id"] = envelope["token"] = None
        return envelope | {"command": name, "data": reference.example(of)}
    return reference.example(of)


def _example(plane: Plane, name: str, of: type[Message]) -> str:
    """On one line; of an event its data, since the header around it is always the same."""
    whole = example_of(plane, name, of)
    shown = whole["data"] if plane.name == "event" else whole
    return json.dumps(shown, ensure_ascii=False)
