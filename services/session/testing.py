"""A stage for the pure core: inputs by hand, time by hand, effects to look at. For tests.

stage = Stage(tools=[tool("search")])
stage.play(created("r1"), *call("r1", "c1", "search", city="Berlin"), done("r1"))
stage.wait(2)
assert requests(stage.play(tool_ok("c1", 21))) == [...]
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from voicebus.bus.messages.base import Message, wire_name
from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import Usage
from voicebus.bus.messages.work import Failure, Status, ToolSpec
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.core.state import State
from voicebus.services.session.core.step import deadline, step

T = TypeVar("T")
START_US = 1_000_000_000
SESSION = "s0-00000000000000000000000000"
SAMPLES_PER_MS = 24
WAKE_LIMIT = 10_000
"""A state that wants to be woken more often in one wait spins."""


class Stage:
    """One conversation, driven by hand; nothing happens between two inputs."""

    def __init__(
        self,
        config: SessionConfig | None = None,
        tools: Sequence[ToolSpec] = (),
        client_tools: Sequence[str] = (),
        capabilities: Capabilities | None = None,
        *,
        ready: bool = True,
    ) -> None:
        """`ready` plays the opening up to the provider's confirmation."""
        self.state = State(session_id=SESSION)
        self.now_us = START_US
        self.effects: list[fx.Effect] = []
        """Everything since the opening."""
        self._commands = 0
        self.play(
            i.SessionRequested(
                command_id="open-1",
                session_id=SESSION,
                config=config or SessionConfig(),
                tools=list(tools),
                client_tools=list(client_tools),
                transport=0,
                token="token-1",
                vendor="openai",
                model="gpt-realtime",
                opened={"session_id": SESSION},
                capabilities=capabilities or Capabilities(),
            )
        )
        if ready:
            self.play(
                i.ProviderConnected(generation=1),
                i.ProviderSessionCreated(provider_session_id="sess_1"),
                i.ProviderSessionUpdated(session={}),
            )
            self.effects.clear()

    def play(self, *inputs: i.AnyInput) -> list[fx.Effect]:
        """Feed inputs, all of them now. Returns what they caused."""
        caused: list[fx.Effect] = []
        for one in inputs:
            self.state, effects = step(self.state, at(one, self.now_us))
            caused.extend(effects)
        self.effects.extend(caused)
        return caused

    def wait(self, seconds: float) -> list[fx.Effect]:
        """Let time pass, waking the core whenever it wants to be woken."""
        until_us = self.now_us + round(seconds * 1_000_000)
        caused: list[fx.Effect] = []
        for _ in range(WAKE_LIMIT):
            due_us = deadline(self.state)
            if due_us is None or due_us > until_us:
                self.now_us = until_us
                return caused
            self.now_us = max(self.now_us, due_us)
            caused.extend(self.play(i.TimePassed()))
        raise AssertionError(f"woken {WAKE_LIMIT} times in {seconds} s: the deadline stands still")

    def command(self, name: str, **data: Any) -> list[fx.Effect]:
        """A command under an id of its own: `name-1`, `name-2`, …"""
        self._commands += 1
        return self.play(
            i.Commanded(command_id=f"{name}-{self._commands}", command=name, data=data)
        )

    @property
    def last_tag(self) -> str:
        """The tag of the last response that was asked for."""
        return of(self.effects, fx.CreateResponse)[-1].tag

    @property
    def last_event_id(self) -> str:
        """The id of the last request."""
        return next(one.event_id for one in reversed(self.effects) if isinstance(one, fx.Ask))


def at(one: i.AnyInput, now_us: int) -> i.AnyInput:
    """The same input at another time."""
    return msgspec.structs.replace(one, now_us=now_us)


# --- looking at effects -----------------------------------------------------------------------


def events(effects: Iterable[fx.Effect]) -> list[Message]:
    """What was published."""
    return [effect.data for effect in effects if isinstance(effect, fx.Publish)]


def kinds(effects: Iterable[fx.Effect]) -> list[str]:
    """What was published, by the names on the wire."""
    return [wire_name(type(event)) for event in events(effects)]


def requests(effects: Iterable[fx.Effect]) -> list[fx.Request]:
    """What the provider was asked."""
    return [effect.request for effect in effects if isinstance(effect, fx.Ask)]


def of(effects: Iterable[fx.Effect], kind: type[T]) -> list[T]:
    """The effects, events or requests of one type."""
    found: list[Any] = []
    for effect in effects:
        inner: Any = effect
        if isinstance(effect, fx.Publish):
            inner = effect.data
        elif isinstance(effect, fx.Ask) and kind is not fx.Ask:
            inner = effect.request
        if isinstance(effect, kind) or isinstance(inner, kind):
            found.append(effect if isinstance(effect, kind) else inner)
    return found


