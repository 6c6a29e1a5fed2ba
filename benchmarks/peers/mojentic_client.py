"""Mojentic's realtime session. Its sync tools run in the default thread executor."""

import asyncio

import app
import work
from mojentic.llm.tools.llm_tool import LLMTool
from mojentic.realtime.broker import RealtimeVoiceBroker
from mojentic.realtime.config import RealtimeVoiceConfig
from mojentic.realtime.openai_gateway import OpenAIRealtimeGateway


class Worker(LLMTool):
    def __init__(self, name):
        super().__init__()
        self._name = name

    def run(self, seconds=2.0):
        work.KINDS[self._name](seconds)
        return "done"

    @property
    def descriptor(self):
        return {
            "type": "function",
            "function": {
                "name": self._name,
                "description": "works",
                "parameters": {"type": "object", "properties": {"seconds": {"type": "number"}}},
            },
        }


async def call(bench, number):
    gateway = OpenAIRealtimeGateway(api_key="none", base_url=bench.url)
    config = RealtimeVoiceConfig(tools=[Worker(name) for name in work.KINDS])
    session = await RealtimeVoiceBroker("gpt-realtime", gateway, config).connect()

    async def hear():
        async for samples in session.audio_output():
            bench.sound.sound(samples.tobytes())

    async def read():
        async for event in session.events():
            if event.kind == "user_transcript_delta":
                bench.words.text(event.delta)

    async def send(sound):
        async def once():
            yield sound

        await session.send_audio(once())

    tasks = [asyncio.create_task(hear()), asyncio.create_task(read())]
    if bench.talks:
        tasks.append(asyncio.create_task(bench.talk(send, number)))
    return tasks


async def main(bench):
    """All calls on one loop."""
    calls = [await call(bench, number) for number in range(bench.sessions)]
    bench.ready()
    await bench.over()
    for tasks in calls:
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    app.run(main)
