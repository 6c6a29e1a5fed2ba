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
from voicebus.services.session.core.turn_taking import provider_responds

HARMLESS = frozenset({"truncate_item", "delete_item", "cancel_response"})
"""Requests whose refusal says that what was to be stopped, cut or deleted is already gone."""


class Step(NamedTuple):
    """What came of an input."""

    state: State
    effects: list[fx.Effect]


def step(state: State, event: i.AnyInput) -> Step:
    """Decide. The given state is not changed."""
    d = Draft(state, event.now_us)
    if state.phase == "closed":
        _after_the_end(d, event)
    else:
        _decide(d, event)
    return Step(d.s, d.effects)


def deadline(state: State) -> int | None:
    """When the state wants a TimePassed, in Unix microseconds."""
    if state.phase == "closed":
        return None
    d = Draft(state, 0)
    found = [
        *link.deadlines(d),
        *responses.deadlines(d),
        *playback.deadlines(d),
        *calls.deadlines(d),
    ]
    return min(found, default=None)


def _after_the_end(d: Draft, event: i.AnyInput) -> None:
    """Nothing follows `session_closed`; but whoever waits for an answer gets one."""
    match event:
        case i.Commanded() | i.Attached() | i.UpdateRequested():
            d.refuse(event.command_id, "gone", "the session is closed")
        case i.ToolEnded():
            d.do(fx.ForgetOutcome(event.call_id))
        case _:
            pass


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
            _time_passed(d)
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
                link.next_update(d)
                commands.ready(d)
                responses.pump(d)
        case i.SpeechStarted():
            responses.user_started(d)
            d.publish(UserSpeechStarted(at_ms=event.at_ms, item_id=event.item_id))
            interruption.barge_in(d)
        case i.SpeechStopped():
            d.publish(UserSpeechStopped(at_ms=event.at_ms, item_id=event.item_id))
            responses.user_stopped(d, provider_responds(d.s.config))
        case i.InputCommitted():
            d.s.rounds = 0
            d.s.unanswered = provider_responds(d.s.config)
            items.committed(d, event)
            if d.s.speaking_us:  # its end was not told
                responses.user_stopped(d, provider_responds(d.s.config))
        case i.ItemAdded():
            items.added(d, event)
        case i.ItemDeleted():
            items.deleted(d, event.item_id)
        case i.ResponseStarted():
            responses.started(d, event)
        case i.OutputItemAdded():
            responses.seen(d, event.response_id)
            responses.wrote(d, event)
            calls.began(d, event)
        case i.OutputItemDone():
            responses.seen(d, event.response_id)
            calls.wrote(d, event)
        case i.SoundDone():
            playback.sound_done(d, event)
        case i.ResponseDone():
            _response_over(d, event)
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


def _time_passed(d: Draft) -> None:
    link.expire(d)
    if d.s.phase == "closed":
        return
    playback.expire(d)
    calls.expire(d)
    for given_up in responses.expire(d):
        _response_over(d, given_up)


def _response_over(d: Draft, event: i.ResponseDone) -> None:
    """The same for those the provider ends and those the watchdog gives up."""
    if event.status == "cancelled" and event.reason == "turn_detected":
        interruption.cancelled_by_provider(d, event.response_id)
    if not responses.done(d, event):
        return
    playback.response_done(d, event.response_id)
    calls.response_done(d, event)
    responses.prune(d)
    responses.pump(d)
    d.do(fx.TurnBoundary())
    if event.fatal:
        error = event.error or {}
        link.close(
            d,
            "error",
            code=str(error.get("code") or error.get("type") or "provider_error"),
            message=str(error.get("message") or "the provider refuses to answer"),
        )
        return
    link.check_tokens(d)


def _assistant_words(d: Draft, event: i.AssistantWords) -> None:
    responses.seen(d, event.response_id)
    if event.spoken:
        key = playback.key_of(event.item_id, event.content_index)
        responses.spoke(d, event.response_id, key, event.text, whole=event.final)
    else:
        responses.mark(d, event.response_id, event.item_id, "written")
    if not event.final:
        if responses.is_interrupted(d, event.response_id):
            return  # it was under way when the caller stopped it
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
    if not responses.is_out_of_band(d, event.response_id) and not items.assistant_words(
        d, event.item_id, event.content_index, event.text
    ):
        return  # said before
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
    if event.final:
        known = items.caller_words(d, event.item_id, event.text, final=True)
        if known is None or not known.final or known.text != event.text:
            d.publish(UserTranscript(item_id=event.item_id, text=event.text, usage=event.usage))
        return
    if not event.cumulative:
        if event.text and not items.is_transcribed(d, event.item_id):
            d.publish(UserTranscriptDelta(item_id=event.item_id, delta=event.text))
        return
    known = items.caller_words(d, event.item_id, event.text, final=False)
    before = known.text if known is not None else ""
    if (known is not None and known.final) or event.text == before:
        return
    if event.text.startswith(before):
        delta = UserTranscriptDelta(item_id=event.item_id, delta=event.text[len(before) :])
    else:
        delta = UserTranscriptDelta(item_id=event.item_id, delta="", corrected=event.text)
    d.publish(delta)


def _refused(d: Draft, event: i.ProviderRefused) -> None:
    if event.meaning == "fatal":
        link.close(d, "error", code=event.code, message=event.message)
        return
    if responses.refused(d, event):
        responses.pump(d)
        return
    asked = d.s.asked.get(event.event_id or "")
    if asked is not None and asked.what == "commit_audio":
        commands.commit_refused(d, asked.cause, event)
        return
    if asked is not None and asked.what == "add_output" and asked.ref is not None:
        calls.output_refused(d, asked.ref)
        return
    if event.meaning == "benign" or (asked is not None and asked.what in HARMLESS):
        return
    if link.refused(d, event):
        return
    if asked is not None and asked.what in ("send_text", "add_item"):
        items.deleted(d, event.event_id or "")
    d.publish(
        Error(code=event.code, error=event.message, recoverable=True, details=event.details),
        asked.cause if asked else None,
    )
