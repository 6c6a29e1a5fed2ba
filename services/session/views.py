"""What a client sees when it asks for a session's state or its events."""

from collections.abc import Iterable
from typing import Any

import msgspec

from voicebus.services.session.conversation import Conversation
from voicebus.services.session.core.recovery import is_silent

PAGE_BYTES = 1024 * 1024
"""Then a page of events ends, so that encoding one stops no call for long."""


def page(headers: Iterable[bytes], limit: int) -> list[bytes]:
    """The first of these: so many, and one at least, but no more than fit in a page."""
    found: list[bytes] = []
    size_bytes = 0
    for header in headers:
        size_bytes += len(header)
        if found and size_bytes > PAGE_BYTES:
            break
        found.append(header)
        if len(found) == limit:
            break
    return found


def summary(conversation: Conversation) -> dict[str, Any]:
    """One line of `list`."""
    state = conversation.state
    return {
        "session_id": conversation.session_id,
        "seq": conversation.head,
        "state": state.phase,
        "silent": is_silent(state),
        "transport": f"transport-{state.transport}",
        "model": state.model,
        "provider": state.vendor,
        "created_us": conversation.created_us,
    }


def snapshot(conversation: Conversation) -> dict[str, Any]:
    """Heads, epoch, link, configuration, items, open calls, active responses."""
    state = conversation.state
    return {
        **summary(conversation),
        "inc": conversation.ledger.inc,
        "heads": conversation.heads,
        "epoch": state.epoch,
        "link": {
            "state": state.phase,
            "transport": f"transport-{state.transport}",
            "generation": state.generation,
            "provider_session_id": state.provider_session_id,
            "expires_at": state.expires_at,
        },
        "config": msgspec.to_builtins(state.config),
        "tools": sorted(state.tools),
        "items": [_item(state.items[item_id]) for item_id in state.order],
        "calls": [
            {
                "call_id": call.call_id,
                "name": call.name,
                "state": call.phase,
                "turn_id": call.response_id,
            }
            for call in state.calls.values()
            if call.phase != "ended"
        ],
        "responses": [
            {"turn_id": response.response_id, "out_of_band": response.out_of_band}
            for response in state.responses.values()
            if response.active
        ],
        "tokens": state.tokens,
    }


def _item(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(record.item)
    found["text"] = record.text or None
    found["heard_ms"] = record.heard_ms
    found["generated_ms"] = record.generated_ms
    return found
