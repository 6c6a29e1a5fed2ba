"""What clients ask for. The form has been checked; here is decided whether it can be done now."""

from collections.abc import Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from voicebus.bus.messages import commands as c
from voicebus.bus.messages.base import BadMessage, Message, convert
from voicebus.bus.messages.events import Error
from voicebus.services.session.core import (
    calls,
    commits,
    interruption,
    items,
    link,
    playback,
    responses,
)
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft, with_
from voicebus.services.session.core.turn_taking import provider_responds

EARLY_LIMIT = 32
"""Commands that may wait for the provider's first confirmation."""
ANSWERED = frozenset({"send_text", "create_response"})
"""Commands that are nothing without an answer of the model's."""
WANTING = ANSWERED | {"commit_audio"}
"""Commands after which a response may have to wait for its turn."""
GIVEN_LIMIT = 8
"""Images and other items that a new connection is told again; older ones are left out."""
GIVEN_LENGTH = 12 * 1024 * 1024
"""… and so are those beyond it, all together: a new connection gets them at once, and one that
takes them too slowly is given up at 24 MiB (`max_frame_bytes` and `ring_bytes`)."""
METADATA_LIMIT = 15
"""Of a response's metadata: providers take 16 keys, and one is our tag."""
AT_ONCE = frozenset({"interrupt", "close", "report_playback", "submit_tool_output", "approve"})
"""Commands that never wait for it. What a call waits for must not be late for its deadline."""

M = TypeVar("M", bound=Message)


def handle(d: Draft, event: i.Commanded) -> None:
    """Do a command, refuse it, or keep it until the provider is ready for it."""
    link.renew(d)
    cannot = _cannot(d, event)
    if cannot is not None:
        d.refuse(event.command_id, "unsupported", cannot)
        return
    if d.s.phase != "ready" and event.command not in AT_ONCE:
        if len(d.s.early) >= EARLY_LIMIT:
            d.refuse(
                event.command_id,
                "busy",
                f"{EARLY_LIMIT} commands already wait for the provider to open the session",
                after_ms=500,
            )
        else:
            d.s.early = (*d.s.early, event)
        return
    if event.command in WANTING and responses.is_full(d):
        d.refuse(
            event.command_id,
            "busy",
            f"{responses.QUEUE_LIMIT} responses already wait for their turn; interrupt drops them",
            after_ms=1000,
        )
        return
    _perform(d, event)


def _perform(d: Draft, event: i.Commanded) -> None:
    try:
        _HANDLERS[event.command](d, event)
    except BadMessage as error:
        d.refuse(event.command_id, "bad_request", str(error))


def _cannot(d: Draft, event: i.Commanded) -> str | None:
    """What this provider or this kind of session cannot do at all."""
    if event.command not in _HANDLERS:
        return f"{event.command} is not supported"
    if d.s.config.session_type == "transcription" and event.command in ANSWERED:
        return f"{event.command}: a transcription session has no answers (session_type)"
    can = d.s.capabilities
    if event.command == "commit_audio" and not can.manual_commit:
        return f"commit_audio: {d.s.vendor} ends turns only by its own turn detection"
    if event.command == "send_text" and not can.text:
        return f"send_text: {d.s.vendor} takes no text"
    if _is_out_of_band(event) and not can.out_of_band:
        return f"create_response: {d.s.vendor} answers only in the conversation itself"
    return None


def _is_out_of_band(event: i.Commanded) -> bool:
    overrides = event.data.get("overrides")
    return (
        event.command == "create_response"
        and isinstance(overrides, dict)
        and overrides.get("conversation") == "none"
    )


def ready(d: Draft) -> None:
    """The provider has confirmed the configuration: do what waited for it."""
    early, d.s.early = d.s.early, ()
    for event in early:
        _perform(d, event)


