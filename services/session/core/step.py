"""`step(state, input) -> (state, effects)`: which machine an input belongs to."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
    commits,
    filler,
    interruption,
    items,
    link,
    playback,
    responses,
)
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.core.state import Speech, State
from voicebus.services.session.core.turn_taking import provider_responds

HARMLESS = frozenset({"truncate_item", "delete_item", "cancel_response"})
"""Requests whose refusal says that what was to be stopped, cut or deleted is already gone."""

TURNS = 16
"""Turns of the caller's that are known again when something of them is told twice."""


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
        HANDLERS[type(event)](d, event)
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
        *filler.deadlines(d),
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


def _sound_published(d: Draft, event: i.SoundPublished) -> None:
    responses.seen(d, event.response_id)
    playback.published(d, event)


def _arguments_words(d: Draft, event: i.ArgumentsWords) -> None:
    responses.seen(d, event.response_id)
    calls.arguments(d, event)


def _user_words_failed(d: Draft, event: i.UserWordsFailed) -> None:
    d.publish(
        Error(
            code="transcription_failed",
            error=event.message,
            recoverable=True,
            details={"item_id": event.item_id},
        )
    )


def _update_requested(d: Draft, event: i.UpdateRequested) -> None:
    link.renew(d)
    link.update(d, event)


def _talker_seen(d: Draft, event: i.TalkerSeen) -> None:
    link.renew(d, speaks=event.speaks)


def _sound_lost(d: Draft, event: i.SoundLost) -> None:
    d.publish(AudioDropped(direction=event.direction, dropped_ms=event.dropped_ms, why=event.why))


def _session_updated(d: Draft, event: i.ProviderSessionUpdated) -> None:
    opened = d.s.phase == "configuring"
    link.confirmed(d, event)
    if opened:
        link.next_update(d)
        commands.ready(d)
        responses.pump(d)


def _speech_started(d: Draft, event: i.SpeechStarted) -> None:
    if not _is_news(d, event, over=False):
        return  # it has interrupted what there was then; what there is now may answer it
    responses.user_started(d)
    d.publish(UserSpeechStarted(at_ms=event.at_ms, item_id=event.item_id))
    interruption.barge_in(d)


def _speech_stopped(d: Draft, event: i.SpeechStopped) -> None:
    if not _is_news(d, event, over=True):
        return  # the caller may be speaking again
    d.publish(UserSpeechStopped(at_ms=event.at_ms, item_id=event.item_id))
    responses.user_stopped(d, provider_responds(d.s.config))


def _is_news(d: Draft, event: i.SpeechStarted | i.SpeechStopped, *, over: bool) -> bool:
    """Whether a beginning or an end of speech was not told before. Without an item all are.

    What is told again is not newer than what was told last, by the provider's clock. A beginning
    that is newer counts, whatever its item: some are spoken on after a pause.
    """
    item_id, last = event.item_id, d.s.speech
    if item_id is None:
        d.s.speech = None
        return True
    is_last = last is not None and last.item_id == item_id
    if last is None or not (is_last or item_id in d.s.turns):
        was_told = False
    elif over:
        was_told = last.over or not is_last
    else:
        was_told = event.at_ms <= last.at_ms
    if not was_told:
        d.s.speech = Speech(item_id=item_id, over=over, at_ms=event.at_ms)
    return not was_told


def _input_committed(d: Draft, event: i.InputCommitted) -> None:
    if event.item_id in d.s.turns:
        return  # told twice: it is answered, or being answered, already
    if event.item_id:
        d.s.turns = (*d.s.turns, event.item_id)[-TURNS:]
    commits.confirmed(d)
    d.s.stifled = False
    d.s.rounds = 0
    d.s.unanswered = provider_responds(d.s.config)
    items.committed(d, event)
    if d.s.speaking_us:  # its end was not told
        responses.user_stopped(d, provider_responds(d.s.config))
    if d.s.unanswered:
        responses.user_turn_over(d)
    # Where nobody answers, as where words are only written down, there is no other.
    d.do(fx.TurnBoundary())


def _item_added(d: Draft, event: i.ItemAdded) -> None:
    call = calls.of_output(d, event.item)
    if call is not None and items.find(d.s, event.item.item_id) is None:
        responses.output_stands(d, call)
    items.added(d, event)


