"""What is said when tools keep a caller waiting in silence: once per batch, and off by default.

It is a response of the default conversation, so that the model knows that it said so, and so that
its sound comes before that of the answer and not over it: out of band, both would be sent at the
same time. As at most one such response may be active, it is asked for only where none is active,
asked for or waiting, and the answer to the tools waits for its end, which is a sentence away.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from voicebus.services.session.core import playback, responses
from voicebus.services.session.core.draft import Draft, with_
from voicebus.services.session.core.state import Batch


def _waited_for(d: Draft) -> Iterator[tuple[Batch, int]]:
    """The batches of which a tool runs, and since when."""
    for batch in d.s.batches.values():
        if batch.filled or batch.settled or batch.interrupted_us or batch.apart:
            continue
        began = [
            call.began_us
            for call_id in batch.call_ids
            if (call := d.s.calls[call_id]).phase == "running"
        ]
        if began:
            yield batch, min(began)


def deadlines(d: Draft) -> list[int]:
    """When expire() wants to be called."""
    filler = d.s.config.filler
    if filler is None or "audio" not in d.s.config.modalities or not responses.is_quiet(d):
        return []
    silent_us = playback.ends_us(d)
    after_us = filler.after_ms * 1000
    return [max(began_us, silent_us) + after_us for _, began_us in _waited_for(d)]


def expire(d: Draft) -> None:
    """A caller has waited in silence for too long: have something said."""
    filler = d.s.config.filler
    if filler is None or d.now_us < min(deadlines(d), default=d.now_us + 1):
        return
    for batch, _ in tuple(_waited_for(d)):
        filled = replace(batch, filled=True)
        d.s.batches = with_(d.s.batches, batch.response_id, filled)
    # Those of a response replace those of the conversation: who it is, and in which language.
    words = [d.s.config.instructions, filler.instructions]
    responses.bridge(d, {"instructions": "\n\n".join(filter(None, words))})
