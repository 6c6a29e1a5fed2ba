"""What a client sees when it asks for a session's state or its events."""

from collections.abc import Iterable

from voicebus.bus.messages import commands as c
from voicebus.services.session.conversation import Conversation
from voicebus.services.session.core import items
from voicebus.services.session.core.recovery import may_leave_transport
from voicebus.services.session.core.state import ItemRecord

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


def summary(conversation: Conversation, now_us: int) -> c.SessionLine:
    """One line of `list`."""
    state = conversation.state
    return c.SessionLine(
        session_id=conversation.session_id,
        seq=conversation.head,
        state=state.phase,
        silent=may_leave_transport(state, now_us),
        transport=f"transport-{state.transport}",
        model=state.model,
        provider=state.vendor,
        created_us=conversation.created_us,
    )


def snapshot(conversation: Conversation, now_us: int) -> c.SessionState:
    """Heads, epoch, link, configuration, items, open calls, active responses."""
    state, line = conversation.state, summary(conversation, now_us)
    return c.SessionState(
        **{field: getattr(line, field) for field in line.__struct_fields__},
        inc=conversation.ledger.inc,
        heads=conversation.heads,
        epoch=state.epoch,
        link=c.LinkShown(
            state=state.phase,
            transport=line.transport,
            generation=state.generation,
            provider_session_id=state.provider_session_id,
            expires_at=state.expires_at,
        ),
        config=state.config,
        tools=sorted(state.tools),
        items=[_item(record) for _, record in items.in_order(state)],
        calls=[
            c.CallShown(
                call_id=call.call_id, name=call.name, state=call.phase, turn_id=call.response_id
            )
            for call in state.calls.values()
            if call.phase != "ended"
        ],
        responses=[
            c.ResponseShown(turn_id=response.response_id, out_of_band=response.out_of_band)
            for response in state.responses.values()
            if response.active
        ],
        tokens=state.tokens,
    )


def _item(record: ItemRecord) -> c.ItemShown:
    item = record.item
    return c.ItemShown(
        item_id=item.item_id,
        type=item.type,
        role=item.role,
        status=item.status,
        call_id=item.call_id,
        name=item.name,
        arguments=item.arguments,
        text=record.text or None,
        heard_ms=record.heard_ms,
        generated_ms=record.generated_ms,
    )
