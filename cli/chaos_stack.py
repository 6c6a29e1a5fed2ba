"""The stack that `voicebus chaos` torments: its own simulator, its own tools, and a wire to cut."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

from voicebus.cli.plan import Wish
from voicebus.config import extras

TOOLS = Path(__file__).with_name("chaos_tools.py")
SCENARIO = """
about = "What the talkers of chaos need to be answered: a call of each kind, tones in real time."

[[answer]]
when = { text = "long tone" }
say = "A tone as fast as it is played."
tone_ms = 1600
pace = 1.0

[[answer]]
when = { text = "short tone" }
say = "A short tone."
tone_ms = 200

[[answer]]
when = { text = "mark and look" }
call = [
    { name = "leave_mark", arguments = { seconds = 0.4 } },
    { name = "look_around", arguments = { seconds = 0.6 } },
]

[[answer]]
when = { text = "leave a mark" }
call = { name = "leave_mark", arguments = { seconds = 0.3 } }

[[answer]]
when = { text = "look around" }
call = { name = "look_around", arguments = { seconds = 1.0 } }
"""


class Wire:
    """Bytes between the transport and the provider, until somebody cuts it."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._lines: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self, port: int) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)

    def cut(self, chance: random.Random) -> int:
        """End some connections, or all, without a word. How many."""
        lines = sorted(self._lines, key=id)
        chosen = lines if chance.random() < 0.5 else chance.sample(lines, min(1, len(lines)))
        for line in chosen:
            line.transport.abort()
        return len(chosen)

    def close(self) -> None:
        """Cut everything and listen no more."""
        if self._server is not None:
            self._server.close()
        for line in tuple(self._lines):
            line.transport.abort()
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(one, other, (writer, back)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._lines.add(writer)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while piece := await source.read(65_536):
                    sink.write(piece)
                    await sink.drain()
        finally:  # also when it is cancelled: a writer that outlives its loop complains
            for line in both:
                self._lines.discard(line)
                line.transport.abort()


def has_web() -> bool:
    """Whether the gateway's packages are installed (extra `web`)."""
    return not extras.lacking(extras.WEB)


def recordings(run_dir: Path) -> Path:
    """Where the recorder of such a stack writes."""
    return run_dir / "recordings"


def with_doors(wish: Wish, run_dir: Path, gateway_port: int | None) -> Wish:
    """The same with a recorder, and a gateway at that port."""
    more = {
        "VOICEBUS_RECORDER_FOLDER": str(recordings(run_dir)),
        "VOICEBUS_RECORDER_KEEP_FREE_MB": "0",
    }
    if gateway_port is not None:
        more["VOICEBUS_GATEWAY_BIND"] = "127.0.0.1"
        more["VOICEBUS_GATEWAY_PORT"] = str(gateway_port)
    return replace(wish, settings={**wish.settings, **more})


def with_several(wish: Wish, transports: int, shards: int) -> Wish:
    """The same with so many of each."""
    more = {"VOICEBUS_TRANSPORTS": str(transports), "VOICEBUS_SHARDS": str(shards)}
    return replace(wish, settings={**wish.settings, **more})


def wish(run_dir: Path, port: int, wire_port: int) -> Wish:
    """The stack to start, with its scenario and tools in the run folder."""
    scenario = run_dir / "chaos.toml"
    scenario.write_text(SCENARIO, "utf-8")
    tools = shutil.copy(TOOLS, run_dir / "chaos_tools.py")
    key = run_dir / "chaos.key"
    key.write_text("chaos", "ascii")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VOICEBUS_") and name != "OPENAI_API_KEY"
    }
    return Wish(
        run_dir=run_dir,
        provider_key_file=key,
        environment=environment,
        provider_url=f"ws://127.0.0.1:{wire_port}/v1/realtime",
        simulator=True,
        tools=(str(tools),),
        settings={
            "VOICEBUS_SIMULATOR_SCENARIO": str(scenario),
            "VOICEBUS_SIMULATOR_SPEECH": "off",
            "VOICEBUS_SIMULATOR_PORT": str(port),
        },
    )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as probes:
        found = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(int(probe.getsockname()[1]))
        return found


def marks(run_dir: Path) -> Counter[str]:
    """Call id -> how many marks it left."""
    try:
        lines = (run_dir / "marks.log").read_text("ascii").splitlines()
    except FileNotFoundError:
        return Counter()
    return Counter(line.split()[0] for line in lines)