def replies(effects: Iterable[fx.Effect]) -> dict[str, str]:
    """Per answered command `ok`, or the code of its refusal."""
    return {
        effect.command_id: "ok" if isinstance(effect, fx.Answer) else effect.error.code
        for effect in effects
        if isinstance(effect, fx.Answer | fx.Refuse)
    }


# --- what the provider says -------------------------------------------------------------------


def created(r: str = "r1", tag: str | None = None, *, out_of_band: bool = False) -> i.AnyInput:
    """A response begins."""
    return i.ResponseStarted(response_id=r, tag=tag, out_of_band=out_of_band)


def done(
    r: str = "r1",
    status: i.ResponseStatus = "completed",
    reason: str | None = None,
    *,
    tokens: int = 0,
    output: Sequence[i.Item] = (),
    error: dict[str, Any] | None = None,
    **more: Any,
) -> i.AnyInput:
    """A response is over."""
    usage = Usage(total_tokens=tokens) if tokens else None
    return i.ResponseDone(
        response_id=r,
        status=status,
        reason=reason,
        usage=usage,
        output=list(output),
        error=error,
        **more,
    )


def message(r: str = "r1", item: str = "m1", index: int = 0) -> list[i.AnyInput]:
    """A response begins a message."""
    made = i.Item(item_id=item, type="message", role="assistant")
    return [
        i.OutputItemAdded(response_id=r, output_index=index, item=made),
        i.ItemAdded(item=made),
    ]


def sound(r: str = "r1", item: str = "m1", ms: int = 1000, index: int = 0) -> i.AnyInput:
    """So much sound (pcm16) went to the players."""
    return i.SoundPublished(
        response_id=r, item_id=item, content_index=index, samples=ms * SAMPLES_PER_MS
    )


def sound_end(r: str = "r1", item: str = "m1", index: int = 0) -> i.AnyInput:
    """The sound of an item is complete."""
    return i.SoundDone(response_id=r, item_id=item, content_index=index)


def spoken(
    text: str, r: str = "r1", item: str = "m1", *, final: bool = False, index: int = 0
) -> i.AnyInput:
    """Words of spoken sound."""
    return i.AssistantWords(
        response_id=r, item_id=item, content_index=index, text=text, final=final, spoken=True
    )


def wrote(text: str, r: str = "r1", item: str = "m1", *, final: bool = False) -> i.AnyInput:
    """Words of a written answer."""
    return i.AssistantWords(
        response_id=r, item_id=item, content_index=0, text=text, final=final, spoken=False
    )


def call_item(
    call_id: str, name: str, arguments: str = "{}", status: str | None = "completed"
) -> i.Item:
    """A call as an item."""
    return i.Item(
        item_id=f"item-{call_id}",
        type="function_call",
        status=status,
        call_id=call_id,
        name=name,
        arguments=arguments,
    )


def call(
    r: str,
    call_id: str,
    name: str,
    index: int = 0,
    *,
    arguments: str = "{}",
    status: str | None = "completed",
) -> list[i.AnyInput]:
    """A response writes a call, to its end."""
    begun = call_item(call_id, name, "", "in_progress")
    whole = call_item(call_id, name, arguments, status)
    return [
        i.OutputItemAdded(response_id=r, output_index=index, item=begun),
        i.OutputItemDone(response_id=r, output_index=index, item=whole),
    ]


def speech_started(at_ms: int = 0, item: str | None = "u1") -> i.AnyInput:
    """The caller begins."""
    return i.SpeechStarted(at_ms=at_ms, item_id=item)


def speech_stopped(at_ms: int = 0, item: str | None = "u1") -> i.AnyInput:
    """The caller ends."""
    return i.SpeechStopped(at_ms=at_ms, item_id=item)


def refused(
    code: str, event_id: str | None = None, meaning: str = "other", about: str | None = None
) -> i.AnyInput:
    """The provider's error event."""
    value: Any = {
        "code": code,
        "message": f"refused: {code}",
        "event_id": event_id,
        "meaning": meaning,
        "about": about,
    }
    return msgspec.convert(value, i.ProviderRefused)


# --- tools ------------------------------------------------------------------------------------


def tool(name: str, **fields: Any) -> ToolSpec:
    """A tool of the catalogue."""
    return ToolSpec(name=name, parameters=fields.pop("parameters", {"type": "object"}), **fields)


def tool_ok(call_id: str, result: Any = "fine") -> i.AnyInput:
    """A call ended well."""
    return i.ToolEnded(call_id=call_id, status="ok", result=result, duration_ms=5.0)


def tool_failed(call_id: str, status: Status = "error", message: str = "broken") -> i.AnyInput:
    """A call ended without a result."""
    return i.ToolEnded(call_id=call_id, status=status, failure=Failure(message=message))
