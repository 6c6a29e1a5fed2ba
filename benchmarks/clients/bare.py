"""The floor: `websockets`, json, base64, and nothing else, all in one process.

A tool runs in a thread, as one does it there.
"""

import asyncio
import base64
import json

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from voicebus.benchmarks.shared import app, work


async def _listen(
    bench: app.Bench, line: ClientConnection, working: set[asyncio.Task[None]]
) -> None:
    async for message in line:
        event = json.loads(message)
        match event["type"]:
            case "response.output_audio.delta":
                bench.sound.sound(base64.b64decode(event["delta"]))
            case "conversation.item.input_audio_transcription.delta":
                bench.words.text(event["delta"])
            case "response.function_call_arguments.done":
                task = asyncio.create_task(_work(line, event))
                working.add(task)
                task.add_done_callback(working.discard)
            case _:
                pass


async def _work(line: ClientConnection, event: dict[str, str]) -> None:
    seconds = json.loads(event["arguments"]).get("seconds", 2.0)
    await asyncio.to_thread(work.KINDS[event["name"]], seconds)
    item = {"type": "function_call_output", "call_id": event["call_id"], "output": "done"}
    await line.send(json.dumps({"type": "conversation.item.create", "item": item}))


async def _session(bench: app.Bench, number: int, is_ready: asyncio.Event) -> None:
    async with connect(bench.url, compression=None) as line:
        await line.send(json.dumps({"type": "session.update", "session": {"type": "realtime"}}))
        while json.loads(await line.recv())["type"] != "session.updated":
            pass
        is_ready.set()
        working: set[asyncio.Task[None]] = set()
        tasks = [asyncio.create_task(_listen(bench, line, working))]
        if bench.talks:

            async def send(sound: bytes) -> None:
                audio = base64.b64encode(sound).decode()
                await line.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))

            tasks.append(asyncio.create_task(bench.talk(send, number)))
        await bench.over()
        for task in tasks:
            task.cancel()


async def main(bench: app.Bench) -> None:
    """All sessions on one loop."""
    ready = [asyncio.Event() for _ in range(bench.sessions)]
    sessions = [asyncio.create_task(_session(bench, n, one)) for n, one in enumerate(ready)]
    for one in ready:
        await one.wait()
    bench.ready()
    await asyncio.gather(*sessions)


if __name__ == "__main__":
    app.run(main, uvloop.run)
