"""The scheduler of `response.create` and `response.cancel`: one place, no "current turn".

    wanted ──(no default response active or asked for)──▶ asked ──announced──▶ active ──▶ done
      ▲                                                     │
      └──────── refused: another one is active ◀────────────┘

At most one response of the default conversation is asked for or active. Automatic creates, after
tool outputs, coalesce, and a response that the provider's turn detection began answers them. A
client's own keep their number and order. Out-of-band responses overlap everything.
"""

from typing import Any, Literal

from msgspec.structs import replace

from voicebus.bus.messages.events import (
    AssistantTurnCompleted,
    AssistantTurnStarted,
    Error,
    RateLimited,
)
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft, with_, without
from voicebus.services.session.core.state import Call, Create, Response

ANNOUNCE_US = 10_000_000
"""A create that is neither announced nor refused for so long is given up."""
SILENT_US = 60_000_000
"""A response of which nothing comes for so long is cancelled."""
STOPPING_US = 5_000_000
"""A response that was stopped and of which nothing comes for so long is taken as over."""
ANSWER_US = 3_000_000
"""How long automatic creates wait for the provider's own answer to the caller's turn."""
UNANNOUNCED_US = 250_000
"""How long a create waits that was refused for a response we have not heard of; then twice that."""
UNANNOUNCED_LIMIT = 8
"""How often it is tried: 250 ms, 500 ms, … 4 s, 4 s."""
SPEECH_US = 60_000_000
"""Nobody speaks for longer without a pause: the provider's word on the end was lost."""
RETRY_LIMIT = 3
"""How often a response that failed by a rate limit is asked for again."""
RETRY_MS = 1_000
"""How long a retry waits when the provider does not say."""
QUEUE_LIMIT = 32
"""Creates of clients that may wait for their turn; one more is refused."""
REMEMBERED = 8
"""Responses that are over and still known, so that their late events are recognised."""
FORGOTTEN = 64
"""Ids of older ones: what still comes of them is not taken for the beginning of a new one."""


# --- wanting and asking -----------------------------------------------------------------------


def want(
    d: Draft,
    *,
    automatic: bool,
    cause: str | None = None,
    overrides: dict[str, Any] | None = None,
    tool_choice: str | None = None,
) -> None:
    """Somebody wants a response; it is asked for when its turn has come."""
    if automatic and any(waiting.automatic for waiting in d.s.queue):
        d.s.queue = tuple(
            replace(waiting, tool_choice=_stricter(waiting.tool_choice, tool_choice))
            if waiting.automatic
            else waiting
            for waiting in d.s.queue
        )
        pump(d)
        return
    overrides = overrides or {}
    create = Create(
        tag=_tag(d),
        automatic=automatic,
        cause=cause,
        overrides=overrides,
        out_of_band=overrides.get("conversation") == "none",
        tool_choice=tool_choice,
    )
    d.s.queue = (*d.s.queue, create)
    pump(d)


def want_again(d: Draft, *creates: Create) -> None:
    """What was asked for and did not come about is wanted as before, ahead of what waits. Automatic
    ones coalesce here, too: one answer sees all outputs."""
    queue = (*creates, *d.s.queue)
    first = next((create for create in queue if create.automatic), None)
    if first is not None:
        for other in queue:
            if other.automatic:
                first = replace(first, tool_choice=_stricter(first.tool_choice, other.tool_choice))
        others = [one for one in queue if not one.automatic or one.tag == first.tag]
        queue = tuple(first if one.tag == first.tag else one for one in others)
    d.s.queue = queue


def bridge(d: Draft, overrides: dict[str, Any]) -> None:
    """Ask now for something to say while tools run, where `is_quiet`. It may call none itself."""
    _ask(
        d,
        Create(tag=_tag(d), automatic=False, overrides=overrides, tool_choice="none", filler=True),
    )


def is_quiet(d: Draft) -> bool:
    """Whether nobody speaks and no response is active, asked for or waiting."""
    return (
        d.s.phase == "ready"
        and not d.s.speaking_us
        and not d.s.queue
        and d.s.creating is None
        and active_default(d) is None
    )


def is_full(d: Draft) -> bool:
    """Whether so many creates wait that another one is refused."""
    return len(d.s.queue) >= QUEUE_LIMIT


def _tag(d: Draft) -> str:
    tag = str(d.s.next_tag)
    d.s.next_tag += 1
    return tag


