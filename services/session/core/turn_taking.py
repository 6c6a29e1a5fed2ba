"""Who ends a turn and who breaks into one: the provider by its turn detection, or the client."""

from voicebus.bus.messages.commands import SessionConfig


def provider_interrupts(config: SessionConfig) -> bool:
    """Whether the provider's turn detection cancels responses by itself when the caller speaks."""
    detection = config.turn_detection
    if isinstance(detection, str):
        return detection != "none"
    return detection.interrupt_response is not False


def provider_responds(config: SessionConfig) -> bool:
    """Whether the provider begins a response by itself at the end of the caller's turn."""
    if config.session_type == "transcription":
        return False
    detection = config.turn_detection
    if isinstance(detection, str):
        return detection != "none"
    return detection.create_response is not False


def client_ends_turns(config: SessionConfig) -> bool:
    """Whether nobody but the client ends a turn: until it does, the provider only keeps sound."""
    return config.turn_detection == "none"
