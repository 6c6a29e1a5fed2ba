"""OpenAI's Agents SDK. Plain functions as tools; the SDK runs them in threads."""

import asyncio
import os

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"

import app
import work
from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner


@function_tool
def sleeps(seconds: float) -> str:
    """Waits."""
    work.sleeps(seconds)
    return "done"


@function_tool
def spins(seconds: float) -> str:
    """Burns Python."""
    work.spins(seconds)
    return "done"


@function_tool
def holds(seconds: float) -> str:
    """Burns C."""
    work.holds(seconds)
    return "done"


async def hear(bench, session):
    async for event in session:
        if event.type == "audio":
            bench.sound.sound(event.audio.data)
        elif (
            event.type == "raw_model_event"
            and event.data.type == "raw_server_event"  # pieces have no event of their own
            and event.data.data["type"] == "conversation.item.input_audio_transcription.delta"
        ):
            bench.words.text(event.data.data["delta"])


async def main(bench):
    """All calls on one loop."""
    agent = RealtimeAgent(name="bench", instructions="none", tools=[sleeps, spins, holds])
    tasks = []
    for number in range(bench.sessions):
        runner = RealtimeRunner(agent)
        session = await runner.run(model_config={"url": bench.url, "api_key": "none"})
        await session.enter()
        tasks.append(asyncio.create_task(hear(bench, session)))
        if bench.talks:
            tasks.append(asyncio.create_task(bench.talk(session.send_audio, number)))
    bench.ready()
    await bench.over()
    for task in tasks:
        task.cancel()
    bench.save()
    os._exit(0)  # threads of its tools may not end


if __name__ == "__main__":
    app.run(main)
