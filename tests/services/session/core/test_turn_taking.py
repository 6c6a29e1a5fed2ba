"""Who ends a turn and who breaks into one."""

import pytest

from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.services.session.core.turn_taking import (
    client_ends_turns,
    provider_interrupts,
    provider_responds,
)


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


@pytest.mark.parametrize(
    ("vad", "client"),
    [("none", True), ("server_vad", False), (ServerVad(create_response=False), False)],
)
def test_turns_end_by_the_client_only_where_there_is_no_turn_detection(
    vad: object, client: bool
) -> None:
    config = SessionConfig(turn_detection=vad)  # type: ignore[arg-type]

    assert client_ends_turns(config) is client
