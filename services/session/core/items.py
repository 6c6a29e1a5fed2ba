"""The conversation as the provider keeps it: items in the order of `previous_item_id`.

Transcripts come whenever they come: early, late, twice, never. They never change the order.
"""

from msgspec.structs import replace

from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft, with_, without
from voicebus.services.session.core.state import ItemRecord


def added(d: Draft, event: i.ItemAdded) -> None:
    """An item stands in the conversation; again, it only becomes more complete."""
    item = event.item
    if not item.item_id:
        return
    known = d.s.items.get(item.item_id)
    if known is None:
        record = ItemRecord(item=item, text=item.text or "", done=event.done)
        d.s.order = _placed(d.s.order, item.item_id, event.previous_item_id)
    else:
        # A later announcement may lack what an earlier one had; it never takes anything away.
        merged = item if item.text or not known.item.text else replace(item, text=known.item.text)
        record = replace(
            known, item=merged, text=item.text or known.text, done=known.done or event.done
        )
    d.s.items = with_(d.s.items, item.item_id, record)


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


def words(d: Draft, item_id: str, text: str) -> None:
    """The whole text of an item is known; the last word on it stands."""
    known = d.s.items.get(item_id)
    if known is None:
        return
    d.s.items = with_(d.s.items, item_id, replace(known, text=text))


def deleted(d: Draft, item_id: str) -> None:
    """An item is gone."""
    if item_id in d.s.items:
        d.s.items = without(d.s.items, item_id)
        d.s.order = tuple(other for other in d.s.order if other != item_id)
