"""Events as lines for people: when, what, the gist."""

import json
from typing import Any

from voicebus.bus.messages import events
from voicebus.client.events import Data, Event

LONGEST = 160


def line(event: Event, seconds: float) -> str:
    """`  1.234  tool_call_completed       weather -> {"temperature_c": 17}`."""
    return f"{seconds:8.3f}  {labelled(event)}"


def labelled(event: Event) -> str:
    """Kind and gist."""
    return f"{event.kind:<26} {gist(event.data)}".rstrip()


def gist(data: Data) -> str:
    """The part of an event that a person wants to see."""
    match data:
        case events.UserTranscriptDelta() | events.ToolCallArgsDelta():
            return shown(data.delta)
        case events.AssistantTextDelta() | events.AssistantTranscriptDelta():
            return shown(data.delta)
        case events.UserTranscript() | events.AssistantText() | events.AssistantTranscript():
            return shown(data.text)
        case events.SessionOpened():
            return " ".join(filter(None, (data.provider, data.model)))
        case events.SessionClosed():
            return _because(data.reason, data.code, data.message)
        case events.SessionReconnecting():
            return f"attempt {data.attempt}: {data.reason}"
        case events.SessionResumed():
            lost = ", events of the provider are lost" if data.events_lost else ""
            return f"{data.transport}, history {data.history}{lost}"
        case events.UserSpeechStarted() | events.UserSpeechStopped():
            return f"at {data.at_ms} ms"
        case events.AssistantTurnStarted():
            return data.turn_id
        case events.AssistantTurnCompleted():
            return _because(data.status, data.reason, _message(data.error))
        case events.AssistantAudioDone():
            return f"{data.item_id}, {data.samples} samples"
        case events.AssistantHeard():
            how = "all of it" if data.complete else "cut short"
            return f"{data.heard_ms} ms, {how}{', estimated' if data.estimated else ''}"
        case events.ToolCallStarted():
            return data.name
        case events.ToolCallDispatched():
            return f"{data.name}({_arguments(data.args)})"
        case events.ApprovalRequested():
            ends = "" if data.timeout_ms is None else f", denied after {data.timeout_ms / 1000:g} s"
            return f"{data.name}({_arguments(data.args)}) waits for `approve`{ends}"
        case events.ToolCallProgress():
            return f"{data.name}: {shown(data.text)}"
        case events.ToolCallCompleted() | events.ToolCallLateResult():
            return f"{data.name} -> {shown(data.result)}"
        case events.ToolCallFailed():
            return f"{data.name}: {_because(data.reason, data.signal, data.error)}"
        case events.ToolBatchSubmitted():
            return f"{len(data.call_ids)} to the model"
        case events.Interrupted():
            stopped = f", {len(data.calls)} tool calls told to stop" if data.calls else ""
            return f"{data.reason}{stopped}"
        case events.Error():
            ends = "" if data.recoverable else " (this ends the session)"
            return f"{_because(data.code, data.error)}{ends}"
        case events.AudioDropped():
            return f"{data.direction}: {data.dropped_ms} ms, {data.why}"
        case events.RateLimits():
            return ", ".join(
                f"{one.get('name')} {one.get('remaining')}/{one.get('limit')}"
                for one in data.limits
            )
        case events.RateLimited():
            return f"for {data.reset_ms} ms"
        case dict():
            return shown(data)
        case _:
            return ""


def shown(value: Any) -> str:
    """One line of at most 160 characters, quoted like JSON."""
    return shortened(json.dumps(value, ensure_ascii=False, default=str))


def shortened(text: str) -> str:
    """At most 160 characters."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _arguments(args: dict[str, Any]) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in args.items())


def _because(*parts: str | None) -> str:
    return ": ".join(part for part in parts if part)


def _message(error: dict[str, Any] | None) -> str | None:
    return None if error is None else str(error.get("message") or error.get("code") or error)
