"""Whatever happens in whatever order: one outcome per call, nothing `once` runs twice."""

from collections import Counter, deque
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from voicebus.bus.messages import work
from voicebus.services.tools.dispatch import core
from voicebus.services.tools.dispatch.effects import (
    Effect,
    RememberWorkers,
    TellSession,
    TellWorker,
)
from voicebus.services.tools.dispatch.events import Event, SessionSaid, Ticked, WorkerSaid
from voicebus.services.tools.dispatch.state import Limits, fresh

SESSION = "s0-" + "0" * 26
TOOLS = {
    "read": work.ToolSpec(name="read", parameters={"type": "object"}, effects="none"),
    "pay": work.ToolSpec(name="pay", parameters={"type": "object"}, effects="once"),
}
CAPACITY = 2
BUDGETS_MS = [1, 400, 3_000, 60_000]


def denies(outcome: work.Outcome) -> bool:
    """Whether the model is told that the tool did not run."""
    words = outcome.failure.message if outcome.failure is not None else ""
    return (
        outcome.status in ("busy", "unknown_tool")
        or "did not run" in words
        or "before it began" in words
    )


class Host:
    """A worker that keeps the protocol: results are kept until acknowledged."""

    def __init__(self, name: str, inc: str) -> None:
        self.name = name
        self.peer = f"{name}.{inc}"
        self.inc = inc
        self.mail: deque[Any] = deque()
        self.running: dict[str, str] = {}
        self.unacked: dict[str, work.Result] = {}
        self.tombstones: set[str] = set()
        self.received = 0

    def hello(self) -> list[Any]:
        refs = [work.CallRef(session_id=SESSION, call_id=one) for one in self.running]
        kept = [work.CallRef(session_id=SESSION, call_id=one) for one in self.unacked]
        return [
            work.WorkerHello(
                name=self.name,
                inc=self.inc,
                pid=1,
                capacity=CAPACITY,
                tools=list(TOOLS.values()),
                running=refs,
                unacked=kept,
                received=self.received,
            ),
            self.credit(),
            *self.unacked.values(),
        ]

    def credit(self) -> work.Credit:
        return work.Credit(free=CAPACITY - len(self.running), received=self.received)


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0
        self.incs = 0
        self.remembered: tuple[str, ...] = ()
        self.ran: Counter[str] = Counter()
        self.tools: dict[str, str] = {}
        self.until: dict[str, float] = {}
        self.stopping: set[str] = set()
        self.denied: set[str] = set()
        self.owed: set[str] = set()
        self.to_session: deque[Any] = deque()
        self.start_dispatcher()
        self.hosts = [self.new_host("w0"), self.new_host("w1")]

    # --- the parts ---

    def start_dispatcher(self) -> None:
        self.incs += 1
        self.state = fresh(f"d{self.incs}", self.at, Limits(), self.remembered)
        self.told_here: dict[str, str] = {}

    def new_host(self, name: str) -> Host:
        self.incs += 1
        host = Host(name, f"i{self.incs}")
        for message in host.hello():
            self.feed(WorkerSaid(self.at, host.peer, message))
        assert {one.name for one in self.state.catalogue} == set(TOOLS), "nothing would ever run"
        return host

    def feed(self, event: Event) -> None:
        self.state, effects = core.step(self.state, event)
        for effect in effects:
            self.do(effect)

    def do(self, effect: Effect) -> None:
        match effect:
            case TellWorker(peer, message):
                for host in getattr(self, "hosts", []):
                    if host.peer == peer:
                        host.mail.append(message)
            case TellSession(_, message):
                self.to_session.append(message)
            case RememberWorkers(names):
                self.remembered = names
            case _:
                pass

    def say(self, host: Host, message: Any) -> None:
        self.feed(WorkerSaid(self.at, host.peer, message))

    # --- what may happen ---

    @rule(tool=st.sampled_from(sorted(TOOLS)), budget_ms=st.sampled_from(BUDGETS_MS))
    def submit(self, tool: str, budget_ms: int) -> None:
        call_id = f"c{len(self.tools)}"
        self.tools[call_id] = tool
        self.until[call_id] = self.at + budget_ms / 1000
        self.owed.add(call_id)
        self.send_submit(call_id, again=False)

    def send_submit(self, call_id: str, *, again: bool) -> None:
        message = work.SubmitCall(
            session_id=SESSION,
            call_id=call_id,
            tool=self.tools[call_id],
            args={},
            epoch=0,
            budget_ms=max(1, round((self.until[call_id] - self.at) * 1000)),
            resubmit=again,
        )
        self.feed(SessionSaid(self.at, "session", message))

    @rule(which=st.integers(0, 50))
    def cancel(self, which: int) -> None:
        if self.tools:
            call_id = f"c{which % len(self.tools)}"
            self.stopping.add(call_id)
            self.send_cancel([call_id])

    def send_cancel(self, call_ids: list[str]) -> None:
        message = work.CancelCalls(
            session_id=SESSION, call_ids=call_ids, epoch=1, reason="interrupt"
        )
        self.feed(SessionSaid(self.at, "session", message))

    @rule()
    def session_reads(self) -> None:
        while self.to_session:
            message = self.to_session.popleft()
            if not isinstance(message, work.Outcome):
                continue
            if not message.late:
                before = self.told_here.setdefault(message.call_id, message.status)
                assert before == message.status, "two outcomes from one dispatcher"
                if denies(message):
                    self.denied.add(message.call_id)
            self.owed.discard(message.call_id)
            ack = work.OutcomeAck(session_id=SESSION, call_id=message.call_id)
            self.feed(SessionSaid(self.at, "session", ack))

    @rule(which=st.integers(0, 1), count=st.integers(1, 5))
    def host_reads(self, which: int, count: int) -> None:
        host = self.hosts[which]
        for _ in range(min(count, len(host.mail))):
            message = host.mail.popleft()
            match message:
                case work.Call():
                    host.received += 1
                    # What was under way when the host was given up comes all the same.
                    counted = [one for one in host.running if (SESSION, one) in self.state.calls]
                    assert len(counted) < CAPACITY, "more than its credit"
                    call_id = message.call_id
                    if call_id in host.tombstones:
                        self.finish(host, call_id, "cancelled", started=False)
                        continue
                    self.ran[call_id] += 1
                    host.running[call_id] = message.tool
                    self.say(host, host.credit())
                    reference = {"session_id": SESSION, "call_id": call_id}
                    self.say(host, work.Started(**reference))
                case work.CancelCall():
                    if message.call_id in host.running:
                        self.finish(host, message.call_id, "cancelled")
                    else:
                        host.tombstones.add(message.call_id)
                case work.Acked():
                    host.unacked.pop(message.call_id, None)
                case work.Reset():
                    for one in host.hello():
                        self.say(host, one)
                case _:
                    pass

    def finish(self, host: Host, call_id: str, status: Any, *, started: bool = True) -> None:
        host.running.pop(call_id, None)
        result = work.Result(session_id=SESSION, call_id=call_id, status=status, started=started)
        host.unacked[call_id] = result
        credit = host.credit()
        if len(self.tools) % 2:
            free, received = credit.free, credit.received
            self.say(host, msgspec.structs.replace(result, free=free, received=received))
            return
        self.say(host, result)
        self.say(host, credit)

    @rule(which=st.integers(0, 1), status=st.sampled_from(["ok", "error", "crashed", "lost"]))
    def host_finishes_one(self, which: int, status: str) -> None:
        host = self.hosts[which]
        if host.running:
            self.finish(host, next(iter(host.running)), status)

    @rule(which=st.integers(0, 1))
    def host_dies(self, which: int) -> None:
        self.hosts[which] = self.new_host(self.hosts[which].name)

    @rule(asked=st.booleans())
    def dispatcher_dies(self, asked: bool) -> None:
        """`asked`: it lives long enough to be asked for the calls that are open."""
        self.to_session.clear()
        for host in self.hosts:
            host.mail.clear()
        self.start_dispatcher()
        if asked:
            self.session_asks_again()

    @rule()
    def session_asks_again(self) -> None:
        for call_id in sorted(self.owed):
            self.send_submit(call_id, again=True)
        self.send_cancel(sorted(self.owed & self.stopping))
        caught_up = work.Follow(shard=0, inc="a", dispatcher=self.state.inc)
        self.feed(SessionSaid(self.at, "session", caught_up))

    @rule(which=st.integers(0, 1))
    def dispatcher_and_host_die(self, which: int) -> None:
        self.dispatcher_dies(asked=True)
        self.host_dies(which)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 5.0]), silent=st.booleans())
    def time_passes(self, seconds: float, silent: bool) -> None:
        ends_at = self.at + seconds
        while self.at < ends_at:
            self.at += 0.1
            for host in self.hosts[1 if silent else 0 :]:
                self.say(host, work.Heartbeat())
            self.feed(Ticked(self.at))

    # --- what must hold ---

    @invariant()
    def once_is_once(self) -> None:
        twice = [one for one, times in self.ran.items() if times > 1 and self.tools[one] == "pay"]
        assert not twice

    @invariant()
    def what_ran_is_never_told_as_not_run(self) -> None:
        # Harmless tools may have run before their last attempt found no runner.
        assert not [one for one in self.denied if self.ran[one] and self.tools[one] == "pay"]

    @invariant()
    def no_more_than_three_attempts(self) -> None:
        # A dispatcher's restart may begin the counting again, a second time at most here.
        assert all(times <= 3 * self.incs for times in self.ran.values())

    def teardown(self) -> None:
        self.dispatcher_dies(asked=True)  # whatever was never asked for is asked for now
        for _ in range(400):
            if not self.owed:
                self.once_is_once()
                return
            self.time_passes(0.5, silent=False)
            for which, host in enumerate(self.hosts):
                self.host_reads(which, 5)
                if host.running:
                    self.finish(host, next(iter(host.running)), "ok")
            self.session_reads()
        raise AssertionError(f"without an outcome: {self.owed}")


Interleavings.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestInterleavings = Interleavings.TestCase
