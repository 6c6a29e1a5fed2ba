"""A client and a model to talk with the conversation machine, and a check of every event."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import pydantic
import pytest
from openai.types.realtime import RealtimeServerEvent

from voicebus.services.simulator.conversation import Conversation
from voicebus.services.simulator.sounds import bytes_per_ms, tone
from voicebus.services.simulator.steps import (
    Answer,
    AnswerEnded,
    ArgumentsGrew,
    Call,
    CallBegan,
    CallEnded,
    Effect,
    Feed,
    Hear,
    MessageBegan,
    MessageEnded,
    Plan,
    Question,
    Say,
    Send,
    SoundGrew,
    WordsGrew,
)

_ADAPTER: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(RealtimeServerEvent)
_BEYOND_THE_TYPES = {"session.id", "session.object", "session.expires_at"}
"""What the service sends though the package's types do not name it."""


def check_event(event: dict[str, Any]) -> None:
    """Fail unless the event is what the openai package expects: nothing missing, nothing more."""
    model = _ADAPTER.validate_python(event)
    unknown = set(_unknown(model, "")) - _BEYOND_THE_TYPES

    assert not unknown, f"{event['type']} has fields that the types do not know: {unknown}"


def _unknown(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, pydantic.BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}{name}"
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{path}{name}.")
    elif isinstance(value, list):
        for one in value:
            yield from _unknown(one, path)


class Talk:
    """One conversation, in which every event is checked as it is sent."""

    def __init__(self, *, is_transcription: bool = False, model: str = "gpt-realtime") -> None:
        self.conversation = Conversation("t", model, is_transcription=is_transcription)
        self.events: list[dict[str, Any]] = []
        self.questions: list[Question] = []
        self.to_hear: list[Hear] = []
        self.fed = 0
        self.effects: list[Effect] = []
        self.does(self.conversation.opened())

    def does(self, effects: Sequence[Effect]) -> list[dict[str, Any]]:
        """Take the effects; return the events among them."""
        sent = []
        self.effects += effects
        for effect in effects:
            match effect:
                case Send(event):
                    check_event(event)
                    sent.append(event)
                case Answer(question):
                    self.questions.append(question)
                case Hear():
                    self.to_hear.append(effect)
                case Feed(sound):
                    self.fed += len(sound)
                case _:
                    pass
        self.events += sent
        return sent

    def says(self, kind: str, at_s: float = 0.0, **fields: Any) -> list[dict[str, Any]]:
        """The client sends an event."""
        return self.does(self.conversation.client_says({"type": kind, **fields}, at_s))

    def error(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The client sends an event and gets an error and nothing else."""
        answers = self.says(kind, event_id="my_event", **fields)

        assert [event["type"] for event in answers] == ["error"]
        error: dict[str, Any] = answers[0]["error"]
        assert error["event_id"] == "my_event"
        return error

    def updates(self, **session: Any) -> list[dict[str, Any]]:
        """The client updates the session."""
        return self.says("session.update", session={"type": "realtime", **session})

    def writes(self, text: str) -> str:
        """The client adds a user's message; returns its id."""
        events = self.says(
            "conversation.item.create",
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": text}],
            },
        )
        return str(events[0]["item"]["id"])

    def asks(self, **response: Any) -> Question:
        """The client asks for a response, and gets one."""
        events = self.says("response.create", response=response)

        assert [event["type"] for event in events] == ["response.created"]
        return self.questions[-1]

    def answers(self, plan: Plan, *, ends: bool = True) -> list[dict[str, Any]]:
        """The model gives an answer to the last question; each word takes 100 ms."""
        question = self.questions[-1]
        begin = len(self.events)
        for index, part in enumerate(plan.parts):
            self._gives(question, index, part)
        if ends:
            self.step(AnswerEnded(question.response_id, plan.status, plan.reason, plan.error))
        return self.events[begin:]

    def step(self, step: Any, at_s: float = 0.0) -> list[dict[str, Any]]:
        """The model takes one step."""
        return self.does(self.conversation.step(step, at_s))

    def _gives(self, question: Question, index: int, part: Say | Call) -> None:
        response = question.response_id
        if isinstance(part, Call):
            self.step(CallBegan(response, index, part.name, part.call_id))
            self.step(ArgumentsGrew(response, index, str(part.arguments)))
            self.step(CallEnded(response, index))
            return
        self.step(MessageBegan(response, index))
        for n, word in enumerate(part.text.split()):
            self.step(WordsGrew(response, index, word if n == 0 else f" {word}"))
            if question.speaks:
                self.step(SoundGrew(response, index, tone(100, question.audio_type)))
        self.step(MessageEnded(response, index))

    check = staticmethod(check_event)

    @staticmethod
    def types(events: Sequence[dict[str, Any]]) -> list[str]:
        """The types of events."""
        return [event["type"] for event in events]

    @staticmethod
    def sound(length_ms: int, audio_type: str = "audio/pcm") -> str:
        """Base64 of so much silence."""
        return base64.b64encode(bytes(length_ms * bytes_per_ms(audio_type))).decode()


@pytest.fixture
def talk() -> Talk:
    """A conversation that has just been opened."""
    return Talk()


@pytest.fixture
def transcription_talk() -> Talk:
    """A transcription session that has just been opened."""
    return Talk(is_transcription=True)
