"""The demo's conversation: a question with a tool, then a long answer that is interrupted."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from voicebus.bus.endpoints import Endpoints
from voicebus.cli.conversation import Conversation, client_of
from voicebus.cli.notebook import Notebook
from voicebus.cli.problems import Problem
from voicebus.client import Event, Heard, SoundFlush
from voicebus.client.microphone import Microphone
from voicebus.client.player import Played
from voicebus.client.wav import Recording, WavWriter

HEARD_BEFORE_STOP_MS = 2500
TURN_S = 30.0
QUESTION, STORY, STOP = range(3)


class Script(NamedTuple):
    """What the caller says."""

    question: Recording
    story: Recording
    stop: Recording


class Performance:
    """Plays the caller, and takes notes."""

    def __init__(
        self,
        script: Script,
        writer: WavWriter,
        show: Callable[[Event], None],
        tell: Callable[[str], None],
    ) -> None:
        """`show` gets each event, `tell` what the caller does and hears."""
        self.notes = Notebook()
        self._script = script
        self._writer = writer
        self._show = show
        self._tell = tell
        self._to_unix_us = 0
        """From the loop's clock."""

    async def run(self, endpoints: Endpoints) -> None:
        """The whole conversation. Raises Problem when something did not happen as it should."""
        self._to_unix_us = time.time_ns() // 1000 - int(asyncio.get_running_loop().time() * 1e6)
        async with client_of(endpoints) as client:
            session = await client.connect(instructions="Answer in English, in a sentence or two.")
            self._tell(f"session {session.id}")
            async with Conversation(
                session, self._on_event, timeout_s=TURN_S, heard=self._on_heard, came=self._on_sound
            ) as talking:
                await talking.opened()
                async with Microphone(session) as microphone:
                    await talking.turn(partial(self._say, microphone, QUESTION, "asks"))
                    await talking.turn(partial(self._interrupt_the_story, talking, microphone))
        shortcoming = self.notes.shortcoming()
        if shortcoming is not None:
            raise Problem(shortcoming)

    async def _interrupt_the_story(self, talking: Conversation, microphone: Microphone) -> None:
        await self._say(microphone, STORY, "asks for more")
        await talking.until(self._is_mid_sentence, "a long answer and a running tool")
        await self._say(microphone, STOP, "interrupts")

    def _is_mid_sentence(self) -> bool:
        turn_id = self.notes.sounds[-1][1] if self.notes.sounds else ""
        heard_ms = self.notes.heard_ms.get(turn_id, 0.0)
        return heard_ms >= HEARD_BEFORE_STOP_MS and bool(self.notes.running())

    async def _say(self, microphone: Microphone, which: int, does: str) -> None:
        self._tell(f"the caller {does}")
        said = await microphone.say(self._script[which])
        began_us, ended_us = (int(at * 1e6) + self._to_unix_us for at in said)
        self.notes.said.append((began_us, ended_us))

    def _on_event(self, event: Event) -> None:
        self.notes.note(event)
        self._show(event)

    def _on_sound(self, piece: Heard) -> None:
        before = len(self.notes.sounds)
        self.notes.came(piece, time.time_ns() // 1000)
        if len(self.notes.sounds) > before:
            self._tell("the caller hears the assistant")
        if isinstance(piece, SoundFlush) and any(map(self.notes.unheard_ms, piece.responses)):
            self._tell("the caller hears silence")

    def _on_heard(self, played: Played) -> None:
        self.notes.heard(played)
        if self.notes.began_before_interrupt(played.turn_id):
            self._writer.write(played)
