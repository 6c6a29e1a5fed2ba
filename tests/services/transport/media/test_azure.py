"""Azure: the same frames under another key header; and transcription, dialled by intent."""

import pytest

from voicebus.services.transport.media.azure import Azure
from voicebus.services.transport.media.vendors import VENDORS

URL = "wss://res.openai.azure.com/openai/v1/realtime"


def test_the_key_stands_in_a_header_of_its_own() -> None:
    assert Azure().headers("k") == {"api-key": "k"}
    assert Azure().headers(None) == {}


def test_the_model_is_a_deployment() -> None:
    assert Azure().address(URL, "my-voice").url == f"{URL}?model=my-voice"


@pytest.mark.parametrize("vendor", ["openai-transcription", "azure-transcription"])
def test_a_transcription_session_is_dialled_by_its_intent_and_without_a_model(vendor: str) -> None:
    assert VENDORS[vendor].address(URL, None).url == f"{URL}?intent=transcription"


def test_every_vendor_is_known_by_its_own_name() -> None:
    assert all(media.name == name for name, media in VENDORS.items())
