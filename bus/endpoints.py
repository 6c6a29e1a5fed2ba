"""Where the sockets are: ipc files in the run folder, named by role and instance."""

from pathlib import Path

from voicebus.bus import ids

PATH_LIMIT_BYTES = 100
"""A Unix socket's path fits in 107 bytes; we keep some for the names."""


class BadRunFolder(ValueError):
    """The run folder cannot hold sockets. The text says why and what to do."""


class Endpoints:
    """All addresses of one run folder."""

    def __init__(self, run_dir: str | Path) -> None:
        """Raises BadRunFolder when the paths would be too long for a Unix socket."""
        if not str(run_dir):
            raise BadRunFolder("the run folder has no name; set --run-dir or VOICEBUS_RUN")
        self.run_dir = Path(run_dir).absolute()
        self._base = f"ipc://{self.run_dir}/"
        longest = len(bytes(self.run_dir / "transport-00.audio-out"))
        if longest > PATH_LIMIT_BYTES:
            raise BadRunFolder(
                f"the run folder's path is too long for Unix sockets: {self.run_dir} "
                f"({longest} bytes with a socket's name, the limit is {PATH_LIMIT_BYTES}); "
                "choose a shorter one with --run-dir or VOICEBUS_RUN"
            )

    def shards(self) -> tuple[int, ...]:
        """The session processes whose sockets are there now, whether or not they answer."""
        return self._there("session", "commands")

    def transports(self) -> tuple[int, ...]:
        """The same of the transports."""
        return self._there("transport", "link")

    def _there(self, role: str, socket: str) -> tuple[int, ...]:
        names = (path.stem for path in self.run_dir.glob(f"{role}-*.{socket}"))
        numbers = (name.removeprefix(f"{role}-") for name in names)
        return tuple(sorted(int(number) for number in numbers if number.isdecimal()))

    def _ipc(self, name: str) -> str:
        return self._base + name

    def commands(self, shard: int) -> str:
        """The session's ROUTER for commands."""
        return self._ipc(f"session-{shard}.commands")

    def events(self, shard: int) -> str:
        """The session's publisher of events, cancels and raw frames."""
        return self._ipc(f"session-{shard}.events")

    def link(self, transport: int) -> str:
        """The transport's ROUTER for session processes."""
        return self._ipc(f"transport-{transport}.link")

    def audio_in(self, transport: int) -> str:
        """The transport's ROUTER for callers' sound."""
        return self._ipc(f"transport-{transport}.audio-in")

    def audio_out(self, transport: int) -> str:
        """The transport's publisher of assistants' sound."""
        return self._ipc(f"transport-{transport}.audio-out")

    @property
    def calls(self) -> str:
        """The dispatcher's ROUTER for session processes."""
        return self._ipc("tools.calls")

    @property
    def workers(self) -> str:
        """The dispatcher's ROUTER for workers."""
        return self._ipc("tools.workers")

    def state(self, role: str, instance: int) -> str:
        """A role's publisher of its own state."""
        return self._ipc(f"{role}-{instance}.state")

    def lock(self, role: str, instance: int) -> Path:
        """The file that is locked while that role runs."""
        return self.run_dir / f"{role}-{instance}.lock"

    def of_session(self, session_id: str) -> tuple[str, str]:
        """Commands and events endpoint of a session. Raises ValueError for a malformed id."""
        shard = ids.shard_of(session_id)
        if shard is None:
            raise ValueError(f"{session_id!r} is no session id (s<shard>-<26 characters>)")
        return self.commands(shard), self.events(shard)

    def every(self, shards: int = 1, transports: int = 1, toolhosts: int = 1) -> dict[str, str]:
        """Name -> address of all sockets of such a cell."""
        found: dict[str, str] = {}
        for n in range(shards):
            found[f"session-{n}.commands"] = self.commands(n)
            found[f"session-{n}.events"] = self.events(n)
        for n in range(transports):
            found[f"transport-{n}.link"] = self.link(n)
            found[f"transport-{n}.audio-in"] = self.audio_in(n)
            found[f"transport-{n}.audio-out"] = self.audio_out(n)
        found["tools.calls"] = self.calls
        found["tools.workers"] = self.workers
        counts = {
            "session": shards,
            "transport": transports,
            "dispatcher": 1,
            "toolhost": toolhosts,
            "health": 1,
        }
        for role, count in counts.items():
            for n in range(count):
                found[f"{role}-{n}.state"] = self.state(role, n)
        return found
