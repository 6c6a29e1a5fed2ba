"""The loopback WebSocket server: how it behaves at large, and what its connections share."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from voicebus.services.simulator import ears, handshake, packages
from voicebus.services.simulator.connection import Connection, Senses
from voicebus.services.simulator.performer import ToneVoice
from voicebus.services.simulator.recogniser import Recogniser
from voicebus.services.simulator.scenario import BadScenario, Scenario, parsed
from voicebus.services.simulator.script import Script

SCENARIOS = Path(__file__).parent / "scenarios"
LARGEST_FRAME_BYTES = 64 * 1024 * 1024
HEARING_THREADS = 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the simulator behaves at large."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port; `running` tells which."""
    key: str | None = None
    """The only key it accepts; None accepts any key, but not the lack of one."""
    models: Sequence[str] = ("gpt-realtime*", "gpt-4o*realtime*")
    """Patterns of the models there are."""
    pace: float = 8.0
    """Speech is sent so many times faster than it plays; 0 is at once."""
    session_s: float = 3600.0
    """The longest session."""
    speaks: bool = False
    """With the speech packages; else answers sound as tones and nothing is understood."""
    voice: str = "kal16"
    scenario: Scenario = field(default_factory=Scenario)

    def with_scenario(self, scenario: Scenario) -> "Options":
        """These options, with what the scenario says about the server."""
        server = scenario.server
        return replace(
            self,
            scenario=scenario,
            pace=self.pace if server.pace is None else server.pace,
            session_s=self.session_s if server.session_s is None else server.session_s,
            models=self.models if server.models is None else tuple(server.models),
            key=self.key if server.key is None else server.key,
        )


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    url: str
    port: int


def load_scenario(name: str) -> Scenario:
    """The scenario in a file, or the built-in one of that name. Raises `BadScenario`."""
    path = Path(name)
    if not path.is_file():
        path = SCENARIOS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in SCENARIOS.glob("*.toml")))
        raise BadScenario(f"scenario {name}: no such file; the built-in ones are {known}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadScenario(f"scenario {name}: cannot be read: {error}") from None
    return parsed(text, path.name)


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[Running]:
    """Listen until the block ends.

    Raises `packages.SpeechMissing` if it should speak and cannot, OSError if the address cannot
    be had.
    """
    simulator = _Simulator(options)
    try:
        async with serve(
            simulator.talk,
            options.host,
            options.port,
            process_request=simulator.refuse,
            select_subprotocol=_subprotocol,
            max_size=LARGEST_FRAME_BYTES,
            compression=None,
            ping_interval=None,
            close_timeout=1,
            server_header="voicebus-simulator",
            logger=_quiet(),
        ) as server:
            await simulator.warm_up()
            port = next(iter(server.sockets)).getsockname()[1]
            host = f"[{options.host}]" if ":" in options.host else options.host
            yield Running(f"ws://{host}:{port}{handshake.PATH}", port)
    finally:
        await simulator.close()


def _quiet() -> logging.Logger:
    """The library logs a traceback for everyone who knocks and goes, such as a port scan."""
    logger = logging.getLogger("voicebus.simulator.websockets")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


class _Deaf:
    async def words(self, sound: bytes, audio_type: str) -> str | None:
        return None


class _Words:
    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self.recogniser = Recogniser()

    async def words(self, sound: bytes, audio_type: str) -> str | None:
        loop = asyncio.get_running_loop()
        pcm = await loop.run_in_executor(self._threads, ears.for_recogniser, sound, audio_type)
        return await self.recogniser.words(pcm)


class _Simulator:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._connections = 0
        self._words: _Words | None = None
        self._threads = ThreadPoolExecutor(HEARING_THREADS, thread_name_prefix="ears")
        if options.speaks:
            packages.check()
            # Numpy and soxr come with it: text and scenarios work without them.
            from voicebus.services.simulator.voice import FliteVoice  # noqa: PLC0415

            self._words = _Words(self._threads)
            self._senses = Senses(
                voice=FliteVoice(options.voice),
                words=self._words,
                judge_for=ears.SileroJudge,
                threads=self._threads,
            )
        else:
            self._senses = Senses(
                voice=ToneVoice(),
                words=_Deaf(),
                judge_for=ears.LoudnessJudge,
                threads=self._threads,
            )

    async def warm_up(self) -> None:
        if self._words is not None:
            await self._words.recogniser.start()

    async def close(self) -> None:
        if self._words is not None:
            await self._words.recogniser.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        self._connections += 1
        for rule in self._options.scenario.handshake:
            end = float("inf") if rule.times is None else rule.connection + rule.times
            if rule.connection <= self._connections < end:
                return handshake.refused(rule.status, rule.code, rule.message)
        path = urlsplit(request.path).path
        return handshake.refusal(path, request.headers, self._options.key)

    async def talk(self, socket: ServerConnection) -> None:
        options = self._options
        await Connection(
            socket,
            Script(options.scenario, self._connections),
            self._senses,
            models=options.models,
            pace=options.pace,
            session_s=options.session_s,
            defaults=options.scenario.server.defaults,
        ).run()


def _subprotocol(
    connection: ServerConnection, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    return handshake.subprotocol(offered)
