"""Record a talk with the simulator: `python -P …/transcripts/record.py` writes recorded.json.

The session's own core and the OpenAI translator talk to a simulator over a WebSocket on loopback;
what the simulator sends is written down, with what the client and the tool do between.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from voicebus.services.session import configuration
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.providers.vendors import TRANSLATORS
from voicebus.services.session.testing import Stage, tool, tool_ok
from voicebus.services.simulator.server import Options, running

CONFIG = {"modalities": ["text"]}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
QUIET_S = 1.0
"""When nothing has come for so long, it is the client's turn."""


class Recorder:
    """Plays the session's side and keeps every step."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._translator = TRANSLATORS["openai"]
        self._sent = 0
        self.steps: list[dict[str, Any]] = []
        self.stage = Stage(
            configuration.check(CONFIG).config,
            [tool("get_weather", parameters=PARAMETERS)],
            capabilities=self._translator.capabilities,
            ready=False,
        )
        self.stage.play(i.ProviderConnected(generation=1))

    async def listen(self) -> None:
        """Until the provider is quiet: its frames, and what the core asks of it."""
        while True:
            await self._send()
            try:
                async with asyncio.timeout(QUIET_S):
                    frame = json.loads(await self._socket.recv())
            except TimeoutError:
                return
            self.steps.append({"up": frame})
            self.stage.play(*self._translator.read(frame, self.stage.now_us))

    async def _send(self) -> None:
        for effect in self.stage.effects[self._sent :]:
            if isinstance(effect, fx.Ask):
                frame = self._translator.write(effect.event_id, effect.request)
                await self._socket.send(json.dumps(frame))
        self._sent = len(self.stage.effects)

    def say(self, text: str) -> None:
        """A client's command."""
        self.steps.append({"command": "send_text", "data": {"text": text}})
        self.stage.command("send_text", text=text)

    def run_tools(self, result: Any) -> None:
        """Every call that is open has this result."""
        for call_id in tuple(self.stage.state.calls):
            self.steps.append({"tool": call_id, "result": result})
            self.stage.play(tool_ok(call_id, result))


async def record() -> list[dict[str, Any]]:
    """A question that needs a tool, and its answer."""
    async with (
        running(Options(pace=0)) as server,
        connect(
            f"{server.url}?model=gpt-realtime",
            additional_headers={"Authorization": "Bearer any"},
            max_size=None,
        ) as socket,
    ):
        recorder = Recorder(socket)
        await recorder.listen()
        recorder.say("What is the weather in Berlin?")
        await recorder.listen()
        recorder.run_tools({"city": "Berlin", "temperature": 21})
        await recorder.listen()
        return recorder.steps


def main() -> None:
    """Write the transcript; test_conformance.py then adds what must come of it."""
    script = {
        "about": "A question that needs a tool, as the simulator answered it through a WebSocket.",
        "vendors": ["openai", "azure"],
        "ga": True,
        "config": CONFIG,
        "tools": ["get_weather"],
        "steps": asyncio.run(record()),
        "kinds": [],
        "asked": [],
    }
    path = Path(__file__).with_name("recorded.json")
    path.write_text(json.dumps(script, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