def _stricter(one: str | None, other: str | None) -> str | None:
    return "none" if "none" in (one, other) else one or other


def pump(d: Draft) -> None:
    """Ask for whatever may be asked for now."""
    if d.s.phase != "ready" or not d.s.queue:
        return
    for create in d.s.queue:
        if create.not_before_us > d.now_us or not _may_be_asked(d, create):
            continue
        if _is_answered_by_another(d, create):
            continue
        _ask(d, create)


def _first_manual(d: Draft) -> Create | None:
    """The next of the clients' own for the default conversation."""
    waiting = (one for one in d.s.queue if not one.automatic and not one.out_of_band)
    return next(waiting, None)


def _may_be_asked(d: Draft, create: Create) -> bool:
    """Whether nothing but time stands in its way."""
    if create.out_of_band:
        return True
    if create.automatic and d.s.speaking_us:
        return False
    if not create.automatic and (first := _first_manual(d)) and first.tag != create.tag:
        return False  # that one waits for a retry: they keep their order
    return d.s.creating is None and active_default(d) is None


def _is_answered_by_another(d: Draft, create: Create) -> bool:
    """A client's own plain create sees the tool outputs, too: one answer instead of two."""
    other = _first_manual(d) if create.automatic else None
    if other is None or other.overrides or other.not_before_us > d.now_us:
        return False
    stricter = replace(other, tool_choice=_stricter(other.tool_choice, create.tool_choice))
    d.s.queue = tuple(waiting for waiting in d.s.queue if waiting.tag != create.tag)
    _ask(d, stricter)
    return True


def _ask(d: Draft, create: Create) -> None:
    d.s.queue = tuple(waiting for waiting in d.s.queue if waiting.tag != create.tag)
    event_id = d.ask(
        fx.CreateResponse(create.tag, create.overrides, create.tool_choice),
        "create_response",
        cause=create.cause,
        ref=create.tag,
    )
    asked = replace(create, asked_us=d.now_us, event_id=event_id, not_before_us=0)
    if create.out_of_band:
        d.s.apart = (*d.s.apart, asked)
    else:
        d.s.creating = asked


def active_default(d: Draft) -> Response | None:
    """The one response that writes the default conversation now, if any."""
    for response in d.s.responses.values():
        if _writes(response):
            return response
    return None


def _writes(response: Response) -> bool:
    return response.active and not response.out_of_band and not response.overtaken


def withdraw(d: Draft, cause: str) -> None:
    """What this command wanted answered does not exist: its response is not wanted either."""
    d.s.queue = tuple(create for create in d.s.queue if create.cause != cause)
    if d.s.creating is not None and d.s.creating.cause == cause:
        d.s.creating = replace(d.s.creating, unwanted=True)
    for response in tuple(d.s.responses.values()):
        if response.cause == cause:
            cancel(d, response.response_id)


def drop_queue(d: Draft) -> bool:
    """An interrupt withdraws what was wanted and not yet announced. Returns whether there was."""
    kept = tuple(create for create in d.s.queue if create.out_of_band)
    dropped = len(kept) < len(d.s.queue) or (d.s.creating is not None and not d.s.creating.unwanted)
    d.s.queue = kept
    unwant(d)
    if d.s.unanswered:
        # The provider will answer the caller by itself; there is no id to cancel by yet. Without a
        # connection nobody will: the answer to the next turn must not be taken for that one.
        d.s.unanswered, d.s.stifled = False, d.s.phase == "ready"
        return True
    return dropped


def unwant(d: Draft) -> None:
    """What was asked for is cancelled as soon as it is announced."""
    if d.s.creating is not None:
        d.s.creating = replace(d.s.creating, unwanted=True)


# --- announced --------------------------------------------------------------------------------


def started(d: Draft, event: i.ResponseStarted) -> None:
    """The provider announced a response: ours, or one of its turn detection."""
    if event.response_id in d.s.responses or event.response_id in d.s.forgotten:
        return
    before = active_default(d)
    response = _begin(d, event)
    if before is None or response.out_of_band or (response.create is None and d.s.apart):
        return  # the last may be one out of band whose provider does not say so
    # Its end was lost, or comes late. It holds nothing back, and a late end counts as any other.
    overtaken = replace(d.s.responses[before.response_id], overtaken=True)
    d.s.responses = with_(d.s.responses, before.response_id, overtaken)
    if response.create is None and response.answers is None and before.answers is not None:
        # What the one was to answer, the next one sees as well, or misses as well.
        inherited = replace(d.s.responses[response.response_id], answers=before.answers)
        d.s.responses = with_(d.s.responses, response.response_id, inherited)


