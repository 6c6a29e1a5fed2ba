"""The scheduler of `response.create` and `response.cancel`: one place, no "current turn".

    wanted ──(no default response active or asked for)──▶ asked ──announced──▶ active ──▶ done
      ▲                                                     │
      └──────── refused: another one is active ◀────────────┘

At most one response of the default conversation is asked for or active. Automatic creates, after
tool outputs, coalesce, and a response that the provider's turn detection began answers them. A
client's own keep their order. Out-of-band responses overlap everything.
"""

from typing import Any

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
from voicebus.services.session.core.state import Create, Response

ANNOUNCE_US = 10_000_000
"""A create that is neither announced nor refused for so long is given up."""
SILENT_US = 60_000_000
"""A response of which nothing comes for so long is cancelled, then given up."""
ANSWER_US = 3_000_000
"""How long automatic creates wait for the provider's own answer to the caller's turn."""
UNANNOUNCED_US = 250_000
"""How long a create waits that was refused for a response we have not heard of yet."""
RETRY_LIMIT = 3
"""How often a response that failed by a rate limit is asked for again."""


def want(
    d: Draft,
    *,
    automatic: bool,
    cause: str | None = None,
    overrides: dict[str, Any] | None = None,
    tool_choice: str | None = None,
) -> None:
    """Somebody wants a response; it is asked for when its turn has come."""
    overrides = overrides or {}
    create = Create(
        tag=str(d.s.next_tag),
        automatic=automatic,
        cause=cause,
        overrides=overrides,
        out_of_band=overrides.get("conversation") == "none",
        tool_choice=tool_choice,
    )
    d.s.next_tag += 1
    if automatic and any(waiting.automatic for waiting in d.s.queue):
        return
    d.s.queue = (*d.s.queue, create)
    pump(d)


def pump(d: Draft) -> None:
    """Ask for whatever may be asked for now."""
    if d.s.phase != "ready":
        return
    for create in d.s.queue:
        if create.not_before_us > d.now_us or (create.automatic and d.s.speaking):
            continue
        if create.out_of_band or (d.s.creating is None and active_default(d) is None):
            _ask(d, create)


def _ask(d: Draft, create: Create) -> None:
    d.s.queue = tuple(waiting for waiting in d.s.queue if waiting.tag != create.tag)
    event_id = d.ask(
        fx.CreateResponse(create.tag, create.overrides, create.tool_choice),
        "create_response",
        cause=create.cause,
        ref=create.tag,
    )
    if not create.out_of_band:
        d.s.creating = replace(create, asked_us=d.now_us, event_id=event_id)


def active_default(d: Draft) -> Response | None:
    """The one response that writes the default conversation now, if any."""
    for response in d.s.responses.values():
        if response.active and not response.out_of_band:
            return response
    return None


def started(d: Draft, event: i.ResponseStarted) -> None:
    """The provider announced a response: ours, or one of its turn detection."""
    if event.response_id in d.s.responses:
        return
    create = d.s.creating
    ours = create is not None and not event.out_of_band and event.tag in (create.tag, None)
    if ours and create is not None:
        d.s.creating = None
    elif not event.out_of_band:
        # It has seen the tool outputs that an automatic create was meant to have answered.
        create = None
        d.s.queue = tuple(waiting for waiting in d.s.queue if not waiting.automatic)
    else:
        create = None
    response = Response(
        response_id=event.response_id,
        out_of_band=event.out_of_band,
        cause=create.cause if create else None,
        create=create,
        started_us=d.now_us,
        seen_us=d.now_us,
    )
    d.s.responses = with_(d.s.responses, event.response_id, response)
    d.publish(AssistantTurnStarted(turn_id=event.response_id), response.cause)
    if create is not None and create.unwanted:
        interrupted = replace(response, interrupted=True)
        d.s.responses = with_(d.s.responses, event.response_id, interrupted)
        d.do(fx.Flush((event.response_id,), "interrupted before it was announced"))
        cancel(d, event.response_id)


def cancel(d: Draft, response_id: str) -> None:
    """Stop an active response by its id, once."""
    response = d.s.responses.get(response_id)
    if response is None or not response.active or response.cancelling:
        return
    d.s.responses = with_(d.s.responses, response_id, replace(response, cancelling=True))
    d.ask(fx.CancelResponse(response_id), "cancel_response", ref=response_id)


def seen(d: Draft, response_id: str) -> None:
    """Something came of this response: it is alive."""
    response = d.s.responses.get(response_id)
    # Once a second is enough for a watchdog of a minute, and keeps deltas cheap.
    if response is not None and d.now_us - response.seen_us > 1_000_000:
        d.s.responses = with_(d.s.responses, response_id, replace(response, seen_us=d.now_us))


