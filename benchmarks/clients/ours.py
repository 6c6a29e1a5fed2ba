"""An application on Voicebus's SDK; style `light`: sockets and nothing else, for many sessions."""

import asyncio

import uvloop

from voicebus.benchmarks.shared import app
from voicebus.bus import topics
from voicebus.bus.messages import commands, events
from voicebus.bus.messages.base import convert, encode
from voicebus.bus.messages.sound import SoundIn
from voicebus.bus.sockets import Dealer, Sockets
from voicebus.client import RealtimeClient, RealtimeSession, Sound
from voicebus.client.events import decode

CONFIG = {"lease_s": 600.0, "tools": "*"}


async def _sdk(bench: app.Bench) -> None:
    async with RealtimeClient(bench.run_dir) as client:
        sessions = [await client.connect(dict(CONFIG)) for _ in range(bench.sessions)]
        tasks = []
        for number, session in enumerate(sessions):
            opened = asyncio.create_task(_opened(session))
            await opened
            tasks.append(asyncio.create_task(_hear(bench, session)))
            tasks.append(asyncio.create_task(_read(bench, session)))
            if bench.talks:
                tasks.append(asyncio.create_task(bench.talk(session.send_audio, number)))
        bench.ready()
        await bench.over()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*(session.close() for session in sessions))


async def _opened(session: RealtimeSession) -> None:
    async for event in session.events():
        if event.kind == "session_opened":
            return


async def _hear(bench: app.Bench, session: RealtimeSession) -> None:
    async for heard in session.audio_output():
        if isinstance(heard, Sound):
            bench.sound.sound(heard.samples)


async def _read(bench: app.Bench, session: RealtimeSession) -> None:
    async for event in session.events():
        if isinstance(event.data, events.UserTranscriptDelta):
            bench.words.text(event.data.delta)


async def _light(bench: app.Bench) -> None:
    """One subscriber and one dealer for all: what a program in any language could do."""
    ready: set[str] = set()
    all_ready = asyncio.Event()

    def on_sound(frames: list[bytes]) -> None:
        if len(frames) == 3:
            bench.sound.sound(frames[2])

    def on_event(frames: list[bytes]) -> None:
        event = decode(frames[1])
        if event.kind == "session_opened":
            ready.add(event.session_id)
            if len(ready) == bench.sessions:
                all_ready.set()
        elif isinstance(event.data, events.UserTranscriptDelta):
            bench.words.text(event.data.delta)

    async with RealtimeClient(bench.run_dir) as client:
        sockets = client.sockets()
        opened: list[commands.Opened] = []
        where = client.endpoints
        sockets.subscriber([where.events(n) for n in where.shards()], [b"event/"], on_event)
        voices = [where.audio_out(n) for n in where.transports()]
        listener = sockets.subscriber(voices, [], on_sound)
        for _ in range(bench.sessions):
            reply = await client.commander.ask(0, "open", {"config": CONFIG}, deadline_s=20.0)
            opened.append(convert(reply.data, commands.Opened, what="open"))
            listener.subscribe(topics.audio(opened[-1].session_id, "out"))
        await all_ready.wait()
        doors = {one.audio_in for one in opened}
        voices_in = {door: _voice(sockets, door) for door in doors}
        tasks = []
        if bench.talks:
            for number, one in enumerate(opened):
                speaker = _Speaker(voices_in[one.audio_in], one)
                tasks.append(asyncio.create_task(bench.talk(speaker.send, number)))
        bench.ready()
        await bench.over()
        for task in tasks:
            task.cancel()
        for one in opened:
            await client.commander.ask(0, "close", session_id=one.session_id)


def _voice(sockets: Sockets, endpoint: str) -> Dealer:
    return sockets.dealer(endpoint, lambda frames: None, name="voice")


class _Speaker:
    """Numbers one session's sound."""

    def __init__(self, voice: Dealer, opened: commands.Opened) -> None:
        self._voice, self._opened, self._n = voice, opened, 0

    def send(self, sound: bytes) -> None:
        self._n += 1
        header = SoundIn(session_id=self._opened.session_id, token=self._opened.token, n=self._n)
        self._voice.send([encode(header), sound])


async def main(bench: app.Bench) -> None:
    """The SDK, or only its sockets."""
    await (_light(bench) if bench.style == "light" else _sdk(bench))


if __name__ == "__main__":
    app.run(main, uvloop.run)
