"""Arbitrary interleavings of provider, commands, tools, time and lost links, and what always holds.

The provider is a small model: it keeps a conversation, refuses what the real one refuses, hears and
interrupts, and answers requests whenever the rules let it.
"""

from collections import Counter, deque

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from voicebus.bus.messages.base import encode
from voicebus.bus.messages.commands import OnInterrupt, ServerVad, SessionConfig
from voicebus.bus.messages.events import (
    Error,
    Interrupted,
    RateLimited,
    SessionClosed,
    ToolCallCompleted,
    ToolCallDispatched,
    ToolCallFailed,
    ToolCallStarted,
)
from voicebus.bus.messages.work import Status
from voicebus.services.session.conversation import Conversation
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import responses
from voicebus.services.session.core.state import State
from voicebus.services.session.core.step import step
from voicebus.services.session.core.turn_taking import provider_interrupts, provider_responds
from voicebus.services.session.journal import Commit, Stored
from voicebus.services.session.providers.openai import OpenAI
from voicebus.services.session.testing import (
    SAMPLES_PER_MS,
    Stage,
    at,
    call_item,
    done,
    of,
    tool,
)

TOOLS = [
    tool("cancel_once", on_interrupt="cancel", effects="once"),
    tool("cancel_none", on_interrupt="cancel", effects="none"),
    tool("finish_once", on_interrupt="finish", effects="once"),
    tool("detach_none", on_interrupt="detach", effects="none"),
    tool("approved", approval=True),
    tool("mine"),
]
NAMES = [*(one.name for one in TOOLS), "unknown_tool"]
ARGUMENTS = ["{}", '{"a":1}', '{"a"', "[1]", ""]
STATUSES: list[Status] = ["ok", "error", "cancelled", "timeout", "crashed", "unknown", "lost"]
DETECTIONS: list[ServerVad | str] = [
    "server_vad",
    "none",
    ServerVad(interrupt_response=False),
    ServerVad(create_response=False),
]


FINAL = (
    i.ItemAdded,
    i.OutputItemAdded,
    i.OutputItemDone,
    i.ResponseStarted,
    i.ResponseDone,
    i.InputCommitted,
    i.SpeechStarted,
    i.SpeechStopped,
)


class CheckedStage(Stage):
    """A stage that checks each step and keeps everything to play it again."""

    def __init__(self, config: SessionConfig) -> None:
        self.inputs: list[i.AnyInput] = []
        self.all: list[fx.Effect] = []
        self.new: deque[tuple[int, fx.Effect]] = deque()
        """Effects nobody has looked at, and when they were decided."""
        super().__init__(config, TOOLS, ["mine"], ready=False)

    def play(self, *inputs: i.AnyInput) -> list[fx.Effect]:
        caused: list[fx.Effect] = []
        for one in inputs:
            timed = at(one, self.now_us)
            before = msgspec.json.encode(self.state)
            after, effects = step(self.state, timed)
            assert msgspec.json.encode(self.state) == before, "a step changed the old state"
            again = msgspec.json.decode(msgspec.json.encode(after), type=State)
            assert again == after, "a state does not survive JSON"
            self.state = after
            self.inputs.append(msgspec.json.decode(msgspec.json.encode(timed), type=i.AnyInput))
            caused.extend(effects)
        self.all.extend(caused)
        self.new.extend((self.now_us, effect) for effect in caused)
        return caused