def _begin(d: Draft, event: i.ResponseStarted) -> Response:
    create, late = _claim(d, event.tag, event.out_of_band)
    out_of_band = event.out_of_band or (create is not None and create.out_of_band)
    is_foreign = create is None and not late and not out_of_band
    is_stifled = is_foreign and d.s.stifled
    answers = _answers_automatic(d) if is_foreign and not is_stifled else None
    if not out_of_band:
        d.s.unanswered = d.s.stifled = False
    response = Response(
        response_id=event.response_id,
        out_of_band=out_of_band,
        cause=create.cause if create else None,
        create=create,
        started_us=d.now_us,
        seen_us=d.now_us,
        answers=answers,
        assumed=create is not None and event.tag is None,
    )
    d.s.responses = with_(d.s.responses, event.response_id, response)
    d.publish(AssistantTurnStarted(turn_id=event.response_id), response.cause)
    if late or is_stifled or (create is not None and create.unwanted):
        interrupted = replace(response, interrupted=True)
        d.s.responses = with_(d.s.responses, event.response_id, interrupted)
        d.do(fx.Flush((event.response_id,), "interrupted before it was announced"))
        cancel(d, event.response_id)
    return response


def _claim(d: Draft, tag: str | None, out_of_band: bool) -> tuple[Create | None, bool]:
    """The create that this response answers, and whether it is one that was given up."""
    create = d.s.creating
    if tag is not None:
        d.s.echoes = True
        if create is not None and create.tag == tag:
            d.s.creating = None
            return create, False
        for one in d.s.apart:
            if one.tag == tag:
                d.s.apart = tuple(other for other in d.s.apart if other.tag != tag)
                return one, False
        return None, True
    if d.s.echoes:
        return None, False
    if out_of_band and d.s.apart:
        one, *rest = d.s.apart
        d.s.apart = tuple(rest)
        return one, False
    if create is not None and not out_of_band:
        d.s.creating = None
        return create, False
    return None, False


def _answers_automatic(d: Draft) -> Create | None:
    """The provider's own response has seen the tool outputs that an automatic one was to answer;
    should it turn out that it has not, that one is wanted again."""
    d.s.speaking_us = 0
    automatic = next((waiting for waiting in d.s.queue if waiting.automatic), None)
    d.s.queue = tuple(waiting for waiting in d.s.queue if not waiting.automatic)
    return automatic


def output_stands(d: Draft, call: Call) -> None:
    """The output of this call stands in the conversation. The provider's own responses that are
    active now began before that and have not seen it, so that they do not answer it."""
    answers: Create | None = None
    writing = [response for response in d.s.responses.values() if _writes(response)]
    for response in (*writing, *_missed_to_its_end(d, call)):
        if response.create is not None and not response.assumed:
            continue
        answers = answers or response.answers
        changed = replace(response, missed=True, answers=None)
        d.s.responses = with_(d.s.responses, response.response_id, changed)
    if answers is not None:
        # It waited for such a response to begin; that is over.
        want_again(d, replace(answers, not_before_us=0))
        pump(d)


def _missed_to_its_end(d: Draft, call: Call) -> list[Response]:
    """The response that was to answer an output which was under way when it began, and that was
    over when it arrived."""
    # A create under way was asked for after the output, and sees it. Of an older connection's call
    # the output was told again, as history.
    if d.s.creating is not None or call.generation != d.s.generation:
        return []
    later: list[Response] = []
    for response in reversed(d.s.responses.values()):
        is_ours = response.create is not None and not response.assumed
        if response.response_id == call.response_id or (is_ours and not response.out_of_band):
            break  # nothing before its own call is later, nor before one asked for after the output
        if response.answers is not None and not response.active and not response.interrupted:
            later.append(response)
    return [response for response in later[:1] if response.started_us >= call.ended_us]


