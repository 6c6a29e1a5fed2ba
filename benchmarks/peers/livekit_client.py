"""LiveKit's agent session with its OpenAI realtime model, and sound devices of our own.

No LiveKit server: what is measured is the agent's process, not the room's. Function tools are
coroutines on the session's loop; style `threads` puts the work into a thread.
"""

import asyncio
import os

import app
import work
from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice import io
from livekit.plugins import openai


class Ears(io.AudioOutput):
    def __init__(self, bench):
        super().__init__(
            label="ears",
            capabilities=io.AudioOutputCapabilities(pause=False),
            sample_rate=24000,
        )
        self._bench = bench
        self._heard = 0.0

    async def capture_frame(self, frame):
        await super().capture_frame(frame)
        self._heard += frame.duration
        if len(frame.data) >= 8:
            self._bench.sound.sound(bytes(frame.data.cast("B")[:16]))

    def flush(self):
        super().flush()
        heard, self._heard = self._heard, 0.0
        if heard:
            self.on_playback_finished(playback_position=heard, interrupted=False)

    def clear_buffer(self):
        self.flush()


class Mouth(io.AudioInput):
    def __init__(self):
        super().__init__(label="mouth")
        self.frames = asyncio.Queue()

    async def __anext__(self):
        return await self.frames.get()


class Worker(Agent):
    def __init__(self, style):
        super().__init__(instructions="none")
        self._style = style

    async def _work(self, name, seconds):
        if self._style == "threads":
            await asyncio.to_thread(work.KINDS[name], seconds)
        else:
            work.KINDS[name](seconds)
        return "done"

    @function_tool
    async def sleeps(self, seconds: float) -> str:
        """Waits."""
        return await self._work("sleeps", seconds)

    @function_tool
    async def spins(self, seconds: float) -> str:
        """Burns Python."""
        return await self._work("spins", seconds)

    @function_tool
    async def holds(self, seconds: float) -> str:
        """Burns C."""
        return await self._work("holds", seconds)


async def main(bench):
    model = openai.realtime.RealtimeModel(base_url=bench.url, api_key="none", model="gpt-realtime")
    session = AgentSession(llm=model)
    mouth = Mouth()
    session.output.audio = Ears(bench)
    if bench.talks:
        session.input.audio = mouth

    @session.on("user_input_transcribed")
    def said(event):
        bench.words.text(event.transcript)

    await session.start(agent=Worker(bench.style))

    def send(sound):
        mouth.frames.put_nowait(rtc.AudioFrame(sound, 24000, 1, len(sound) // 2))

    if bench.talks:
        talking = asyncio.create_task(bench.talk(send))
    await asyncio.sleep(1.0)
    bench.ready()
    await bench.over()
    if bench.talks:
        talking.cancel()
    bench.save()
    os._exit(0)


if __name__ == "__main__":
    app.run(main)
