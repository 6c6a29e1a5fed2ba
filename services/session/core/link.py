"""The provider's connection, from dialling to the end.

    new ─▶ connecting ─▶ configuring ─▶ ready
               │              │           │
               └──────────────┴───────────┴──(refused, closed, abandoned, at a limit)─▶ closed

A connection that is lost, once the session has been open, is `recovery`'s.
"""

from typing import Literal

from msgspec.structs import replace

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import Error, SessionClosed, SessionOpened, SessionUpdated
from voicebus.bus.messages.link import ALIVE_EVERY_S
from voicebus.services.session.core import calls, commits, playback, recovery, responses
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.core.state import Update
from voicebus.services.session.core.turn_taking import client_ends_turns, provider_interrupts

GREETING_US = 1_000_000
"""A provider that does not introduce itself for so long is configured all the same."""
CONFIRM_US = 10_000_000
"""A provider that does not confirm the configuration for so long is given up."""
CONNECT_US = 20_000_000
ALIVE_US = int(ALIVE_EVERY_S * 1_000_000)
UPDATE_US = 10_000_000
"""A change of the configuration that is neither confirmed nor refused for so long is given up."""
FORGOTTEN_S = 60.0
"""A cell that comes back so long after a lease has ended dials nobody for it."""
UPDATE_LIMIT = 32
"""Updates that may wait for their turn; one more is refused."""
TRANSCRIPTION = "-transcription"
"""After a vendor's name: its sessions that only write down, dialled without a model."""

Reason = Literal["client", "server", "error", "abandoned", "limit", "transport_lost"]

LOCAL_FIELDS = frozenset(
    {
        "on_interrupt",
        "lease_s",
        "max_duration_s",
        "max_tokens_total",
        "tool_timeout_s",
        "approval_timeout_s",
        "filler",
    }
)
"""Fields that no provider has to confirm."""


def requested(d: Draft, event: i.SessionRequested) -> None:
    """Begin: the reply goes out at once, `session_opened` follows when the provider confirms."""
    d.s.session_id = event.session_id
    d.s.vendor, d.s.model, d.s.transport = event.vendor, event.model, event.transport
    d.s.capabilities = event.capabilities
    d.s.config = event.config
    d.s.tools = {tool.name: tool for tool in event.tools}
    d.s.client_tools = tuple(event.client_tools)
    d.s.opened_us = d.now_us
    d.s.tokens_granted = {event.token: True}
    d.s.sound = (str(event.opened.get("audio_in", "")), str(event.opened.get("audio_out", "")))
    d.s.generation = 1
    _enter(d, "connecting")
    renew(d)
    d.s.talker = event.token
    d.do(fx.Grant(event.token, True))
    d.do(_dial(d))
    d.answer(event.command_id, event.opened)


def _enter(d: Draft, phase: Literal["connecting", "configuring", "ready", "closed"]) -> None:
    d.s.phase, d.s.phase_us = phase, d.now_us


def _dial(d: Draft) -> fx.Dial:
    """Transcription sessions are another address of the same vendor, and take no model there."""
    only_writes = d.s.config.session_type == "transcription"
    vendor = d.s.vendor + (TRANSCRIPTION if only_writes else "")
    model = "" if only_writes else d.s.model
    return fx.Dial(d.s.generation, vendor, model, _flush_on_speech(d.s.config))


def _flush_on_speech(config: SessionConfig) -> bool:
    return provider_interrupts(config)


def _release(d: Draft) -> fx.Release:
    return fx.Release(_flush_on_speech(d.s.config), client_ends_turns(d.s.config))


def renew(d: Draft, *, speaks: bool = False) -> None:
    """The talker is there. While it speaks, the lease runs from when that would be told again."""
    told_again_us = d.now_us + ALIVE_US
    if speaks:
        d.s.speaks_until_us = told_again_us
    # Never further than that: the clock may have been set back while no process ran.
    seen_us = max(d.now_us, min(d.s.speaks_until_us, told_again_us))
    d.s.lease_until_us = seen_us + int(d.s.config.lease_s * 1_000_000)


def connected(d: Draft, event: i.ProviderConnected) -> None:
    """The socket is open; the provider will introduce itself."""
    if event.generation == d.s.generation and d.s.phase == "connecting":
        _enter(d, "configuring")