def wrote(d: Draft, event: i.OutputItemAdded) -> None:
    """A response began an item: a message may come to be heard or read."""
    response = d.s.responses.get(event.response_id)
    if response is None or event.item.type != "message" or event.item.item_id in response.items:
        return
    changed = replace(response, items=with_(response.items, event.item.item_id, "silent"))
    d.s.responses = with_(d.s.responses, event.response_id, changed)


def mark(d: Draft, response_id: str, item_id: str, as_: Literal["written", "sounding"]) -> None:
    """Something of this item reached the caller."""
    response = d.s.responses.get(response_id)
    if response is not None and response.items.get(item_id, "silent") == "silent":
        changed = replace(response, items=with_(response.items, item_id, as_))
        d.s.responses = with_(d.s.responses, response_id, changed)


def spoke(d: Draft, response_id: str, key: str, text: str, *, whole: bool) -> None:
    """Words of spoken sound, kept until it is known how much of them was heard."""
    response = d.s.responses.get(response_id)
    if response is None:
        return
    words = text if whole else response.words.get(key, "") + text
    changed = replace(response, words=with_(response.words, key, words))
    d.s.responses = with_(d.s.responses, response_id, changed)


def is_told(d: Draft, response_id: str, key: str, text: str) -> bool:
    """Whether this whole text was published before; from now on it was."""
    response = d.s.responses.get(response_id)
    if response is None:
        return False
    if response.whole.get(key) == text:
        return True
    changed = replace(response, whole=with_(response.whole, key, text))
    d.s.responses = with_(d.s.responses, response_id, changed)
    return False


def is_interrupted(d: Draft, response_id: str) -> bool:
    """Whether nobody wants to hear or read more of it."""
    response = d.s.responses.get(response_id)
    return response is not None and response.interrupted


def is_over(d: Draft, response_id: str) -> bool:
    """Whether it has ended, or was given up: what still comes of it is too late."""
    response = d.s.responses.get(response_id)
    return response is not None and not response.active


def is_out_of_band(d: Draft, response_id: str) -> bool:
    """Whether its items stand in no conversation."""
    response = d.s.responses.get(response_id)
    return response is not None and response.out_of_band


def interrupt(d: Draft, response_id: str) -> None:
    """Nobody wants more of this response, whoever stops it."""
    response = d.s.responses.get(response_id)
    if response is not None:
        changed = replace(response, interrupted=True, seen_us=d.now_us)
        d.s.responses = with_(d.s.responses, response_id, changed)


def cancel(d: Draft, response_id: str) -> None:
    """Stop an active response by its id, once."""
    response = d.s.responses.get(response_id)
    if response is None or not response.active or response.cancelling:
        return
    changed = replace(response, cancelling=True, seen_us=d.now_us)
    d.s.responses = with_(d.s.responses, response_id, changed)
    d.ask(fx.CancelResponse(response_id), "cancel_response", ref=response_id)


def seen(d: Draft, response_id: str) -> None:
    """Something came of this response: it is alive. If nobody announced it, this does: else what
    it wrote would wait for ever for an end that no watchdog makes up."""
    response = d.s.responses.get(response_id)
    if response is None:
        if response_id not in d.s.forgotten:
            _begin(d, i.ResponseStarted(now_us=d.now_us, response_id=response_id))
        return
    # Once a second is enough for a watchdog of a minute, and keeps deltas cheap.
    if d.now_us - response.seen_us > 1_000_000:
        d.s.responses = with_(d.s.responses, response_id, replace(response, seen_us=d.now_us))


# --- over -------------------------------------------------------------------------------------


def done(d: Draft, event: i.ResponseDone) -> bool:
    """A response is over, however it ended. Returns False for what was over before.

    A foreign one changes nothing of ours.
    """
    response = d.s.responses.get(event.response_id)
    if response is None:
        if event.response_id in d.s.forgotten:
            return False
        response = _unannounced(d, event)
    elif not response.active:
        return False
    d.publish(
        AssistantTurnCompleted(
            turn_id=event.response_id,
            status=event.status,
            reason=event.reason,
            error=event.error,
            usage=event.usage,
        ),
        response.cause,
    )
    if event.usage is not None:
        d.s.tokens += event.usage.total_tokens
    over = replace(response, active=False, cancelling=False)
    d.s.responses = with_(d.s.responses, event.response_id, over)
    if event.status == "failed":
        _failed(d, event, response)
    return True


