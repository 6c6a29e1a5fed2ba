"""Who ends a turn and who breaks into one."""

import pytest

from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.services.session.core.turn_taking import provider_interrupts, provider_responds


@pytest.mark.parametrize(
    ("vad", "interrupts", "responds"),
    [
        ("server_vad", True, True),
        ("semantic_vad", True, True),
        ("none", False, False),
        (ServerVad(), True, True),
        (ServerVad(interrupt_response=False), False, True),
        (ServerVad(create_response=False), True, False),
        (SemanticVad(create_response=False, interrupt_response=False), False, False),
        (SemanticVad(eagerness="low"), True, True),
    ],
)
def test_unset_means_the_provider_does_it(vad: object, interrupts: bool, responds: bool) -> None:
    config = SessionConfig(turn_detection=vad)  # type: ignore[arg-type]

    assert provider_interrupts(config) is interrupts
    assert provider_responds(config) is responds


def test_a_transcription_session_never_responds() -> None:
    assert not provider_responds(SessionConfig(session_type="transcription"))