def done(d: Draft, event: i.ResponseDone) -> None:
    """A response is over, however it ended; a foreign one changes nothing of ours."""
    response = d.s.responses.get(event.response_id)
    if response is not None and not response.active:
        return
    cause = response.cause if response else None
    d.publish(
        AssistantTurnCompleted(
            turn_id=event.response_id,
            status=event.status,
            reason=event.reason,
            error=event.error,
            usage=event.usage,
        ),
        cause,
    )
    if event.usage is not None:
        d.s.tokens += event.usage.total_tokens
    if response is None:
        return
    d.s.responses = with_(
        d.s.responses, event.response_id, replace(response, active=False, cancelling=False)
    )
    if event.status == "failed":
        _failed(d, event, response)


def _failed(d: Draft, event: i.ResponseDone, response: Response) -> None:
    details = event.error or {}
    create = response.create
    if event.rate_limited:
        reset_ms = event.retry_after_ms or 1000
        if create is not None and create.attempt < RETRY_LIMIT + 1 and not response.interrupted:
            again = replace(
                create,
                attempt=create.attempt + 1,
                not_before_us=d.now_us + reset_ms * 1000,
                event_id=None,
                asked_us=0,
            )
            d.s.queue = (again, *d.s.queue)
            return
        d.publish(RateLimited(reset_ms=reset_ms, details=details), response.cause)
        return
    d.publish(
        Error(
            code=str(details.get("code") or details.get("type") or "response_failed"),
            error=str(details.get("message") or "the provider could not finish the response"),
            recoverable=True,
            details=details,
        ),
        response.cause,
    )


def refused(d: Draft, event: i.ProviderRefused) -> bool:
    """An error that answers the create under way. Returns whether it did."""
    create = d.s.creating
    if create is None:
        return False
    if event.event_id is not None and event.event_id != create.event_id:
        return False
    if event.event_id is None and event.meaning != "already_active":
        return False
    d.s.creating = None
    if event.meaning == "already_active":
        # Its turn has not come: the response that is in the way ends, then it is asked for again.
        # The provider may say so before it announces that response, hence the short wait.
        if not create.unwanted and not (create.automatic and active_default(d) is not None):
            later = d.now_us + UNANNOUNCED_US
            again = replace(create, event_id=None, asked_us=0, not_before_us=later)
            d.s.queue = (again, *d.s.queue)
        return True
    d.publish(
        Error(code=event.code, error=event.message, recoverable=True, details=event.details),
        create.cause,
    )
    return True


def user_stopped(d: Draft, provider_responds: bool) -> None:
    """The caller's turn is over: what waited for it may begin, unless the provider answers it."""
    if provider_responds:
        # Its own response will stand in for the automatic ones; only if none comes are they asked.
        later = d.now_us + ANSWER_US
        d.s.queue = tuple(
            replace(create, not_before_us=later) if create.automatic else create
            for create in d.s.queue
        )
    pump(d)


def drop_queue(d: Draft) -> None:
    """An interrupt withdraws what was wanted and not yet asked for."""
    d.s.queue = tuple(create for create in d.s.queue if create.out_of_band)
    if d.s.creating is not None:
        d.s.creating = replace(d.s.creating, unwanted=True)


def expire(d: Draft) -> None:
    """The watchdogs."""
    create = d.s.creating
    if create is not None and d.now_us >= create.asked_us + ANNOUNCE_US:
        d.s.creating = None
        d.publish(
            Error(
                code="provider_silent",
                error="the provider did not begin the response within "
                f"{ANNOUNCE_US // 1_000_000} s; ask again with create_response",
                recoverable=True,
            ),
            create.cause,
        )
    for response in tuple(d.s.responses.values()):
        if not response.active or d.now_us < response.seen_us + SILENT_US:
            continue
        if response.cancelling:
            done(
                d,
                i.ResponseDone(
                    response_id=response.response_id, status="incomplete", reason="provider_silent"
                ),
            )
        else:
            cancel(d, response.response_id)
            again = d.s.responses[response.response_id]
            d.s.responses = with_(
                d.s.responses, response.response_id, replace(again, seen_us=d.now_us)
            )
    pump(d)


def deadlines(d: Draft) -> list[int]:
    """When the watchdogs want to be woken."""
    found = [create.not_before_us for create in d.s.queue if create.not_before_us]
    if d.s.creating is not None:
        found.append(d.s.creating.asked_us + ANNOUNCE_US)
    found.extend(
        response.seen_us + SILENT_US for response in d.s.responses.values() if response.active
    )
    return found


def prune(d: Draft) -> None:
    """Forget responses that are over and whose sound is settled."""
    audible = {playback.response_id for playback in d.s.playback.values()}
    over = [
        key
        for key, response in d.s.responses.items()
        if not response.active and key not in audible and key not in d.s.batches
    ]
    # The last ones are kept: their late events are to be recognised.
    if len(over) > 8:
        d.s.responses = without(d.s.responses, *over[:-8])
