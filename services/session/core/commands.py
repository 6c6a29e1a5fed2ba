"""What clients ask for. The form has been checked; here is decided whether it can be done now."""

from collections.abc import Callable
from typing import Any, TypeVar

from voicebus.bus.messages import commands as c
from voicebus.bus.messages.base import Message, convert
from voicebus.bus.messages.commands import SemanticVad, ServerVad, SessionConfig
from voicebus.services.session.core import calls, interruption, link, playback, responses
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.draft import Draft

EARLY_LIMIT = 32
"""Commands that may wait for the provider's first confirmation."""
AT_ONCE = frozenset({"interrupt", "close", "report_playback"})
"""Commands that never wait for it."""

M = TypeVar("M", bound=Message)


def provider_responds(config: SessionConfig) -> bool:
    """Whether the provider begins a response by itself at the end of the caller's turn."""
    match config.turn_detection:
        case "none":
            return False
        case ServerVad(create_response=owned) | SemanticVad(create_response=owned):
            return owned is not False
        case _:
            return True


def handle(d: Draft, event: i.Commanded) -> None:
    """Do a command, refuse it, or keep it until the provider is ready for it."""
    if d.s.phase == "closed":
        d.refuse(event.command_id, "gone", "the session is closed")
        return
    link.renew(d)
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
    _HANDLERS[event.command](d, event)


def ready(d: Draft) -> None:
    """The provider has confirmed the configuration: do what waited for it."""
    early, d.s.early = d.s.early, ()
    for event in early:
        _HANDLERS[event.command](d, event)


def attached(d: Draft, event: i.Attached) -> None:
    """Another client joins, with a token of its own."""
    if d.s.phase == "closed":
        d.refuse(event.command_id, "gone", "the session is closed")
        return
    link.renew(d)
    if event.talk:
        d.s.talker = event.token
    d.do(fx.Grant(event.token, event.talk))
    d.answer(event.command_id, event.opened)


def _data(event: i.Commanded, to: type[M]) -> M:
    return convert(event.data, to, what=event.command)


def _send_text(d: Draft, event: i.Commanded) -> None:
    text = _data(event, c.SendText).text
    d.s.rounds = 0
    d.ask(fx.AddUserText(text), "send_text", cause=event.command_id)
    responses.want(d, automatic=False, cause=event.command_id)
    d.answer(event.command_id)


def _add_item(d: Draft, event: i.Commanded) -> None:
    d.ask(fx.AddItem(_data(event, c.AddItem).item), "add_item", cause=event.command_id)
    d.answer(event.command_id)


def _commit_audio(d: Draft, event: i.Commanded) -> None:
    data = _data(event, c.CommitAudio)
    d.s.rounds = 0
    d.ask(
        fx.CommitInput(),
        "commit_audio",
        cause=event.command_id,
        after_n=data.after_n,
        token=data.token or d.s.talker,
    )
    # With turn detection the provider answers by itself; asking too would be refused.
    if data.respond and not provider_responds(d.s.config):
        responses.want(d, automatic=False, cause=event.command_id)
    d.answer(event.command_id)


def _clear_audio(d: Draft, event: i.Commanded) -> None:
    data = _data(event, c.ClearAudio)
    d.ask(
        fx.ClearInput(),
        "clear_audio",
        cause=event.command_id,
        after_n=data.after_n,
        token=data.token or d.s.talker,
    )
    d.answer(event.command_id)


def _create_response(d: Draft, event: i.Commanded) -> None:
    overrides = _data(event, c.CreateResponse).overrides
    responses.want(d, automatic=False, cause=event.command_id, overrides=overrides)
    d.answer(event.command_id)


def _interrupt(d: Draft, event: i.Commanded) -> None:
    interruption.manual(d, event.command_id)


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