def _unannounced(d: Draft, event: i.ResponseDone) -> Response:
    """Some are over without ever having begun; by its tag it may still be ours."""
    create = None
    if event.tag is not None:
        create, _ = _claim(d, event.tag, event.out_of_band)
    response = Response(
        response_id=event.response_id,
        out_of_band=event.out_of_band or (create is not None and create.out_of_band),
        cause=create.cause if create else None,
        create=create,
        started_us=d.now_us,
        seen_us=d.now_us,
    )
    if not response.out_of_band:
        d.s.unanswered = d.s.stifled = False
    d.publish(AssistantTurnStarted(turn_id=event.response_id), response.cause)
    return response


def _failed(d: Draft, event: i.ResponseDone, response: Response) -> None:
    details = event.error or {}
    if event.rate_limited:
        create = response.create
        if response.interrupted:
            create = None
        elif create is None and not response.out_of_band:
            # The turn detection's own: the caller said something and must not stay unanswered.
            create = Create(tag=_tag(d), automatic=True)
        _rate_limited(d, create, event.retry_after_ms, details, response.cause)
        return
    if event.fatal:
        return  # the end of the session tells it
    d.publish(
        Error(
            code=str(details.get("code") or details.get("type") or "response_failed"),
            error=str(details.get("message") or "the provider could not finish the response"),
            recoverable=True,
            details=details,
        ),
        response.cause,
    )


def _rate_limited(
    d: Draft,
    create: Create | None,
    retry_after_ms: int | None,
    details: dict[str, Any],
    cause: str | None,
) -> None:
    """Ask again after the provider's hint, or tell that this was tried often enough."""
    reset_ms = retry_after_ms or RETRY_MS
    if create is None or create.filler or create.attempt > RETRY_LIMIT:
        d.publish(RateLimited(reset_ms=reset_ms, details=details), cause)
        return
    again = replace(
        create,
        attempt=create.attempt + 1,
        not_before_us=d.now_us + reset_ms * 1000,
        event_id=None,
        asked_us=0,
    )
    want_again(d, again)


# --- refused ----------------------------------------------------------------------------------


def refused(d: Draft, event: i.ProviderRefused) -> bool:
    """An error that answers a create under way. Returns whether it did."""
    if event.meaning == "already_active":
        _already_active(d, event)
        return True
    create = _asked_as(d, event.event_id)
    if create is None and event.event_id is None and event.about == "response":
        create = d.s.creating
    if create is None:
        return False
    _forget(d, create)
    if event.rate_limited and not create.unwanted:
        details = {**event.details, "code": event.code, "message": event.message}
        _rate_limited(d, create, event.retry_after_ms, details, create.cause)
        return True
    d.publish(
        Error(code=event.code, error=event.message, recoverable=True, details=event.details),
        create.cause,
    )
    return True


def _asked_as(d: Draft, event_id: str | None) -> Create | None:
    if event_id is None:
        return None
    under_way = (*d.s.apart, *([d.s.creating] if d.s.creating else []))
    return next((create for create in under_way if create.event_id == event_id), None)


def _forget(d: Draft, create: Create) -> None:
    if d.s.creating is not None and d.s.creating.tag == create.tag:
        d.s.creating = None
    d.s.apart = tuple(other for other in d.s.apart if other.tag != create.tag)


def _already_active(d: Draft, event: i.ProviderRefused) -> None:
    """Its turn has not come: when the response in its way ends, it is asked for again."""
    create = _asked_as(d, event.event_id) or (d.s.creating if event.event_id is None else None)
    if create is not None:
        _forget(d, create)
    else:
        create = _disown(d, event.event_id)
    if create is None or create.unwanted or create.filler:
        return
    active = active_default(d)
    blocked = active is not None
    if create.automatic and active is not None and not (active.missed or active.cancelling):
        changed = replace(active, answers=create)
        d.s.responses = with_(d.s.responses, active.response_id, changed)
        return  # that response answers it
    if create.refusals >= UNANNOUNCED_LIMIT:
        d.publish(
            Error(code=event.code, error=event.message, recoverable=True, details=event.details),
            create.cause,
        )
        return
    # The provider may say so before it announces that response, hence the short wait.
    wait_us = UNANNOUNCED_US * 2 ** min(create.refusals, 4)
    again = replace(
        create,
        event_id=None,
        asked_us=0,
        not_before_us=0 if blocked else d.now_us + wait_us,
        refusals=0 if blocked else create.refusals + 1,
    )
    want_again(d, again)


