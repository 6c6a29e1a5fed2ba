"""`step(state, input) -> (state, effects)`: which machine an input belongs to."""

from typing import NamedTuple, assert_never

from voicebus.bus.messages.events import (
    AssistantText,
    AssistantTextDelta,
    AssistantTranscript,
    AssistantTranscriptDelta,
    AudioDropped,
    Error,
    RateLimits,
    UserSpeechStarted,
    UserSpeechStopped,
    UserTranscript,
    UserTranscriptDelta,
)
from voicebus.services.session.core import (
    calls,
    commands,
    interruption,
    items,
    link,
    playback,
    responses,
)
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.core.state import State


class Step(NamedTuple):
    """What came of an input."""

    state: State
    effects: list[fx.Effect]


def step(state: State, event: i.AnyInput) -> Step:
    """Decide. The given state is not changed."""
    d = Draft(state, event.now_us)
    if state.phase != "closed" or isinstance(event, i.Commanded | i.Attached | i.ToolEnded):
        _decide(d, event)
    return Step(d.s, d.effects)


def deadline(state: State) -> int | None:
    """When the state wants a TimePassed, in Unix microseconds."""
    d = Draft(state, 0)
    found = [
        *link.deadlines(d),
        *responses.deadlines(d),
        *playback.deadlines(d),
        *calls.deadlines(d),
    ]
    return min(found, default=None)


def _decide(d: Draft, event: i.AnyInput) -> None:
    match event:
        case i.SoundPublished():
            responses.seen(d, event.response_id)
            playback.published(d, event)
        case i.AssistantWords():
            _assistant_words(d, event)
        case i.ArgumentsWords():
            responses.seen(d, event.response_id)
            calls.arguments(d, event)
        case i.UserWords():
            _user_words(d, event)
        case i.UserWordsFailed():
            d.publish(
                Error(
                    code="transcription_failed",
                    error=event.message,
                    recoverable=True,
                    details={"item_id": event.item_id},
                )
            )
        case i.SessionRequested():
            link.requested(d, event)
        case i.Attached():
            commands.attached(d, event)
        case i.Commanded():
            commands.handle(d, event)
        case i.UpdateRequested():
            link.renew(d)
            link.update(d, event)
        case i.TalkerSeen():
            link.renew(d)
        case i.TimePassed():
            link.expire(d)
            playback.expire(d)
            calls.expire(d)
            responses.expire(d)
        case i.ProviderConnected():
            link.connected(d, event)
        case i.ProviderDisconnected():
            link.disconnected(d, event)
        case i.TransportLost():
            link.transport_lost(d)
        case i.SoundFlushed():
            pass  # the provider's own word on the caller's speech comes with it
        case i.SoundLost():
            d.publish(
                AudioDropped(direction=event.direction, dropped_ms=event.dropped_ms, why=event.why)
            )
        case i.ProviderSessionCreated():
            link.introduced(d, event)
        case i.ProviderSessionUpdated():
            opened = d.s.phase == "configuring"
            link.confirmed(d, event)
            if opened:
                commands.ready(d)
                responses.pump(d)
        case i.SpeechStarted():
            d.s.speaking = True
            d.publish(UserSpeechStarted(at_ms=event.at_ms, item_id=event.item_id))
            interruption.barge_in(d)
        case i.SpeechStopped():
            d.publish(UserSpeechStopped(at_ms=event.at_ms, item_id=event.item_id))
            d.s.speaking = False
            responses.user_stopped(d, commands.provider_responds(d.s.config))
        case i.InputCommitted():
            d.s.rounds = 0
            items.committed(d, event)
        case i.ItemAdded():
            items.added(d, event)
        case i.ItemDeleted():
            items.deleted(d, event.item_id)
        case i.ResponseStarted():
            responses.started(d, event)
        case i.OutputItemAdded():
            responses.seen(d, event.response_id)
            calls.began(d, event)
        case i.OutputItemDone():
            responses.seen(d, event.response_id)
            calls.closed(d, event.response_id, event.output_index, event.item)
        case i.SoundDone():
            playback.sound_done(d, event)
        case i.ResponseDone():
            responses.done(d, event)
            playback.response_done(d, event.response_id)
            calls.response_done(d, event)
            responses.prune(d)
            responses.pump(d)
            d.do(fx.TurnBoundary())
            link.check_tokens(d)
        case i.LimitsTold():
            d.publish(RateLimits(limits=event.limits))
        case i.ProviderRefused():
            _refused(d, event)
        case i.ToolBegan():
            pass
        case i.ToolSaid():
            calls.progressed(d, event)
        case i.ToolEnded():
            calls.ended(d, event)
        case _:
            assert_never(event)


def _assistant_words(d: Draft, event: i.AssistantWords) -> None:
    responses.seen(d, event.response_id)
    if not event.final:
        delta = AssistantTranscriptDelta if event.spoken else AssistantTextDelta
        d.publish(
            delta(
                turn_id=event.response_id,
                item_id=event.item_id,
                content_index=event.content_index,
                delta=event.text,
            )
        )
        return
    items.words(d, event.item_id, event.text)
    whole = AssistantTranscript if event.spoken else AssistantText
    d.publish(
        whole(
            turn_id=event.response_id,
            item_id=event.item_id,
            content_index=event.content_index,
            text=event.text,
        )
    )


def _user_words(d: Draft, event: i.UserWords) -> None:
    if not event.final:
        d.publish(UserTranscriptDelta(item_id=event.item_id, delta=event.text))
        return
    known = d.s.items.get(event.item_id)
    if known is not None and known.text == event.text and known.text:
        return  # some providers send the final transcript twice
    items.words(d, event.item_id, event.text)
    d.publish(UserTranscript(item_id=event.item_id, text=event.text))


def _refused(d: Draft, event: i.ProviderRefused) -> None:
    if event.meaning == "fatal":
        link.close(d, "error", code=event.code, message=event.message)
        return
    if responses.refused(d, event):
        responses.pump(d)
        return
    if link.refused(d, event) or event.meaning in ("benign", "already_active"):
        return
    asked = d.s.asked.get(event.event_id or "")
    d.publish(
        Error(code=event.code, error=event.message, recoverable=True, details=event.details),
        asked.cause if asked else None,
    )
