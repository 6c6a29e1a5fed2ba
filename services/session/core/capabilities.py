"""What a provider may or may not be able to do."""

import msgspec


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a provider can do. A command that it cannot do is answered `unsupported`."""

    truncate: bool = True
    """Forget the unheard rest of an item."""
    delete: bool = True
    """Take an item out of the conversation."""
    manual_commit: bool = True
    """Push-to-talk."""
    server_turn_detection: bool = True
    semantic_turn_detection: bool = True
    arguments_deltas: bool = True
    text: bool = True
    out_of_band: bool = True
    transcription_sessions: bool = True
    rate_limit_events: bool = True
    runs_tools: bool = False
    """It runs tools of its own and shows them as calls: those whose names we do not know."""
    resume: bool = False
    longest_session_s: float | None = None