def _item_deleted(d: Draft, event: i.ItemDeleted) -> None:
    items.deleted(d, event.item_id)


def _output_item_added(d: Draft, event: i.OutputItemAdded) -> None:
    responses.seen(d, event.response_id)
    responses.wrote(d, event)
    calls.began(d, event)


def _output_item_done(d: Draft, event: i.OutputItemDone) -> None:
    responses.seen(d, event.response_id)
    calls.wrote(d, event)


def _limits_told(d: Draft, event: i.LimitsTold) -> None:
    d.publish(RateLimits(limits=event.limits))


def _time_passed(d: Draft, event: i.TimePassed) -> None:
    link.expire(d)
    if d.s.phase == "closed":
        return
    playback.expire(d)
    calls.expire(d)
    for given_up in responses.expire(d):
        _response_over(d, given_up)
    filler.expire(d)


def _response_over(d: Draft, event: i.ResponseDone) -> None:
    """The same for those the provider ends and those the watchdog gives up."""
    if event.status == "cancelled" and event.reason == "turn_detected":
        interruption.cancelled_by_provider(d, event.response_id)
    if not responses.done(d, event):
        return
    cause = d.s.responses[event.response_id].cause
    playback.response_done(d, event.response_id)
    calls.response_done(d, event)
    calls.prune(d)
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
            cause=cause,
        )
        return
    link.check_tokens(d)


def _assistant_words(d: Draft, event: i.AssistantWords) -> None:
    responses.seen(d, event.response_id)
    key = playback.key_of(event.item_id, event.content_index)
    if event.spoken:
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
    is_news = not responses.is_told(d, event.response_id, key, event.text)
    if not responses.is_out_of_band(d, event.response_id):
        of_item = items.assistant_words(d, event.item_id, event.content_index, event.text)
        is_news = is_news and of_item
    if not is_news:
        return
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
    # A code that is harmless for a cut that came too late is none for an item of a client's.
    is_harmless = event.meaning == "benign" if asked is None else asked.what in HARMLESS
    if is_harmless:
        return
    if link.refused(d, event):
        return
    if asked is not None and asked.what in ("send_text", "add_item"):
        items.refused(d, asked.ref or event.event_id or "")
    d.publish(
        Error(code=event.code, error=event.message, recoverable=True, details=event.details),
        asked.cause if asked else None,
    )


def _nothing(d: Draft, event: i.AnyInput) -> None:
    """Worth a line in the journal, and nothing has to be decided."""


# A table and not a `match`: that tries its cases in turn, which costs the later ones 5 µs.
HANDLERS: dict[type[i.Input], Callable[[Draft, Any], object]] = {
    i.SessionRequested: link.requested,
    i.Attached: commands.attached,
    i.Commanded: commands.handle,
    i.UpdateRequested: _update_requested,
    i.TalkerSeen: _talker_seen,
    i.TimePassed: _time_passed,
    i.ProviderConnected: link.connected,
    i.ProviderDisconnected: link.disconnected,
    i.TransportLost: link.transport_lost,
    i.TransportLeft: link.transport_left,
    i.SoundFlushed: _nothing,  # the provider's own word on the caller's speech comes with it
    i.SoundLost: _sound_lost,
    i.ProviderSessionCreated: link.introduced,
    i.ProviderSessionUpdated: _session_updated,
    i.SpeechStarted: _speech_started,
    i.SpeechStopped: _speech_stopped,
    i.InputCommitted: _input_committed,
    i.UserWords: _user_words,
    i.UserWordsFailed: _user_words_failed,
    i.ItemAdded: _item_added,
    i.ItemDeleted: _item_deleted,
    i.ResponseStarted: responses.started,
    i.OutputItemAdded: _output_item_added,
    i.OutputItemDone: _output_item_done,
    i.AssistantWords: _assistant_words,
    i.ArgumentsWords: _arguments_words,
    i.SoundPublished: _sound_published,
    i.SoundDone: playback.sound_done,
    i.ResponseDone: _response_over,
    i.LimitsTold: _limits_told,
    i.ProviderRefused: _refused,
    i.ToolBegan: _nothing,
    i.ToolSaid: calls.progressed,
    i.ToolEnded: calls.ended,
}
"""Which function decides on which input. Every input has one; a test says which has not."""
