"""xAI: its own places, its cumulative words, its own tools."""

from typing import Any

import pytest

from voicebus.bus.messages.commands import ServerVad, SessionConfig
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.providers.xai import XAI

WORDS = "conversation.item.input_audio_transcription."


def session(config: SessionConfig, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    value: dict[str, Any] = XAI().write("e", fx.Configure(config, (), only))["session"]
    return value


def read(**frame: Any) -> list[i.AnyInput]:
    return XAI().read(frame, 1)


def test_voice_and_turn_detection_stand_at_the_top() -> None:
    value = session(SessionConfig(voice="ara", turn_detection=ServerVad(threshold=0.5)))

    assert value["voice"] == "ara"
    assert value["turn_detection"] == {"type": "server_vad", "threshold": 0.5}
    assert set(value["audio"]["input"]) == {"format", "transcription"}
    assert set(value["audio"]["output"]) == {"format"}


def test_an_update_of_the_voice_alone_has_no_sound_part() -> None:
    assert session(SessionConfig(voice="eve"), ("voice",)) == {"type": "realtime", "voice": "eve"}


@pytest.mark.parametrize("audio", ["x", {"input": 5}, {"input": None}])
def test_odd_extras_are_sent_as_they_are_and_refused_by_the_provider(audio: Any) -> None:
    value = session(SessionConfig(provider_extras={"audio": audio}))

    if isinstance(audio, dict):
        assert value["audio"].get("input") == audio["input"]
    else:
        assert value["audio"] == audio


def test_words_so_far_are_cumulative() -> None:
    (found,) = read(type=WORDS + "updated", item_id="u", transcript="I want")

    assert found == i.UserWords(now_us=1, item_id="u", text="I want", final=False, cumulative=True)


def test_a_completed_transcript_in_progress_is_not_final() -> None:
    (found,) = read(type=WORDS + "completed", item_id="u", transcript="I", status="in_progress")

    assert isinstance(found, i.UserWords)
    assert (found.final, found.cumulative) == (False, True)


def test_a_completed_transcript_is_final() -> None:
    (found,) = read(type=WORDS + "completed", item_id="u", transcript="I went")

    assert isinstance(found, i.UserWords)
    assert found.final


def test_it_runs_tools_of_its_own() -> None:
    assert XAI().capabilities.runs_tools


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("Conversation already has an active response", "already_active"),
        ("There is an active response: wait with your response.create", "already_active"),
        ("Cancellation failed: there is nothing to stop", "benign"),
        ("There is no active response", "benign"),
        ("Something else", "other"),
    ],
)
def test_errors_are_told_apart_by_their_words(message: str, meaning: str) -> None:
    (found,) = read(type="error", error={"message": message})

    assert isinstance(found, i.ProviderRefused)
    assert found.meaning == meaning


@pytest.mark.parametrize(
    ("message", "about"),
    [
        ("Invalid response.create", "response"),
        ("Invalid session.update", "configuration"),
        ("Invalid request", None),
    ],
)
def test_errors_tell_by_their_words_what_they_refuse(message: str, about: str | None) -> None:
    (found,) = read(type="error", error={"message": message})

    assert isinstance(found, i.ProviderRefused)
    assert found.about == about


def test_its_conversation_is_its_introduction() -> None:
    assert read(type="conversation.created", conversation={"id": "c"}) == [
        i.ProviderSessionCreated(now_us=1)
    ]


def test_a_ping_means_nothing() -> None:
    assert read(type="ping") == []
