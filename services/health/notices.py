"""supervisord's notices to event listeners: their lines taken apart. Pure."""

import re
from dataclasses import dataclass

READY = b"READY\n"
DONE = b"RESULT 2\nOK"


@dataclass(frozen=True)
class Notice:
    """Something that supervisord saw."""

    what: str
    """PROCESS_STATE_EXITED, SUPERVISOR_STATE_CHANGE_STOPPING, …"""
    process: str = ""
    pid: int | None = None


class Inbox:
    """Bytes in, whole notices out."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, piece: bytes) -> list[Notice]:
        """The notices that are complete now."""
        self._rest += piece
        found = []
        while b"\n" in self._rest:
            line, _, rest = self._rest.partition(b"\n")
            header = _fields(line.decode("utf-8", "replace"))
            length = int(header.get("len", "0"))
            if len(rest) < length:
                break
            body = _fields(rest[:length].decode("utf-8", "replace"))
            self._rest = rest[length:]
            pid = body.get("pid", "")
            found.append(
                Notice(
                    what=header.get("eventname", ""),
                    process=body.get("processname", ""),
                    pid=int(pid) if pid.isdigit() else None,
                )
            )
        return found


def _fields(line: str) -> dict[str, str]:
    return dict(pair.split(":", 1) for pair in line.split() if ":" in pair)


_EXITED = re.compile(
    r"exited: (?P<name>\S+) \((?:terminated by (?P<signal>[^;)(]+)|exit status (?P<code>\d+))"
)


@dataclass(frozen=True)
class End:
    """How a process ended."""

    exit_code: int | None
    signal: str | None

    @property
    def words(self) -> str:
        """For people."""
        if self.signal is not None:
            return f"terminated by {self.signal}"
        return "it ended" if self.exit_code is None else f"exit status {self.exit_code}"


def end_of(process: str, log: list[str]) -> End:
    """The last end of that process in supervisord's log: its events do not tell how."""
    for line in reversed(log):
        match = _EXITED.search(line)
        if match is not None and match["name"] == process:
            code = match["code"]
            name = match["signal"].split()[0] if match["signal"] else None
            return End(int(code) if code else None, name)
    return End(None, None)
