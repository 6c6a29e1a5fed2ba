"""Which client opened which session: kept in a file, so that a restarted relay still knows."""

import os
from pathlib import Path

KEPT = 20_000


class Owners:
    """Appends a line for each; at a start the oldest go, if there are too many."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self._of: dict[str, set[str]] = {}
        text = path.read_text("utf-8") if path.exists() else ""
        lines = text.splitlines()[-KEPT:]
        for line in lines:
            client, _, session_id = line.partition(" ")
            self._of.setdefault(client, set()).add(session_id)
        tidy = "".join(f"{line}\n" for line in lines)
        if tidy != text:
            # Replaced at once: a full disk would leave nothing of a file that is written anew.
            new = path.with_suffix(".new")
            new.write_text(tidy, "utf-8")
            os.replace(new, path)

    def of(self, client: str) -> set[str]:
        """The sessions that this client opened."""
        return self._of.get(client, set())

    def add(self, client: str, session_id: str) -> None:
        """It opened one. Raises OSError when only this relay will know."""
        if session_id not in self._of.setdefault(client, set()):
            self._of[client].add(session_id)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{client} {session_id}\n")
