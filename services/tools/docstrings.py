"""What a docstring says to a model: the first paragraph, and a line for each parameter. Pure."""

import inspect
import re
from dataclasses import dataclass

_GOOGLE_SECTION = re.compile(r"^(Args|Arguments|Parameters):\s*$")
_ANY_SECTION = re.compile(r"^[A-Z][A-Za-z ]*:\s*$")
_GOOGLE_ITEM = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_FIELD = re.compile(r"^:(\w+)(?:\s+[^:]*?(\w+))?\s*:\s*(.*)$")


@dataclass(frozen=True)
class Documentation:
    """A docstring, taken apart."""

    summary: str
    parameters: dict[str, str]


def read(docstring: str | None) -> Documentation:
    """The first paragraph in one line, and the parameters of `Args:` or `:param x:`."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    summary: list[str] = []
    for line in lines:
        if not line.strip():
            if summary:
                break
            continue
        if _FIELD.match(line) or _ANY_SECTION.match(line):
            break
        summary.append(line.strip())
    return Documentation(" ".join(summary), _google(lines) | _fields(lines))


def _google(lines: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    inside = False
    item_indent: int | None = None
    current: list[str] = []
    for line in lines:
        if _GOOGLE_SECTION.match(line):
            inside, item_indent = True, None
            continue
        if not inside or not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            inside = False
            continue
        item_indent = indent if item_indent is None else item_indent
        item = _GOOGLE_ITEM.match(line.strip())
        if indent <= item_indent and item:
            current = found.setdefault(item[1], [])
            current.append(item[2])
        else:
            current.append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}


def _fields(lines: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        field = _FIELD.match(line.strip())
        if field:
            # ":param str city: ..." names the type before the parameter.
            current = found.setdefault(field[2], []) if field[1] == "param" and field[2] else None
            if current is not None:
                current.append(field[3])
        elif current is not None and line.startswith((" ", "\t")):
            current.append(line.strip())
        else:
            current = None
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}
