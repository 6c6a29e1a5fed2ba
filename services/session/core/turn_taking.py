"""Who ends a turn and who breaks into one: the provider by its turn detection, or the client."""

from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig


def provider_interrupts(config: SessionConfig) -> bool:
    """Whether the provider's turn detection cancels responses by itself when the caller speaks."""
    match config.turn_detection:
        case "none":
            return False
        case ServerVad(interrupt_response=owned) | SemanticVad(interrupt_response=owned):
            return owned is not False
        case _:
            return True


def provider_responds(config: SessionConfig) -> bool:
    """Whether the provider begins a response by itself at the end of the caller's turn."""
    if config.session_type == "transcription":
        return False
    match config.turn_detection:
        case "none":
            return False
        case ServerVad(create_response=owned) | SemanticVad(create_response=owned):
            return owned is not False
        case _:
            return True
