"""The conversation as the provider keeps it: items in the order of `previous_item_id`.

Transcripts come whenever they come: early, late, twice, never. They never change the order.
"""

from collections.abc import Iterator
from itertools import chain

from msgspec.structs import replace

from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft, with_, without
from voicebus.services.session.core.state import ItemRecord, State

GONE = 64
"""Ids of deleted items that are remembered."""
LIMIT = 2_000
"""Items remembered; the oldest are forgotten first, as the provider's own context does."""
LATEST = 64
"""Items that are copied with each change; the older half of more becomes `former`, so that a long
conversation costs hardly more than a short one."""


def find(s: State, item_id: str) -> ItemRecord | None:
    """An item that stands in the conversation."""
    return s.items.get(item_id) or s.former.get(item_id)


def in_order(s: State) -> Iterator[tuple[str, ItemRecord]]:
    """All of them, with their ids."""
    return ((item_id, s.items.get(item_id) or s.former[item_id]) for item_id in s.order)


def keep(d: Draft, item_id: str, record: ItemRecord) -> None:
    """As it is now; its place in the order is not looked at."""
    s = d.s
    if item_id in s.former:
        s.former = with_(s.former, item_id, record)
        return
    s.items = with_(s.items, item_id, record)
    if len(s.items) > LATEST:
        latest = list(s.items.items())
        half = len(latest) - LATEST // 2
        s.former = {**s.former, **dict(latest[:half])}
        s.items = dict(latest[half:])


def _drop(d: Draft, item_id: str) -> None:
    if item_id in d.s.former:
        d.s.former = without(d.s.former, item_id)
    else:
        d.s.items = without(d.s.items, item_id)


def added(d: Draft, event: i.ItemAdded) -> None:
    """An item stands in the conversation; again, it only becomes more complete."""
    item = event.item
    if not item.item_id or item.item_id in d.s.gone:
        return
    known = find(d.s, item.item_id)
    if known is None:
        known = _renamed(d, item)
    if known is None:
        record = ItemRecord(
            item=item,
            text=item.text or "",
            done=event.done,
            placed=event.previous_item_id is not None,
        )
        d.s.order = _placed(d.s.order, item.item_id, event.previous_item_id)
    else:
        if not known.placed and event.previous_item_id is not None:
            order = tuple(other for other in d.s.order if other != item.item_id)
            d.s.order = _placed(order, item.item_id, event.previous_item_id)
            known = replace(known, placed=True)
        record = replace(
            known,
            item=_merged(known.item, item),
            text=known.text or item.text or "",
            done=known.done or event.done,
            ours=False,
        )
    keep(d, item.item_id, record)
    _limit(d)


def _limit(d: Draft) -> None:
    if len(d.s.order) > LIMIT:
        oldest, d.s.order = d.s.order[0], d.s.order[1:]
        _drop(d, oldest)


def asked(d: Draft, item_id: str, role: str, text: str) -> None:
    """We asked for this item under an id of ours: it counts, whether the provider announces it or
    not. A connection that breaks before it does must not lose what the caller wrote."""
    d.s.gone = tuple(other for other in d.s.gone if other != item_id)
    item = i.Item(item_id=item_id, type="message", role=role, text=text)
    record = ItemRecord(item=item, text=text, ours=True)
    keep(d, item_id, record)
    d.s.order = (*d.s.order, item_id)
    _limit(d)


def refused(d: Draft, item_id: str) -> None:
    """The provider did not take it: no connection is told of it again."""
    d.s.given = without(d.s.given, item_id)
    deleted(d, item_id)


def _renamed(d: Draft, item: i.Item) -> ItemRecord | None:
    """A provider that chooses its own ids announces what we asked for under another name."""
    if not item.text or item.type != "message":
        return None
    for item_id, record in chain(d.s.former.items(), d.s.items.items()):
        if record.ours and record.item.role == item.role and record.text == item.text:
            renamed = replace(record, item=replace(record.item, item_id=item.item_id), ours=False)
            _drop(d, item_id)
            keep(d, item.item_id, renamed)
            d.s.order = tuple(item.item_id if one == item_id else one for one in d.s.order)
            return renamed
    return None


def _merged(old: i.Item, new: i.Item) -> i.Item:
    """A later announcement may lack what an earlier one had; it never takes anything away."""
    return i.Item(
        item_id=old.item_id,
        type=new.type or old.type,
        role=new.role or old.role,
        status=new.status or old.status,
        call_id=new.call_id or old.call_id,
        name=new.name or old.name,
        arguments=new.arguments or old.arguments,
        text=new.text or old.text,
    )


def committed(d: Draft, event: i.InputCommitted) -> None:
    """The caller's sound became an item, which will be announced, now or later."""
    added(
        d,
        i.ItemAdded(
            item=i.Item(item_id=event.item_id, type="message", role="user"),
            previous_item_id=event.previous_item_id,
        ),
    )


def _placed(order: tuple[str, ...], item_id: str, previous: str | None) -> tuple[str, ...]:
    if previous == "root":
        return (item_id, *order)
    if previous is None or previous not in order:
        return (*order, item_id)
    at = order.index(previous) + 1
    return (*order[:at], item_id, *order[at:])


def assistant_words(d: Draft, item_id: str, content_index: int, text: str) -> bool:
    """The whole text of a piece of an item. Returns False when it was known before."""
    known = _known(d, item_id, "assistant")
    if known is None:
        return True
    if known.parts.get(content_index) == text:
        return False
    parts = with_(known.parts, content_index, text)
    whole = " ".join(parts[index] for index in sorted(parts) if parts[index])
    keep(d, item_id, replace(known, parts=parts, text=whole))
    return True


def caller_words(d: Draft, item_id: str, text: str, *, final: bool) -> ItemRecord | None:
    """What the caller said, whole or so far. Returns how it was known before."""
    known = _known(d, item_id, "user")
    if known is not None and (final or not known.final):
        changed = replace(known, text=text, final=known.final or final)
        keep(d, item_id, changed)
    return known


def is_transcribed(d: Draft, item_id: str) -> bool:
    """Whether the caller's words are final: a late piece of them says nothing new."""
    known = find(d.s, item_id)
    return known is not None and known.final


def _known(d: Draft, item_id: str, role: str) -> ItemRecord | None:
    """The record of an item, begun here when its words come before its announcement."""
    if find(d.s, item_id) is None:
        added(d, i.ItemAdded(item=i.Item(item_id=item_id, type="message", role=role)))
    return find(d.s, item_id)


def delete(d: Draft, item_id: str) -> None:
    """Take it out of the provider's conversation, and out of what another connection is told."""
    d.ask(fx.DeleteItem(item_id), "delete_item", ref=item_id)
    deleted(d, item_id)


def deleted(d: Draft, item_id: str) -> None:
    """An item is gone, or we have asked for that; a late word of it does not bring it back."""
    if item_id and item_id not in d.s.gone:
        d.s.gone = (*d.s.gone, item_id)[-GONE:]
    if find(d.s, item_id) is not None:
        _drop(d, item_id)
        d.s.order = tuple(other for other in d.s.order if other != item_id)