def introduced(d: Draft, event: i.ProviderSessionCreated) -> None:
    """The provider's session exists, on the provider's defaults: configure it."""
    d.s.provider_session_id = event.provider_session_id or d.s.provider_session_id
    d.s.expires_at = event.expires_at or d.s.expires_at
    _configure(d)


def _configure(d: Draft) -> None:
    if d.s.phase != "configuring" or any(a.what == "configure" for a in d.s.asked.values()):
        return
    d.ask(fx.Configure(d.s.config, tuple(d.s.tools.values())), "configure")


def confirmed(d: Draft, event: i.ProviderSessionUpdated) -> None:
    """The provider confirmed a configuration: the first one opens the session."""
    if d.s.phase == "ready" and event.event_id and event.event_id == d.s.confirmed_by:
        return  # told twice: it does not confirm the update that was asked for meanwhile
    d.s.confirmed_by = event.event_id
    d.s.provider_session_id = event.provider_session_id or d.s.provider_session_id
    d.s.expires_at = event.expires_at or d.s.expires_at
    if d.s.phase == "configuring":
        _enter(d, "ready")
        recovery.plan_rotation(d)
        if d.s.opened_once:
            recovery.resumed(d)
            d.do(_release(d))
            return
        d.s.opened_once = True
        d.do(_release(d))
        d.publish(
            SessionOpened(
                session_id=d.s.session_id,
                provider=d.s.vendor,
                provider_session_id=d.s.provider_session_id,
                model=event.model or _dial(d).model or None,
                expires_at=d.s.expires_at,
            )
        )
    elif d.s.update is not None:
        update = d.s.update
        d.s.update = None
        _commit(d, update)
        d.do(_release(d))
        _updated(d, event.session, update.command_id)
        next_update(d)
    else:
        _updated(d, event.session, None)


def _updated(d: Draft, session: dict[str, object], command_id: str | None) -> None:
    updated = SessionUpdated(
        instructions=d.s.config.instructions, config=session, lease_s=d.s.config.lease_s
    )
    d.publish(updated, command_id)
    d.answer(command_id, proven=True)


def update(d: Draft, event: i.UpdateRequested) -> None:
    """Change the configuration: one at a time, since confirmations carry no name."""
    wanted = Update(
        command_id=event.command_id,
        config=event.config,
        fields=tuple(event.fields),
        tools={tool.name: tool for tool in event.tools},
        client_tools=tuple(event.client_tools),
    )
    earlier = {field for one in (d.s.update, *d.s.updates) if one for field in one.fields}
    # Where an earlier one waits with the same field, it would undo this one.
    if set(event.fields) <= LOCAL_FIELDS - earlier:
        _commit(d, wanted)
        _updated(d, {}, event.command_id)
        return
    if len(d.s.updates) >= UPDATE_LIMIT:
        text = (
            f"{UPDATE_LIMIT} updates already wait for the provider; each is confirmed in its turn"
        )
        d.refuse(event.command_id, "busy", text, after_ms=1000)
        return
    d.s.updates = (*d.s.updates, wanted)
    next_update(d)


def next_update(d: Draft) -> None:
    """Ask for the next change, if none is under way."""
    if d.s.update is not None or not d.s.updates or d.s.phase != "ready":
        return
    first, *rest = d.s.updates
    event_id = d.ask(
        fx.Configure(first.config, tuple(first.tools.values()), first.fields),
        "update",
        cause=first.command_id,
    )
    d.s.update = replace(first, event_id=event_id, asked_us=d.now_us)
    d.s.updates = tuple(rest)


def _commit(d: Draft, wanted: Update) -> None:
    changes = {field: getattr(wanted.config, field) for field in wanted.fields}
    d.s.config = replace(d.s.config, **changes)
    if "lease_s" in wanted.fields:
        renew(d)  # by the new one: whoever asked for it was there
    if "tools" in wanted.fields:
        d.s.tools, d.s.client_tools = wanted.tools, wanted.client_tools