def attached(d: Draft, event: i.Attached) -> None:
    """Another client joins, with a token of its own. A listener does not renew the lease."""
    if event.talk or event.command:
        link.renew(d)
    if not event.command:
        d.s.no_commands += (event.token,)
    d.s.tokens_granted = with_(d.s.tokens_granted, event.token, event.talk)
    if event.talk:
        d.s.talker = event.token
    d.do(fx.Grant(event.token, event.talk))
    d.answer(event.command_id, event.opened)


def _data(event: i.Commanded, to: type[M]) -> M:
    return convert(event.data, to, what=event.command)


def _send_text(d: Draft, event: i.Commanded) -> None:
    text = _data(event, c.SendText).text
    d.s.rounds = 0
    item_id = d.ask(fx.AddUserText(text), "send_text", cause=event.command_id)
    items.asked(d, item_id, "user", text)
    if event.answered:
        responses.want(d, automatic=False, cause=event.command_id)
    d.answer(event.command_id)


def _add_item(d: Draft, event: i.Commanded) -> None:
    item = _data(event, c.AddItem).item
    call_id = item.get("call_id")
    known = isinstance(call_id, str) and call_id in d.s.calls
    if item.get("type") == "function_call_output" and known:
        d.refuse(
            event.command_id,
            "bad_request",
            f"add_item: call {call_id!r} gets its output by submit_tool_output, and only once",
        )
        return
    item_id = item.get("id", event.command_id)
    if not isinstance(item_id, str) or not item_id:
        raise BadMessage("add_item: item.id must be a text that is not empty")
    if items.find(d.s, item_id) is not None:
        text = f"add_item: there is an item {item_id!r} already; leave id out to get a new one"
        d.refuse(event.command_id, "conflict", text)
        return
    if _has_more_than_text(item):
        # No transcript will tell a new connection what stood here.
        item = {"id": f"vbi_{d.s.next_event}", **item}
        d.s.given = _newest(with_(d.s.given, str(item["id"]), item))
    event_id = d.ask(fx.AddItem(item), "add_item", cause=event.command_id, ref=item.get("id"))
    if item.get("type") == "message":
        items.asked(d, str(item.get("id", event_id)), str(item.get("role", "user")), _words(item))
    d.answer(event.command_id)


def _newest(given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """As many as a new connection is told again; the last one in any case."""
    kept: list[str] = []
    length = 0
    for id, item in reversed(given.items()):
        length += _length(item)
        if kept and (length > GIVEN_LENGTH or len(kept) == GIVEN_LIMIT):
            break
        kept.append(id)
    return {id: given[id] for id in reversed(kept)}


def _length(item: dict[str, Any]) -> int:
    """Of what stands in its parts: a picture is one long text."""
    parts = (part for part in item["content"] if isinstance(part, dict))
    return sum(len(one) for part in parts for one in part.values() if isinstance(one, str))


def _words(item: dict[str, Any]) -> str:
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return " ".join(
        str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part
    )


def _has_more_than_text(item: dict[str, Any]) -> bool:
    content = item.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") not in ("input_text", "output_text")
        for part in content
    )


def _commit_audio(d: Draft, event: i.Commanded) -> None:
    data = _data(event, c.CommitAudio)
    d.s.rounds = 0
    token = _in_time(d, data.after_n, data.token)
    commits.ask(d, event.command_id, data.after_n, token)
    if data.respond and event.answered and _must_ask(d):
        responses.want(d, automatic=False, cause=event.command_id)
    d.answer(event.command_id)


def _must_ask(d: Draft) -> bool:
    """Whether a turn is answered only when that is asked for. With turn detection the provider does
    it by itself, and asking too would be refused; a transcription has no answers."""
    return not provider_responds(d.s.config) and d.s.config.session_type != "transcription"


def commit_refused(d: Draft, cause: str | None, event: i.ProviderRefused) -> None:
    """There was nothing to commit: with turn detection that is usual, else the client hears it."""
    commits.refused(d, event)
    if event.meaning == "benign" and d.s.config.turn_detection != "none":
        return
    if cause is not None:
        responses.withdraw(d, cause)
    d.publish(
        Error(code=event.code, error=event.message, recoverable=True, details=event.details), cause
    )


