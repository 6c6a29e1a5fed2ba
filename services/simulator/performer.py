"""Gives a planned answer step by step: voice before words are sent, paced faster than real time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from voicebus.services.simulator import sounds
from voicebus.services.simulator.steps import (
    AnswerEnded,
    ArgumentsGrew,
    Call,
    CallBegan,
    CallEnded,
    MessageBegan,
    MessageEnded,
    Plan,
    Question,
    Say,
    SoundGrew,
    Step,
    WordsGrew,
)

CHUNK_MS = 160
PIECE = 12
"""Arguments grow by so many characters."""

Report = Callable[[Step], Awaitable[None]]


class Voice(Protocol):
    """Turns sentences into wire sound."""

    def speak(self, text: str, audio_type: str, speed: float) -> AsyncIterator[tuple[str, bytes]]:
        """Sentence by sentence: its words and its sound."""
        ...


class ToneVoice:
    """A voice for machines without speech packages: a tone as long as the words would take."""

    async def speak(
        self, text: str, audio_type: str, speed: float
    ) -> AsyncIterator[tuple[str, bytes]]:
        """One tone: 60 ms for each character, at the speed asked for."""
        length_ms = max(200, min(60_000, round(60 * len(text) / speed)))
        yield text, sounds.tone(length_ms, audio_type)


async def perform(
    plan: Plan, question: Question, voice: Voice, report: Report, *, pace: float
) -> None:
    """Report every step of the answer. Pace is times real time; 0 is as fast as it goes."""
    await asyncio.sleep(plan.delay_ms / 1000)
    pace = plan.pace if plan.pace is not None else pace
    response_id = question.response_id
    if plan.interleaved:
        await _calls_in_turns(plan, response_id, report)
    else:
        for index, part in enumerate(plan.parts):
            # What an answer that fails was about to say stays open: its end cuts it off.
            is_cut = plan.status != "completed" and index == len(plan.parts) - 1
            if isinstance(part, Call):
                await _call(part, response_id, index, report, is_cut=is_cut)
            elif await _say(
                part,
                question,
                index,
                voice,
                report,
                pace,
                plan.chunk_ms or CHUNK_MS,
                plan.cut_after_ms,
                is_cut=is_cut,
            ):
                break
    if not plan.never_ends:
        await report(AnswerEnded(response_id, plan.status, plan.reason, plan.error))


async def _say(
    part: Say,
    question: Question,
    index: int,
    voice: Voice,
    report: Report,
    pace: float,
    chunk_ms: int,
    cut_after_ms: int | None,
    *,
    is_cut: bool,
) -> bool:
    """True if the message was cut short."""
    response_id = question.response_id
    await report(MessageBegan(response_id, index))
    if not question.speaks:
        for word in _spaced(part.text):
            await report(WordsGrew(response_id, index, word))
        if not is_cut:
            await report(MessageEnded(response_id, index))
        return False
    loop = asyncio.get_running_loop()
    per_ms = sounds.bytes_per_ms(question.audio_type)
    due_s = loop.time()
    sent_ms = 0
    spoken = (
        _toned(part.text, part.tone_ms, question.audio_type)
        if part.tone_ms is not None
        else voice.speak(part.text, question.audio_type, question.speed)
    )
    async for text, sound in spoken:
        words = _spaced(text if sent_ms == 0 else f" {text}")
        count = max(1, -(-len(sound) // (chunk_ms * per_ms)))
        for n in range(count):
            told = words[len(words) * n // count : len(words) * (n + 1) // count]
            for word in told:
                await report(WordsGrew(response_id, index, word))
            chunk = sound[n * chunk_ms * per_ms : (n + 1) * chunk_ms * per_ms]
            if cut_after_ms is not None:
                chunk = chunk[: max(0, cut_after_ms - sent_ms) * per_ms]
            if chunk:
                await report(SoundGrew(response_id, index, chunk))
            sent_ms += len(chunk) // per_ms
            if cut_after_ms is not None and sent_ms >= cut_after_ms:
                return True
            if pace > 0:
                due_s = max(due_s, loop.time() - 1) + len(chunk) / per_ms / 1000 / pace
                await asyncio.sleep(due_s - loop.time())
    if not is_cut:
        await report(MessageEnded(response_id, index))
    return False


async def _toned(text: str, length_ms: int, audio_type: str) -> AsyncIterator[tuple[str, bytes]]:
    yield text, sounds.tone(length_ms, audio_type)


async def _call(part: Call, response_id: str, index: int, report: Report, *, is_cut: bool) -> None:
    await report(CallBegan(response_id, index, part.name, part.call_id))
    for piece in _pieces(part):
        await report(ArgumentsGrew(response_id, index, piece))
    if not is_cut:
        await report(CallEnded(response_id, index))


async def _calls_in_turns(plan: Plan, response_id: str, report: Report) -> None:
    growing = {}
    for index, part in enumerate(plan.parts):
        if isinstance(part, Call):
            await report(CallBegan(response_id, index, part.name, part.call_id))
            growing[index] = _pieces(part)
    while any(growing.values()):
        for index, pieces in growing.items():
            if pieces:
                await report(ArgumentsGrew(response_id, index, pieces.pop(0)))
    for index in growing:
        await report(CallEnded(response_id, index))


def _pieces(part: Call) -> list[str]:
    text = (
        part.arguments
        if isinstance(part.arguments, str)
        else json.dumps(part.arguments, ensure_ascii=False)
    )
    return [text[n : n + PIECE] for n in range(0, len(text), PIECE)]


def _spaced(text: str) -> list[str]:
    """The words of a text, each with the space before it: joined they are the text again."""
    words = text.split(" ")
    return [word if n == 0 else f" {word}" for n, word in enumerate(words) if n or word]