def refused(d: Draft, event: i.ProviderRefused) -> bool:
    """An error that answers our configuration. Returns whether it did."""
    if d.s.phase == "configuring":
        asked = d.s.asked.get(event.event_id or "")
        if asked is not None and asked.what != "configure":
            return False
        if asked is None and d.s.opened_once and event.about != "configuration":
            return False  # a trouble of the provider's; without its confirmation it is dialled anew
        close(d, "error", code=event.code, message=event.message)
        return True
    if d.s.update is None:
        return False
    unnamed = event.event_id is None and event.about == "configuration"
    if not unnamed and event.event_id != d.s.update.event_id:
        return False
    command_id = d.s.update.command_id
    d.s.update = None
    d.refuse(command_id, "provider_error", f"{event.message} ({event.code})", who="provider")
    next_update(d)
    return True


def disconnected(d: Draft, event: i.ProviderDisconnected) -> None:
    """The provider's socket is gone, or never was."""
    if event.generation != d.s.generation or d.s.phase in ("closed", "lost"):
        return
    reason = ": ".join(str(one) for one in (event.code or event.http_status, event.reason) if one)
    if (
        d.s.opened_once
        and recovery.may_help(event)
        and recovery.lost(d, reason, turn_reason="provider_lost", events_lost=event.events_lost)
    ):
        return
    if event.http_status is not None or event.code is None:
        code = str(event.http_status) if event.http_status else event.error or "unreachable"
        close(d, "error", code=code, message=event.reason)
    else:
        message = event.reason or "the provider closed the connection"
        close(d, "server", code=str(event.code), message=message)


def transport_lost(d: Draft, event: i.TransportLost) -> None:
    """The transport process is gone: what it had not handed up is lost. Or it is there, and what
    it was asked to do is unknown: nothing is certain of its connection but that it is to end."""
    if d.s.phase == "closed":
        return
    if event.unattended_s > FORGOTTEN_S:
        message = (
            f"nothing of Voicebus ran until {event.unattended_s:.0f} s after the end of the lease "
            f"(lease_s={d.s.config.lease_s:g}): the client seems to be gone"
        )
        close(d, "abandoned", message=message, hang_up=False)
        return
    d.s.new_transport = True
    why = "the transport process was restarted; the provider's connection went with it"
    if event.transport is not None:
        d.s.transport, d.s.sound = event.transport, (event.audio_in, event.audio_out)
        why = "the transport process is gone, and the provider's connection; another takes over"
    if event.orders_unknown:
        # Each of them may have been to dial: the transport dials no number that it knows.
        d.s.generation += event.orders_unknown
        why = "the session process died with a journal that it could not write"
    if not d.s.opened_once or not recovery.lost(
        d, why, turn_reason="transport_lost", events_lost=True
    ):
        close(d, "transport_lost", message=why, hang_up=event.orders_unknown > 0)


def transport_left(d: Draft, event: i.TransportLeft) -> None:
    """The transport is being stopped; in this silence another one can take over unheard."""
    if d.s.phase not in ("ready", "lost"):
        return
    d.s.new_transport = True
    d.s.transport, d.s.sound = event.transport, (event.audio_in, event.audio_out)
    if d.s.phase == "ready":
        recovery.change(d, _dial(d), "transport")


def close(
    d: Draft,
    reason: Reason,
    *,
    code: str | None = None,
    message: str | None = None,
    cause: str | None = None,
    hang_up: bool = True,
    after_n: int | None = None,
    token: str | None = None,
) -> None:
    """End the conversation: everything open gets its outcome, then `session_closed`.

    A transport keeps a conversation and its tokens until it is told to hang up, also where the
    provider has hung up before; `hang_up` is False for one that knows nothing of it.
    """
    if d.s.phase == "closed":
        return
    silent = [
        key
        for key, response in d.s.responses.items()
        if response.active or key in {p.response_id for p in d.s.playback.values()}
    ]
    # A client that closes has asked for silence itself; when the provider goes, what it said stays.
    if silent and reason in ("client", "abandoned", "limit"):
        d.do(fx.Flush(tuple(silent), reason))
    playback.close(d)
    calls.close_all(d)
    why = "transport_lost" if reason == "transport_lost" else "session_closed"
    for response in tuple(d.s.responses.values()):
        if response.active:
            responses.done(
                d,
                i.ResponseDone(
                    response_id=response.response_id,
                    status="cancelled" if reason == "client" else "incomplete",
                    reason=why,
                ),
            )
    for update in (d.s.update, *d.s.updates):
        if update is not None:
            d.refuse(update.command_id, "gone", "the session was closed before it was confirmed")
    for early in d.s.early:
        d.refuse(early.command_id, "gone", f"the session was closed: {message or reason}")
    d.s.update, d.s.updates, d.s.early = None, (), ()
    d.s.creating, d.s.apart, d.s.queue = None, (), ()
    if hang_up:
        d.do(fx.HangUp(after_n, token))
    if reason == "error":
        d.publish(Error(code=code or "error", error=message or "", recoverable=False), cause)
    d.publish(SessionClosed(reason=reason, code=code, message=message), cause)
    _enter(d, "closed")
    d.do(fx.End())