def _clear_audio(d: Draft, event: i.Commanded) -> None:
    data = _data(event, c.ClearAudio)
    token = _in_time(d, data.after_n, data.token)
    d.ask(
        fx.ClearInput(),
        "clear_audio",
        cause=event.command_id,
        after_n=data.after_n,
        token=token,
    )
    d.answer(event.command_id)


def _in_time(d: Draft, after_n: int | None, token: str | None) -> str | None:
    """Whose sound a command is done in time with: when that has gone out, and not before."""
    token = token or d.s.talker
    if after_n is not None and token in d.s.tokens_granted:
        d.s.commanded = with_(d.s.commanded, token, after_n)
    return token


def _create_response(d: Draft, event: i.Commanded) -> None:
    overrides = _data(event, c.CreateResponse).overrides
    metadata = overrides.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise BadMessage("create_response: overrides.metadata must be an object")
    if fx.TAG in metadata or len(metadata) > METADATA_LIMIT:
        raise BadMessage(
            f"create_response: overrides.metadata may hold {METADATA_LIMIT} keys, and not "
            f"{fx.TAG!r}: the provider takes one more, by which Voicebus finds the response"
        )
    if event.answered:
        responses.want(d, automatic=False, cause=event.command_id, overrides=overrides)
    d.answer(event.command_id)


def _interrupt(d: Draft, event: i.Commanded) -> None:
    interruption.manual(d, event.command_id, expected=_withdraw_early(d))


def _withdraw_early(d: Draft) -> bool:
    """What waits for the provider will be done and not answered, but for what is out of band.

    Returns whether an answer was to be expected.
    """
    left = [one for one in d.s.early if one.answered and _wants_answer(d, one)]
    d.s.early = tuple(
        one if _is_out_of_band(one) else replace(one, answered=False) for one in d.s.early
    )
    return bool(left)


def _wants_answer(d: Draft, event: i.Commanded) -> bool:
    if event.command == "commit_audio":
        return event.data.get("respond", True) is True and _must_ask(d)
    return event.command in ANSWERED and not _is_out_of_band(event)


def _report_playback(d: Draft, event: i.Commanded) -> None:
    data = _data(event, c.ReportPlayback)
    playback.reported(d, data.item_id, data.content_index, data.played_ms, data.state)
    d.answer(event.command_id)


def _submit_tool_output(d: Draft, event: i.Commanded) -> None:
    data = _data(event, c.SubmitToolOutput)
    if calls.client_ended(d, data.call_id, data.result, data.error):
        d.answer(event.command_id, proven=True)
    else:
        d.refuse(
            event.command_id,
            "conflict",
            f"no call {data.call_id!r} of a client's tool waits for an output",
        )


def _approve(d: Draft, event: i.Commanded) -> None:
    data = _data(event, c.Approve)
    if calls.approved(d, data.call_id, data.approve, data.reason):
        d.answer(event.command_id, proven=True)
    else:
        d.refuse(event.command_id, "conflict", f"no call {data.call_id!r} waits for approval")


def _close(d: Draft, event: i.Commanded) -> None:
    data = _data(event, c.Close)
    link.close(
        d, "client", cause=event.command_id, after_n=data.after_n, token=data.token or d.s.talker
    )
    d.answer(event.command_id, proven=True)


_HANDLERS: dict[str, Callable[[Draft, i.Commanded], Any]] = {
    "send_text": _send_text,
    "add_item": _add_item,
    "commit_audio": _commit_audio,
    "clear_audio": _clear_audio,
    "create_response": _create_response,
    "interrupt": _interrupt,
    "report_playback": _report_playback,
    "submit_tool_output": _submit_tool_output,
    "approve": _approve,
    "close": _close,
}
CORE_COMMANDS = frozenset(_HANDLERS)
"""Commands that are decided here; the shell answers the others."""
