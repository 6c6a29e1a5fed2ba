"""The peers, and the programs that hold a client's calls: one for each call, or one for all."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

from voicebus.benchmarks.harness import HERE, SHARED, App, Broken, Provider

ENVIRONMENTS = HERE / ".venvs"
AT_ONCE = 4
"""How many programs start at the same time: each burns a core for seconds while it imports."""


class Peer(NamedTuple):
    """How a peer is run."""

    environment: str
    program: str
    style: str = ""
    """Of its tools."""
    together: bool = False
    """All calls in one process, where its program can hold several."""
    joins: int = 1
    """How many of the caller's frames it puts into one message; the first one's stamp is seen."""
    up_to: float = math.inf
    """Calls at once: a variant of how tools run says nothing more with many calls."""


PEERS = {
    "mojentic": Peer("mojentic", "mojentic_client.py"),
    "mojentic, one process": Peer("mojentic", "mojentic_client.py", together=True),
    "openai-agents": Peer("openai-agents", "openai_agents_client.py"),
    "openai-agents, one process": Peer("openai-agents", "openai_agents_client.py", together=True),
    "pipecat": Peer("pipecat", "pipecat_client.py"),
    "pipecat, in threads": Peer("pipecat", "pipecat_client.py", "threads", up_to=20),
    "livekit": Peer("livekit", "livekit_client.py", joins=5),
    "livekit, in threads": Peer("livekit", "livekit_client.py", "threads", joins=5, up_to=20),
}


def start(provider: Provider, name: str, calls: int = 1, *, talk: bool = False) -> App:
    """One program of a peer with so many calls. Raises Broken."""
    peer = PEERS[name]
    python = ENVIRONMENTS / peer.environment / "bin" / "python"
    if not python.is_file():
        failed = ENVIRONMENTS / f"{peer.environment}.failed"
        why = (
            failed.read_text("utf-8").strip()[-300:]
            if failed.is_file()
            else "run: make bench-peers"
        )
        raise Broken(f"{name} is not installed: {why}")
    return App(
        [str(python), str(HERE / "peers" / peer.program)],
        url=provider.url,
        talk=talk,
        style=peer.style,
        sessions=calls,
        environment={**os.environ, "PYTHONPATH": str(SHARED), "OPENAI_API_KEY": "none"},
    )


def versions() -> dict[str, str]:
    """What is installed, by environment."""
    found = {}
    for environment in dict.fromkeys(one[0] for one in PEERS.values()):
        for path in sorted(
            ENVIRONMENTS.glob(f"{environment}/lib/python3*/site-packages/*.dist-info")
        ):
            name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
            if name.replace("_", "-") in (environment, "pipecat-ai", "livekit-agents"):
                found[name.replace("_", "-")] = version
    return found


class Crowd:
    """A client's programs, with as many calls as is said. They end with the context."""

    def __init__(
        self, provider: Provider, name: str, begin: Callable[[int], App], *, together: bool
    ) -> None:
        """`begin` starts a program with so many calls: `together` all of them, or else one."""
        self.name = name
        self.together = together
        self.apps: list[App] = []
        self._provider = provider
        self._begin = begin

    def become(self, calls: int) -> None:
        """Have so many calls, connected and configured, silent. Raises Broken.

        A program that holds all of them is another one for each number: `end` the former first.
        """
        if self.together:
            self.apps = [self._begin(calls)]
        else:
            self._end_from(calls)
            with ThreadPoolExecutor(AT_ONCE) as starting:
                missing = range(calls - len(self.apps))
                waiting = [starting.submit(self._begin, 1) for _ in missing]
            self.apps += [future.result() for future in waiting if future.exception() is None]
            for future in waiting:
                future.result()
        self._provider.until(calls, self.name)

    def end(self) -> None:
        """End all programs. Raises Broken when the provider still has a call of theirs."""
        self._end_from(0)
        self._provider.until(0, self.name)

    def _end_from(self, first: int) -> None:
        while len(self.apps) > first:
            app = self.apps.pop()
            try:
                app.stop()  # many calls take their time to close
            except Broken:
                app.process.kill()
                app.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
