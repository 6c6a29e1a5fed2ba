"""Azure is the GA dialect with another life and another transcription model."""

from voicebus.bus.messages.commands import SessionConfig
from voicebus.services.session.core import effects as fx
from voicebus.services.session.providers.azure import Azure
from voicebus.services.session.providers.openai import OpenAI


def test_it_differs_only_in_the_model_that_writes_down() -> None:
    config = SessionConfig(voice="ash")
    request = fx.Configure(config, ())

    azure, openai = Azure().write("e", request), OpenAI().write("e", request)

    assert azure["session"]["audio"]["input"].pop("transcription") == {"model": "whisper-1"}
    openai["session"]["audio"]["input"].pop("transcription")
    assert azure == openai


def test_a_deployment_that_is_named_is_used() -> None:
    config = SessionConfig(input_audio_transcription={"model": "my-deployment"})

    frame = Azure().write("e", fx.Configure(config, ()))

    assert frame["session"]["audio"]["input"]["transcription"] == {"model": "my-deployment"}


def test_it_ends_its_sessions_after_half_an_hour() -> None:
    assert Azure().capabilities.longest_session_s == 1800