def _disown(d: Draft, event_id: str | None) -> Create | None:
    """A response without a tag was taken for ours: the refusal proves that it was not."""
    for response in reversed(tuple(d.s.responses.values())):
        create = response.create
        if create is None or not response.assumed:
            continue
        if event_id is not None and create.event_id != event_id:
            continue
        unseeing = response.out_of_band or response.missed
        answers = None if unseeing else _answers_automatic(d)
        changed = replace(response, create=None, cause=None, assumed=False, answers=answers)
        d.s.responses = with_(d.s.responses, response.response_id, changed)
        return create
    return None


# --- time -------------------------------------------------------------------------------------


def user_started(d: Draft) -> None:
    """The caller speaks: nothing automatic begins until that is over."""
    d.s.speaking_us = d.now_us


def user_stopped(d: Draft, provider_responds: bool) -> None:
    """The caller's turn is over: what waited for it may begin, unless the provider answers it."""
    d.s.speaking_us = 0
    if provider_responds:
        # Its own response will stand in for the automatic ones; only if none comes are they asked.
        later = d.now_us + ANSWER_US
        d.s.queue = tuple(
            replace(create, not_before_us=later) if create.automatic else create
            for create in d.s.queue
        )
    pump(d)


def user_turn_over(d: Draft) -> None:
    """The provider will answer this turn, unless a response that nobody stopped is in the way: it
    tries once and does not come back to it, so the answer is asked for after that one."""
    response = active_default(d)
    if response is not None and not response.interrupted and not response.cancelling:
        want(d, automatic=True)


def expire(d: Draft) -> list[i.ResponseDone]:
    """The watchdogs. Returns the responses that are given up: they are over."""
    if d.s.speaking_us and d.now_us >= d.s.speaking_us + SPEECH_US:
        d.s.speaking_us = 0
    for create in (d.s.creating, *d.s.apart):
        if create is None or d.now_us < create.asked_us + ANNOUNCE_US:
            continue
        _forget(d, create)
        if not create.unwanted:
            d.publish(
                Error(
                    code="provider_silent",
                    error="the provider did not begin the response within "
                    f"{ANNOUNCE_US // 1_000_000} s; ask again with create_response",
                    recoverable=True,
                ),
                create.cause,
            )
    given_up = []
    for response in tuple(d.s.responses.values()):
        if not response.active or d.now_us < _silent_until_us(response):
            continue
        if response.cancelling or response.interrupted or response.overtaken:
            given_up.append(
                i.ResponseDone(
                    now_us=d.now_us,
                    response_id=response.response_id,
                    status="cancelled" if response.interrupted else "incomplete",
                    reason="provider_silent",
                )
            )
        else:
            cancel(d, response.response_id)
    pump(d)
    return given_up


def _silent_until_us(response: Response) -> int:
    stopping = response.cancelling or response.interrupted
    return response.seen_us + (STOPPING_US if stopping else SILENT_US)


def deadlines(d: Draft) -> list[int]:
    """When the watchdogs want to be woken."""
    found = [
        create.not_before_us
        for create in d.s.queue
        if create.not_before_us and d.s.phase == "ready" and _may_be_asked(d, create)
    ]
    found.extend(
        create.asked_us + ANNOUNCE_US for create in (d.s.creating, *d.s.apart) if create is not None
    )
    found.extend(
        _silent_until_us(response) for response in d.s.responses.values() if response.active
    )
    if d.s.speaking_us and any(create.automatic for create in d.s.queue):
        found.append(d.s.speaking_us + SPEECH_US)
    return found


def prune(d: Draft) -> None:
    """Forget responses that are over and whose sound is settled."""
    audible = {playback.response_id for playback in d.s.playback.values()}
    over = [
        key
        for key, response in d.s.responses.items()
        if not response.active and key not in audible and key not in d.s.batches
    ]
    if len(over) > REMEMBERED:
        old = over[:-REMEMBERED]
        if any(d.s.responses[key].answers is not None for key in old):
            # An output that the newest of them was to answer may come to stand only now.
            answering = [key for key in over if d.s.responses[key].answers is not None]
            old = [key for key in old if key != answering[-1]]
        d.s.responses = without(d.s.responses, *old)
        d.s.forgotten = (*d.s.forgotten, *old)[-FORGOTTEN:]