class Conversations(RuleBasedStateMachine):
    """One session and everything around it."""

    @initialize(
        policy=st.sampled_from(["drop", "submit", "submit-completed-only"]),
        detection=st.sampled_from(DETECTIONS),
        echoes=st.booleans(),
        killed_at=st.integers(0, 300),
    )
    def begin(
        self, policy: OnInterrupt, detection: ServerVad | str, echoes: bool, killed_at: int
    ) -> None:
        config = SessionConfig(
            on_interrupt=policy,
            turn_detection=detection,  # type: ignore[arg-type]
            lease_s=100_000,
        )
        self.stage = CheckedStage(config)
        self.policy = policy
        self.hears = detection != "none"
        self.interrupts = provider_interrupts(config)
        self.answers = provider_responds(config)
        self.killed_at = killed_at
        """After so many inputs the process dies, and another one folds the journal."""
        self.echoes = echoes
        self.events: deque[i.AnyInput] = deque()
        self.requests: deque[fx.Ask] = deque()
        self.generation = 0
        self.ids = Counter[str]()
        self.commands: list[str] = []
        self.replies: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.completed: set[str] = set()
        self.told: set[str] = set()
        """Calls that have an output, or whose item was deleted."""
        self.forbidden: set[str] = set()
        """Calls that were interrupted and whose policy allows them no output."""
        self.started: set[str] = set()
        self.apart: set[str] = set()
        """Calls of responses out of band."""
        self.submitted: dict[str, str] = {}
        self.closed = False
        self.new_connection()
        self.collect()
        self.everything_arrives()

    def new_connection(self) -> None:
        self.items: dict[str, str] = {}
        """Item id -> call id, or nothing."""
        self.outputs: Counter[str] = Counter()
        self.unseen: set[str] = set()
        """Calls whose outputs no response has seen yet, and nothing excuses that."""
        self.excused: set[str] = set()
        self.truncated: Counter[tuple[str, int]] = Counter()
        self.received: Counter[tuple[str, int]] = Counter()
        self.active: dict[str, bool] = {}
        """Response id -> whether it is out of band."""
        self.written: dict[str, list[i.Item]] = {}
        self.events.clear()
        self.speech = ""
        """The item of what the caller is saying."""
        self.past = deque[i.AnyInput](maxlen=40)
        """What may be told again, long after."""
        self.requests.clear()
        self.unanswered: dict[str, int] = {}
        """Creates for the default conversation that the provider has not answered, since when."""

    def id(self, kind: str) -> str:
        self.ids[kind] += 1
        return f"{kind}{self.ids[kind]}"

    # --- what comes out -----------------------------------------------------------------------

    def collect(self) -> None:
        """Look at new effects: count, check, and hand on."""
        while self.stage.new:
            at_us, effect = self.stage.new.popleft()
            match effect:
                case fx.Publish(data=data):
                    assert not self.closed, f"{data} after session_closed"
                    self.published(data)
                case fx.Answer(command_id=command_id) | fx.Refuse(command_id=command_id):
                    self.replies[command_id] += 1
                    assert self.replies[command_id] == 1, f"{command_id} was answered twice"
                case fx.Ask():
                    self.asked(effect, at_us)
                case fx.Submit(call_id=call_id, tool=name):
                    assert call_id not in self.submitted, f"{call_id} was submitted twice"
                    self.submitted[call_id] = name
                case fx.Dial(generation=generation):
                    self.generation = generation
                    self.new_connection()
                    self.events.append(i.ProviderConnected(generation=generation))
                    self.events.append(i.ProviderSessionCreated(provider_session_id="s"))
                case fx.Flush(responses=responses):
                    assert responses
                case _:
                    pass

    def excuse(self) -> None:
        """What was to be answered need not be any more."""
        self.unseen.clear()
        self.excused.update(
            ask.request.call_id for ask in self.requests if isinstance(ask.request, fx.AddOutput)
        )

    def published(self, data: object) -> None:
        match data:
            case ToolCallStarted(call_id=call_id):
                assert call_id not in self.started
                self.started.add(call_id)
            case ToolCallCompleted(call_id=call_id) | ToolCallFailed(call_id=call_id):
                self.outcomes[call_id] += 1
                assert self.outcomes[call_id] == 1, f"{call_id} ended twice"
                assert call_id in self.started
                if isinstance(data, ToolCallCompleted):
                    self.completed.add(call_id)
            case SessionClosed():
                self.closed = True
            case Error() | RateLimited():
                self.excuse()
            case Interrupted(responses=responses, calls=calls):
                self.excuse()
                assert len(set(responses)) == len(responses)
                assert set(calls) <= self.started
                self.forbid()
            case _:
                pass

    def forbid(self) -> None:
        """An interruption reaches every call that nothing was told of."""
        untold = self.started - self.told
        if self.policy == "drop":
            self.forbidden |= untold
        elif self.policy == "submit-completed-only":
            self.forbidden |= untold - self.completed

    def asked(self, ask: fx.Ask, at_us: int) -> None:
        self.requests.append(ask)
        if isinstance(ask.request, fx.CreateResponse):
            if ask.request.overrides.get("conversation") != "none":
                # Before the first echo a response of the provider's own may be taken for ours.
                # What nobody answered for ten seconds is given up; its late response is cancelled.
                given_up_us = at_us - responses.ANNOUNCE_US
                for event_id, asked_us in tuple(self.unanswered.items()):
                    if asked_us <= given_up_us:
                        del self.unanswered[event_id]
                if self.stage.state.echoes:
                    self.unanswered[ask.event_id] = at_us
                assert len(self.unanswered) <= 1, "two default creates at once"
        elif isinstance(ask.request, fx.TruncateItem):
            key = (ask.request.item_id, ask.request.content_index)
            self.truncated[key] += 1
            assert self.truncated[key] == 1, f"{key} was truncated twice"
            heard_samples = ask.request.heard_ms * SAMPLES_PER_MS
            assert heard_samples <= self.received[key], f"{key} was truncated beyond its end"
        elif isinstance(ask.request, fx.AddCall):
            # Told again to a new connection; before, it may have been told in words.
            self.forbidden.discard(ask.request.call_id)
        elif isinstance(ask.request, fx.AddOutput):
            call_id, is_promise = ask.request.call_id, '"running"' in ask.request.output
            assert call_id not in self.apart, f"{call_id} stands in no conversation"
            assert is_promise or call_id not in self.forbidden, f"{self.policy} forbids {call_id}"
            self.told.add(call_id)
        elif isinstance(ask.request, fx.DeleteItem):
            self.told.add(ask.request.item_id.removeprefix("item-"))
        elif isinstance(ask.request, fx.AddContext) and "has answered" in ask.request.text:
            call_id = self.stage.state.asked[ask.event_id].ref or ""
            outputs = [one.request for one in self.requests]
            is_told = any(isinstance(o, fx.AddOutput) and o.call_id == call_id for o in outputs)
            is_told = is_told or self.outputs[call_id] > 0
            assert not is_told, f"{call_id} was told twice"

    # --- the provider -------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        return not self.closed and self.stage.state.phase != "lost"

    @precondition(lambda self: self.requests)
    @rule(count=st.integers(1, 5), refuse=st.sampled_from([False, False, False, True]))
    def provider_handles(self, count: int, refuse: bool) -> None:
        for _ in range(min(count, len(self.requests))):
            self.handle(self.requests.popleft(), refuse)

    def handle(self, ask: fx.Ask, refuse: bool) -> None:
        def refused(code: str, meaning: str = "other") -> None:
            value = {"code": code, "message": code, "event_id": ask.event_id, "meaning": meaning}
            self.events.append(msgspec.convert(value, i.ProviderRefused))

        match ask.request:
            case fx.Configure():
                if refuse and self.stage.state.phase == "ready":
                    refused("cannot_update_voice")
                else:
                    self.events.append(i.ProviderSessionUpdated(session={}))
            case fx.CreateResponse(tag=tag, overrides=overrides):
                apart = overrides.get("conversation") == "none"
                self.unanswered.pop(ask.event_id, None)
                if not apart and False in self.active.values():
                    refused("conversation_already_has_active_response", "already_active")
                elif refuse:
                    refused("invalid_value")
                else:
                    self.respond(tag if self.echoes else None, apart)
            case fx.CancelResponse(response_id=response_id):
                if response_id in self.active:
                    self.finish(response_id, "cancelled", "client_cancelled")
                else:
                    refused("response_cancel_not_active", "benign")
            case fx.AddOutput(call_id=call_id):
                if call_id in self.items.values():
                    self.outputs[call_id] += 1
                    assert self.outputs[call_id] == 1, f"{call_id} got two outputs"
                    if '"running"' not in ask.request.output and call_id not in self.excused:
                        self.unseen.add(call_id)
                    stands = i.Item(
                        item_id=self.id("o"), type="function_call_output", call_id=call_id
                    )
                    self.events.append(i.ItemAdded(item=stands))
                else:
                    refused("invalid_tool_call_id")
            case fx.AddCall(call_id=call_id, item_id=item_id):
                self.items[item_id] = call_id
            case fx.DeleteItem(item_id=item_id):
                if item_id in self.items:
                    assert not self.outputs[self.items[item_id]], "an answered call was deleted"
                    del self.items[item_id]
                    self.events.append(i.ItemDeleted(item_id=item_id))
                else:
                    refused("item_delete_invalid_item_id", "benign")
            case fx.CommitInput() if refuse:
                refused("input_audio_buffer_commit_empty", "benign")
            case _:
                pass

    def respond(self, tag: str | None, apart: bool = False) -> str:
        r = self.id("r")
        self.active[r] = apart
        self.written[r] = []
        if not apart:
            self.unseen.clear()
        self.events.append(i.ResponseStarted(response_id=r, tag=tag, out_of_band=apart))
        return r

    def finish(
        self,
        r: str,
        status: i.ResponseStatus,
        reason: str | None = None,
        *,
        rate_limited: bool = False,
    ) -> None:
        apart = self.active.pop(r)
        self.events.append(
            done(r, status, reason, tokens=3, out_of_band=apart, rate_limited=rate_limited)
        )

    @precondition(lambda self: self.events)
    @rule(count=st.integers(1, 8))
    def events_arrive(self, count: int) -> None:
        for _ in range(min(count, len(self.events))):
            event = self.events.popleft()
            if isinstance(event, i.SoundPublished):
                self.received[(event.item_id, event.content_index)] += event.samples
            if isinstance(event, i.SpeechStarted):
                self.excuse()  # the caller is answered instead
            self.stage.play(event)
            self.collect()
            if isinstance(event, FINAL):
                self.past.append(event)

    @rule()
    def everything_arrives(self) -> None:
        for _ in range(50):
            if self.events:
                self.events_arrive(len(self.events))
            elif self.requests:
                self.provider_handles(len(self.requests), False)
            else:
                return

    @precondition(lambda self: False not in self.active.values() and self.is_live)
    @rule(
        data=st.data(),
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        wanted=st.booleans(),
        spoken_ms=st.sampled_from([0, 0, 4000]),
    )
    def a_turn_with_calls(
        self, data: st.DataObject, names: list[str], wanted: bool, spoken_ms: int
    ) -> None:
        """The usual way of things, so that what is unusual has something to disturb."""
        if wanted:
            self.client_writes()
            self.everything_arrives()
        if False not in self.active.values():
            self.respond(None)
        if spoken_ms:
            self.a_response_speaks(data, spoken_ms, 0)
        for name in names:
            self.a_response_calls(data, name, "{}", True)
        self.a_response_ends(data, "completed", False)
        self.events_arrive(len(self.events))

    @precondition(lambda self: False not in self.active.values() and self.is_live)
    @rule(data=st.data())
    def a_turn_begins_to_sound(self, data: st.DataObject) -> None:
        self.client_writes()
        self.everything_arrives()
        if self.active:
            self.a_response_speaks(data, 3000, 0)
            self.everything_arrives()

    @precondition(lambda self: self.events)
    @rule()
    def an_event_arrives_twice(self) -> None:
        event = self.events[0]
        if isinstance(event, i.SoundPublished):
            return  # sound is counted by the transport, once
        self.events_arrive(1)
        if not self.closed:
            self.stage.play(event)
            self.collect()

    @precondition(lambda self: self.past and self.is_live)
    @rule(data=st.data())
    def an_event_arrives_again_later(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(list(self.past)))
        before = self.stage.state
        self.stage.play(event)
        self.collect()
        if isinstance(event, i.SpeechStarted | i.SpeechStopped):
            after = self.stage.state
            assert after.epoch == before.epoch, "speech that is told again interrupts"
            assert after.speaking_us == before.speaking_us

    @precondition(lambda self: self.active and self.is_live)
    @rule(data=st.data(), ms=st.integers(0, 5000), index=st.integers(0, 1))
    def a_response_speaks(self, data: st.DataObject, ms: int, index: int) -> None:
        r = data.draw(st.sampled_from(sorted(self.active)))
        item = f"m-{r}-{data.draw(st.integers(0, 1))}"
        made = i.Item(item_id=item, type="message", role="assistant")
        if item not in self.items:
            if not self.active[r]:
                self.items[item] = ""
            self.events.append(i.OutputItemAdded(response_id=r, output_index=0, item=made))
        if ms:
            self.events.append(
                i.SoundPublished(
                    response_id=r, item_id=item, content_index=index, samples=ms * SAMPLES_PER_MS
                )
            )
        words = i.AssistantWords(
            response_id=r, item_id=item, content_index=0, text="words ", final=False, spoken=True
        )
        self.events.append(words)

    @precondition(lambda self: self.active and self.is_live)
    @rule(
        data=st.data(),
        name=st.sampled_from(NAMES),
        arguments=st.sampled_from(ARGUMENTS),
        whole=st.booleans(),
    )
    def a_response_calls(self, data: st.DataObject, name: str, arguments: str, whole: bool) -> None:
        r = data.draw(st.sampled_from(sorted(self.active)))
        call_id = self.id("c")
        index = len(self.written[r])
        item = call_item(call_id, name, arguments, "completed" if whole else "incomplete")
        if self.active[r]:
            self.apart.add(call_id)
        else:
            self.items[item.item_id] = call_id
        self.written[r].append(item)
        self.events.append(i.OutputItemAdded(response_id=r, output_index=index, item=item))
        if not self.active[r]:
            self.events.append(i.ItemAdded(item=item))
        self.events.append(i.OutputItemDone(response_id=r, output_index=index, item=item))

    @precondition(lambda self: self.active and self.is_live)
    @rule(
        data=st.data(),
        status=st.sampled_from(["completed", "completed", "completed", "incomplete", "failed"]),
        rate_limited=st.booleans(),
    )
    def a_response_ends(
        self, data: st.DataObject, status: i.ResponseStatus, rate_limited: bool
    ) -> None:
        r = data.draw(st.sampled_from(sorted(self.active)))
        limited = rate_limited and status == "failed"
        self.finish(r, status, rate_limited=limited)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def a_response_is_never_ended(self, data: st.DataObject) -> None:
        del self.active[data.draw(st.sampled_from(sorted(self.active)))]

    @precondition(lambda self: self.is_live and self.hears)
    @rule(reports=st.booleans())
    def the_caller_begins(self, reports: bool) -> None:
        if not self.speech:
            self.speech = self.id("u")
            if reports:
                self.events.append(i.SpeechStarted(at_ms=1, item_id=self.speech))
        for r in [r for r, apart in self.active.items() if not apart and self.interrupts]:
            self.finish(r, "cancelled", "turn_detected")

    @precondition(lambda self: self.is_live and self.hears)
    @rule()
    def the_caller_ends(self) -> None:
        u, self.speech = self.speech or self.id("u"), ""
        self.events.append(i.SpeechStopped(at_ms=2, item_id=u))
        self.events.append(i.InputCommitted(item_id=u))
        if self.answers and False not in self.active.values():
            self.respond(None)

    @precondition(lambda self: self.is_live)
    @rule()
    def a_foreign_response_ends(self) -> None:
        self.events.append(done(self.id("foreign"), "completed"))

    @precondition(lambda self: self.is_live and self.generation)
    @rule(code=st.sampled_from([1006, 1006, 1001, 4000]))
    def the_connection_is_lost(self, code: int) -> None:
        self.new_connection()
        self.stage.play(i.ProviderDisconnected(generation=self.generation, code=code))
        self.collect()

    # --- clients ------------------------------------------------------------------------------

    def command(self, name: str, **data: object) -> None:
        command_id = self.id("command")
        self.commands.append(command_id)
        self.stage.play(i.Commanded(command_id=command_id, command=name, data=data))
        self.collect()

    @rule()
    def client_writes(self) -> None:
        self.command("send_text", text="Hello")

    @rule()
    def client_interrupts(self) -> None:
        self.command("interrupt")

    @rule(apart=st.booleans())
    def client_wants_a_response(self, apart: bool) -> None:
        self.command("create_response", overrides={"conversation": "none"} if apart else {})

    @rule()
    def client_commits(self) -> None:
        self.command("commit_audio")

    @rule(
        data=st.data(),
        ms=st.integers(0, 6000),
        state=st.sampled_from(["playing", "stopped", "done"]),
    )
    def player_reports(self, data: st.DataObject, ms: int, state: str) -> None:
        items = sorted(self.items) or ["nobody's"]
        item = data.draw(st.sampled_from(items))
        self.command("report_playback", item_id=item, played_ms=ms, state=state)

    @rule(data=st.data(), name=st.sampled_from(["submit_tool_output", "approve"]))
    def client_answers_a_call(self, data: st.DataObject, name: str) -> None:
        call_id = data.draw(st.sampled_from(sorted(self.started) or ["nobody's"]))
        more: dict[str, object] = {"approve": True} if name == "approve" else {"result": 1}
        self.command(name, call_id=call_id, **more)

    @rule()
    def client_updates(self) -> None:
        command_id = self.id("command")
        self.commands.append(command_id)
        config = SessionConfig(instructions="new")
        self.stage.play(
            i.UpdateRequested(
                command_id=command_id, config=config, fields=["instructions"], tools=[]
            )
        )
        self.collect()

    @precondition(lambda self: len(self.commands) > 12)
    @rule()
    def client_closes(self) -> None:
        self.command("close")

    # --- tools and time -----------------------------------------------------------------------

    @precondition(lambda self: self.submitted)
    @rule(data=st.data(), status=st.sampled_from(STATUSES))
    def a_tool_ends(self, data: st.DataObject, status: Status) -> None:
        call_id = data.draw(st.sampled_from(sorted(self.submitted)))
        self.stage.play(i.ToolEnded(call_id=call_id, status=status, result=7))
        self.collect()

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 3.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.stage.wait(seconds)
        self.collect()

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def outcomes_belong_to_calls(self) -> None:
        if hasattr(self, "stage"):
            dispatched = {one.call_id for one in of(self.stage.all, ToolCallDispatched)}
            assert dispatched <= self.started

    def settle(self) -> None:
        """Let everything that is under way come to its end."""
        for _ in range(200):
            for r in sorted(self.active):
                self.finish(r, "completed")
            while self.events or self.requests:
                self.events_arrive(100) if self.events else self.provider_handles(100, False)
            for call_id in self.submitted:
                if not self.outcomes[call_id]:
                    self.stage.play(i.ToolEnded(call_id=call_id, status="ok"))
                    self.collect()
            self.everything_arrives()
            self.stage.wait(20)
            self.collect()
            state = self.stage.state
            idle = not (self.active or self.events or self.requests or state.queue)
            open_calls = [call for call in state.calls.values() if call.phase != "ended"]
            if idle and not open_calls and state.creating is None:
                return
        raise AssertionError(
            f"the conversation does not come to rest: queue {state.queue}, creating "
            f"{state.creating}, open calls {open_calls}"
        )

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        self.settle()
        assert set(self.outcomes) == self.started, "a call has no outcome"
        if not self.closed:
            assert not self.unseen, f"nobody answers the outputs of {self.unseen}"
            for item_id, call_id in self.items.items():
                if call_id:
                    assert self.outputs[call_id] == 1, f"{call_id} of {item_id} dangles"
        self.command("close")
        unanswered = [one for one in self.commands if self.replies[one] != 1]
        assert not unanswered, f"never answered: {unanswered}"
        assert self.closed
        self.play_again()

    def play_again(self) -> None:
        """The same inputs, from JSON, give the same effects and the same state."""
        state = State(session_id=self.stage.state.session_id)
        effects: list[fx.Effect] = []
        for one in self.stage.inputs:
            state, caused = step(state, one)
            effects.extend(caused)
        assert effects == self.stage.all
        assert state == self.stage.state
        self.a_killed_process_is_followed_by_another()

    def a_killed_process_is_followed_by_another(self) -> None:
        """Numbered without gaps, and nothing lost or told twice where one folds the journal."""
        session_id, inputs = self.stage.state.session_id, self.stage.inputs
        killed_at = min(self.killed_at, len(inputs))
        first = Conversation(session_id, OpenAI(), "inc-1", ring=1, created_us=1)
        for one in inputs[:killed_at]:
            first.feed(one, one.now_us)
        before = first.take_work().commit
        second = Conversation(session_id, OpenAI(), "inc-2", ring=1, created_us=1)
        second.recover(journal_of(before))
        for one in inputs[killed_at:]:
            second.feed(one, one.now_us)
        after = second.take_work().commit

        assert second.state == self.stage.state
        headers = [msgspec.json.decode(header) for _, header in (*before.events, *after.events)]
        assert [header["seq"] for header in headers] == list(range(1, len(headers) + 1))
        published = [one.data for one in self.stage.all if isinstance(one, fx.Publish)]
        told = [msgspec.json.decode(encode(data)) for data in published]
        assert [header.get("data", {}) for header in headers] == told
        frames = [n for n, _, _ in (*before.outbox, *after.outbox)]
        assert frames == list(range(1, len(frames) + 1))


def journal_of(commit: Commit) -> Stored:
    """What a journal gives back after this one commit."""
    number, inputs = 0, commit.inputs
    if commit.snapshot is not None:
        number = commit.snapshot[0]
    return Stored(
        commit.session_id,
        1,
        msgspec.json.decode(commit.ledger),
        commit.snapshot,
        [one for one in inputs if one[0] > number],
        commit.outbox,
    )


Conversations.TestCase.settings = settings(
    max_examples=2000,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# Only a failure takes long: it is made as small as can be.
TestConversations = pytest.mark.timeout(600)(Conversations.TestCase)
