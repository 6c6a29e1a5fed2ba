"""Voicebus: realtime voice conversations as supervised processes on a ZeroMQ bus."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voicebus.services.tools.api import Cancelled, ToolContext, tool

__all__ = ["Cancelled", "ToolContext", "tool"]


def __getattr__(name: str) -> Any:
    # Late, so that `import voicebus.bus` pays for nothing it does not use.
    if name in __all__:
        from voicebus.services.tools import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module 'voicebus' has no attribute {name!r}")
