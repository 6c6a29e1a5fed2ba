"""What comes up from transport and tool pool, as inputs of the core. Pure."""

import orjson

from voicebus.bus.depth import VALUE_DEPTH_LIMIT, is_deep
from voicebus.bus.messages import link, work
from voicebus.bus.messages.base import TooDeep
from voicebus.services.session.core import inputs as i
from voicebus.services.session.providers.base import Translator


class Unknown(LookupError):
    """A frame that says nothing to us, of a kind that should or that we have never heard of."""


def from_provider(translator: Translator, raw: bytes, now_us: int) -> list[i.AnyInput]:
    """What a provider's frame means; nothing where it decides nothing. Raises Unknown, and
    ValueError for what is no event at all."""
    frame = orjson.loads(raw)
    if is_deep(raw, VALUE_DEPTH_LIMIT):
        raise TooDeep("provider", VALUE_DEPTH_LIMIT)
    if not isinstance(frame, dict):
        raise ValueError(f"a JSON {type(frame).__name__}, not an object")
    found = translator.read(frame, now_us)
    kind = frame.get("type")
    if not found and not (isinstance(kind, str) and kind in translator.quiet):
        raise Unknown(str(kind)[:100])
    return found


def from_transport(message: link.Event, now_us: int) -> i.AnyInput | None:
    """What the transport says of itself and of the sound; None for what decides nothing.

    A provider's frame is the translator's, not ours.
    """
    match message:
        case link.SoundPassed(published=True):
            return i.SoundPublished(
                now_us=now_us,
                response_id=message.turn_id,
                item_id=message.item_id,
                content_index=message.content_index,
                samples=message.samples,
            )
        case link.ProviderOpened():
            return i.ProviderConnected(now_us=now_us, generation=message.generation)
        case link.ProviderClosed():
            return i.ProviderDisconnected(
                now_us=now_us,
                generation=message.generation,
                code=message.code,
                http_status=message.http_status,
                reason=message.reason,
                by_us=message.by_us,
                events_lost=message.events_lost,
                error=message.error,
            )
        case link.Flushed():
            return i.SoundFlushed(now_us=now_us, responses=message.responses)
        case link.SoundHeldDropped():
            return i.SoundLost(
                now_us=now_us,
                direction=message.direction,
                dropped_ms=message.dropped_ms,
                why=message.why,
            )
        case link.TalkerAlive():
            return i.TalkerSeen(now_us=now_us, speaks=True)
        case _:
            return None


def from_pool(
    message: work.CallStarted | work.CallProgress | work.Outcome, now_us: int
) -> i.AnyInput:
    """What the pool says of a call."""
    match message:
        case work.CallStarted():
            return i.ToolBegan(now_us=now_us, call_id=message.call_id)
        case work.CallProgress():
            return i.ToolSaid(now_us=now_us, call_id=message.call_id, text=message.text)
        case work.Outcome():
            return i.ToolEnded(
                now_us=now_us,
                call_id=message.call_id,
                status=message.status,
                result=message.result,
                failure=message.failure,
                duration_ms=message.duration_ms,
                cancel_seen_us=message.cancel_seen_us,
            )
