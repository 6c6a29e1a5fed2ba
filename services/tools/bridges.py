"""The tool host's MCP bridges: started with it, started again when they end, ended with it."""

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from voicebus.config import extras
from voicebus.services.runtime import CannotStart
from voicebus.services.tools.pool import Log

AGAIN_S = (0.5, 2.0, 5.0, 15.0)
"""The pauses before a bridge is started again; the last one from then on."""
STEADY_S = 30.0
"""One that ran so long begins with the first pause."""
STOP_S = 8.0


class Bridges:
    """One process per MCP server."""

    def __init__(self, names: Sequence[str], log: Log) -> None:
        """Raises CannotStart when there are servers and no SDK."""
        if names and importlib.util.find_spec("mcp") is None:
            raise CannotStart(
                f"[mcp.{names[0]}] in tools.toml needs the MCP SDK: {extras.how_to_get('mcp')}"
            )
        self._log = log
        self._running: dict[str, int] = {}
        self._tasks = [
            asyncio.create_task(self._keep(name, number)) for number, name in enumerate(names)
        ]

    def pids(self) -> list[int]:
        """The bridges that run."""
        return list(self._running.values())

    async def _keep(self, name: str, number: int) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            code, why = None, None
            try:
                code = await self._run(name, number)
            except OSError as error:  # the system has no process or descriptor left for it
                why = str(error)
            failures = 0 if loop.time() - began > STEADY_S else failures + 1
            pause_s = AGAIN_S[min(failures, len(AGAIN_S)) - 1] if failures else AGAIN_S[0]
            self._log.warning(
                "bridge.ended", server=name, exit_code=code, why=why, again_in_s=pause_s
            )
            await asyncio.sleep(pause_s)

    async def _run(self, name: str, number: int) -> int:
        """From its start to its end; its exit code. Raises OSError if it cannot be started."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "voicebus.services.tools.bridge", "--instance", str(number)),
            stdin=asyncio.subprocess.DEVNULL,
            # What makes a service end with its parent, where the kernel does not see to it.
            env={**os.environ, "SUPERVISOR_ENABLED": "1"},
        )
        self._running[name] = child.pid
        try:
            return await child.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            try:
                await asyncio.wait_for(child.wait(), STOP_S)
            except TimeoutError:
                child.kill()
                await child.wait()
            raise
        finally:
            del self._running[name]

    async def stop(self) -> None:
        """End them in order."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