def expire(d: Draft) -> None:
    """Nobody is paid for waiting: greeting, confirmation, lease and limits."""
    commits.expire(d)
    waited_us = d.now_us - d.s.phase_us
    if d.s.phase == "connecting" and waited_us >= CONNECT_US:
        _gave_no_answer(d, "the provider's socket did not open in time")
    elif d.s.phase == "configuring" and waited_us >= CONFIRM_US:
        _gave_no_answer(
            d,
            "the provider did not confirm the configuration within "
            f"{CONFIRM_US // 1_000_000} s; is it a realtime provider of this dialect?",
        )
    elif d.s.phase == "configuring" and waited_us >= GREETING_US:
        _configure(d)
    elif d.s.phase == "lost" and d.now_us >= d.s.redial_us:
        recovery.redial(d, _dial(d))
    else:
        d.s.looked_us = d.now_us
        recovery.rotate_if_silent(d, _dial(d))
    if d.s.phase in ("closed", "new"):
        return
    if d.s.update is not None and d.now_us >= d.s.update.asked_us + UPDATE_US:
        command_id = d.s.update.command_id
        d.s.update = None
        message = f"the provider did not confirm the update within {UPDATE_US // 1_000_000} s"
        d.refuse(command_id, "timeout", message, who="provider")
        next_update(d)
    limit_us = _duration_limit_us(d)
    if limit_us is not None and d.now_us >= limit_us:
        message = f"the session reached max_duration_s={d.s.config.max_duration_s}"
        close(d, "limit", code="max_duration_s", message=message)
    elif d.s.lease_until_us and d.now_us >= d.s.lease_until_us:
        message = (
            f"no command, sound or ping for {d.s.config.lease_s:g} s (lease_s): "
            "the client seems to be gone"
        )
        close(d, "abandoned", message=message)


def _gave_no_answer(d: Draft, message: str) -> None:
    """A connection that does not get going: the first one ends the session, a later one is tried
    again."""
    if not d.s.opened_once or not recovery.lost(d, message, turn_reason="provider_lost"):
        close(d, "error", code="timeout", message=message)


def check_tokens(d: Draft) -> None:
    """The budget of tokens is a limit, too."""
    limit = d.s.config.max_tokens_total
    if limit is not None and d.s.tokens >= limit:
        message = f"the session used {d.s.tokens} tokens, max_tokens_total is {limit}"
        close(d, "limit", code="max_tokens_total", message=message)


def _duration_limit_us(d: Draft) -> int | None:
    limit_s = d.s.config.max_duration_s
    return None if limit_s is None else d.s.opened_us + int(limit_s * 1_000_000)


def deadlines(d: Draft) -> list[int]:
    """When expire() wants to be called."""
    if d.s.phase in ("closed", "new"):
        return []
    found = [d.s.lease_until_us, *recovery.deadlines(d), *commits.deadlines(d)]
    limit_us = _duration_limit_us(d)
    if limit_us is not None:
        found.append(limit_us)
    if d.s.update is not None:
        found.append(d.s.update.asked_us + UPDATE_US)
    if d.s.phase == "connecting":
        found.append(d.s.phase_us + CONNECT_US)
    elif d.s.phase == "configuring":
        configured = any(a.what == "configure" for a in d.s.asked.values())
        found.append(d.s.phase_us + (CONFIRM_US if configured else GREETING_US))
    return found
