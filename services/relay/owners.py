"""Which client opened which session: kept in a file, so that a restarted relay still knows."""

from pathlib import Path

KEPT = 20_000


class Owners:
    """Appends a line for each; the file is begun anew, with the newest, at a start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._of: dict[str, set[str]] = {}
        lines = path.read_text("utf-8").splitlines()[-KEPT:] if path.exists() else []
        for line in lines:
            client, _, session_id = line.partition(" ")
            self._of.setdefault(client, set()).add(session_id)
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def of(self, client: str) -> set[str]:
        """The sessions that this client opened."""
        return self._of.get(client, set())

    def add(self, client: str, session_id: str) -> None:
        """It opened one."""
        if session_id not in self._of.setdefault(client, set()):
            self._of[client].add(session_id)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{client} {session_id}\n")
