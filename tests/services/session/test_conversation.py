"""The shell of one conversation: numbers, work for the commit, and recovery by folding."""

import itertools
from typing import Any

import msgspec
import pytest

from voicebus.bus.messages import link
from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import EventHeader
from voicebus.bus.messages.work import CancelCalls, SubmitCall, ToolSpec
from voicebus.services.session import conversation as conversations
from voicebus.services.session.conversation import Conversation, Work
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.journal import Stored
from voicebus.services.session.providers.openai import OpenAI

SESSION = "s0-00000000000000000000000000"
DOWN = msgspec.json.Decoder(link.ANY_DOWN)
WEATHER = ToolSpec(name="get_weather", parameters={"type": "object"}, effects="none")


def conversation(inc: str = "inc-1") -> Conversation:
    return Conversation(SESSION, OpenAI(), inc, ring=100, created_us=1)


def requested(now_us: int = 1, tool: ToolSpec = WEATHER) -> i.SessionRequested:
    return i.SessionRequested(
        now_us=now_us,
        command_id="open-1",
        session_id=SESSION,
        config=SessionConfig(),
        tools=[tool],
        transport=0,
        token="t",
        vendor="openai",
        model="m",
        opened={},
    )


def opened(one: Conversation, tool: ToolSpec = WEATHER) -> None:
    for event in (
        requested(tool=tool),
        i.ProviderConnected(now_us=2, generation=1),
        i.ProviderSessionCreated(now_us=3),
        i.ProviderSessionUpdated(now_us=4, session={}),
    ):
        one.feed(event, event.now_us)


def calling(one: Conversation) -> None:
    item = i.Item(
        item_id="f1",
        type="function_call",
        status="completed",
        call_id="c1",
        name="get_weather",
        arguments='{"city":"Berlin"}',
    )
    for event in (
        i.ResponseStarted(now_us=5, response_id="r1"),
        i.OutputItemAdded(now_us=6, response_id="r1", output_index=0, item=item),
        i.OutputItemDone(now_us=7, response_id="r1", output_index=0, item=item),
        i.ResponseDone(now_us=8, response_id="r1", status="completed"),
    ):
        one.feed(event, event.now_us)


def stored(works: list[Work]) -> Stored:
    """What a journal would give back after these commits."""
    last = works[-1].commit
    snapshots = [work.commit.snapshot for work in works if work.commit.snapshot]
    snapshot = snapshots[-1] if snapshots else None
    begin = snapshot[0] if snapshot else 0
    return Stored(
        SESSION,
        1,
        msgspec.json.decode(last.ledger),
        snapshot,
        [row for work in works for row in work.commit.inputs if row[0] > begin],
        [row for work in works for row in work.commit.outbox if row[0] > last.delivered],
    )


def test_everything_decided_is_in_the_commit_before_it_goes_out() -> None:
    one = conversation()
    opened(one)

    work = one.take_work()

    assert [number for number, _ in work.commit.inputs] == [1, 2, 3, 4]
    assert [event.kind for event in work.events] == ["session_opened"]
    assert [seq for seq, _ in work.commit.events] == [1]
    kinds = [type(DOWN.decode(header)).__name__ for _, header, _ in work.down]
    assert kinds == ["GrantToken", "Dial", "SendFrame", "ReleaseSound"]
    assert [n for n, _, _ in work.down] == [n for n, _, _ in work.commit.outbox] == [1, 2, 3, 4]


def test_the_transport_is_told_what_ends_the_callers_input() -> None:
    one = conversation()
    opened(one)
    one.take_work()

    for command in ("commit_audio", "clear_audio", "create_response"):
        event = i.Commanded(now_us=5, command_id=command, command=command, data={})
        one.feed(event, event.now_us)

    sent = [DOWN.decode(header) for _, header, _ in one.take_work().down]
    assert [frame.ends_input for frame in sent if isinstance(frame, link.SendFrame)] == [
        "commit",
        "clear",
        None,
    ]


def test_frames_down_are_kept_until_the_transport_has_done_them() -> None:
    one = conversation()
    opened(one)

    one.acknowledged(3)

    assert sorted(one.outbox) == [4]
    assert one.take_work().commit.delivered == 3


def test_a_successor_folds_to_the_same_state_and_goes_on_counting() -> None:
    one = conversation()
    opened(one)
    calling(one)
    work = one.take_work()
    two = conversation("inc-2")

    two.recover(stored([work]))

    assert two.state == one.state
    assert two.outbox == one.outbox
    two.feed(i.ToolEnded(now_us=9, call_id="c1", status="ok", result=21), 9)
    kinds = [(event.seq, event.kind) for event in two.take_work().events]
    last = work.events[-1].seq
    assert kinds == [(last + 1, "tool_call_completed"), (last + 2, "tool_batch_submitted")]


def test_a_successor_may_begin_at_a_snapshot() -> None:
    one = conversation()
    opened(one)
    first = one.take_work()
    one.take_snapshot()
    calling(one)
    second = one.take_work()
    two = conversation("inc-2")

    two.recover(stored([first, second]))

    assert two.state == one.state


def test_a_call_that_nobody_waits_for_any_more_is_submitted_again_as_background() -> None:
    one = conversation()
    opened(one, msgspec.structs.replace(WEATHER, on_interrupt="finish"))
    calling(one)
    one.take_work()

    one.feed(i.Commanded(now_us=9, command_id="i", command="interrupt", data={}), 9)

    (again,) = [m for m in one.take_work().pool if isinstance(m, SubmitCall)]
    assert (again.call_id, again.background, again.resubmit) == ("c1", True, True)
    (restarted,) = one.open_pool_calls(now_us=10)
    assert isinstance(restarted, SubmitCall)
    assert restarted.background


def test_open_calls_are_submitted_again_with_what_is_left_of_their_time() -> None:
    one = conversation()
    opened(one)
    calling(one)

    (again,) = one.open_pool_calls(now_us=8 + 5_000_000)

    assert isinstance(again, SubmitCall)
    assert (again.call_id, again.resubmit, again.args) == ("c1", True, {"city": "Berlin"})
    assert again.budget_ms == 20_000 - 5000


def test_a_call_that_was_told_to_stop_is_told_so_again_after_it_is_submitted_again() -> None:
    one = conversation()
    opened(one)
    calling(one)
    one.feed(i.Commanded(now_us=9, command_id="i", command="interrupt", data={}), 9)

    again, stop = one.open_pool_calls(now_us=10)

    assert isinstance(again, SubmitCall)
    assert again.resubmit
    assert isinstance(stop, CancelCalls)
    assert (stop.call_ids, stop.epoch) == (["c1"], one.state.epoch)


def test_a_core_that_raises_ends_this_conversation_only_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = conversation()
    opened(one)
    one.take_work()

    def poisoned(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("voicebus.services.session.conversation.step", poisoned)
    one.feed(i.SpeechStarted(now_us=5, at_ms=0), 5)

    work = one.take_work()
    kinds = [event.kind for event in work.events]
    assert kinds == ["error", "session_closed"]
    closed = msgspec.json.decode(work.events[-1].header, type=EventHeader)
    assert isinstance(closed.data, dict)
    assert "SpeechStarted" in closed.data["message"]
    assert work.commit.ended_us == 5
    assert isinstance(DOWN.decode(work.down[-1][1]), link.HangUp)


def test_a_conversation_stands_alone_without_what_led_to_it() -> None:
    one = conversation()
    opened(one)
    one.take_work()
    one.acknowledged(1)
    one.stand_alone()
    work = one.take_work()
    two = conversation("inc-2")

    two.recover(stored([work]))

    assert two.state == one.state
    assert two.outbox == one.outbox
    assert two.inputs == one.inputs
    assert work.down == [], "nothing is sent twice"


def test_inputs_with_a_hole_are_not_folded() -> None:
    one = conversation()
    opened(one)
    given = stored([one.take_work()])
    holed = msgspec.structs.replace(given, inputs=[given.inputs[0], *given.inputs[2:]])

    with pytest.raises(ValueError, match="input 2 is missing, the next is 3"):
        conversation("inc-2").recover(holed)


def test_a_conversation_that_is_set_aside_hangs_up_where_it_was() -> None:
    one = conversation()
    opened(one)
    one.leave_transport()
    one.feed(i.TransportLeft(now_us=9, transport=1, audio_in="in1", audio_out="out1"), 9)
    given = stored([one.take_work()])
    two = conversation("inc-2")

    two.set_aside(given, 9)

    assert two.state.transport == 1


def test_a_conversation_that_is_set_aside_hangs_up_behind_all_that_was_not_done_before() -> None:
    one = conversation()
    opened(one)
    one.acknowledged(2)
    given = stored([one.take_work()])
    two = conversation("inc-2")

    two.set_aside(given, 9)

    work = two.take_work()
    assert sorted(two.outbox) == [3, 4, 5], "the transport does nothing behind a gap"
    assert (two.committed_down, work.commit.delivered) == (4, 2)
    hang_up = DOWN.decode(two.outbox[5][0])
    assert isinstance(hang_up, link.HangUp)
    assert hang_up.generation == 1, "an older one is refused, and the connection stays open"


@pytest.mark.parametrize(("rights", "is_back"), [("talk", True), ("command", True), ("", False)])
def test_a_client_that_attaches_after_all_processes_were_away_is_there_again(
    rights: str, is_back: bool
) -> None:
    one = conversation()
    opened(one)
    one.unattended_s = 100.0
    attached = i.Attached(
        now_us=9,
        command_id="a",
        token="t2",
        talk=rights == "talk",
        command=rights == "command",
        opened={},
    )

    one.feed(attached, 9)

    assert (one.unattended_s == 0.0) == is_back


def test_a_command_that_still_waits_is_known_after_recovery() -> None:
    one = conversation()
    one.feed(requested(), 1)
    early = i.Commanded(now_us=2, command_id="c1", command="send_text", data={"text": "hi"})
    one.feed(early, 2)
    two = conversation("inc-2")

    two.recover(stored([one.take_work()]))

    assert two.waiting_commands() == [("send_text", "c1")]


def test_a_snapshot_is_paid_for_by_at_least_as_many_inputs_as_it_holds_items() -> None:
    one = conversation()
    opened(one)
    at: list[tuple[int, int]] = []  # inputs, items

    for number in range(600):
        reply, said = f"r{number}", f"a{number}"
        item = i.Item(item_id=said, type="message", role="assistant", status="completed")
        for event in (
            i.ResponseStarted(now_us=9, response_id=reply),
            i.ItemAdded(now_us=9, item=item),
            i.ResponseDone(now_us=9, response_id=reply, status="completed"),
        ):
            one.feed(event, event.now_us)
        if one.take_work().commit.snapshot is not None:
            at.append((one.inputs, len(one.state.order)))

    assert len(at) >= 4
    for (before, _), (after, items) in itertools.pairwise(at):
        assert max(200, items) <= after - before < max(200, items) + 10
    assert at[-1][1] > 300


def test_a_conversation_in_which_nobody_answers_has_snapshots_too() -> None:
    one = conversation()
    config = SessionConfig(session_type="transcription")
    one.feed(msgspec.structs.replace(requested(), config=config), 1)

    for number in range(100):
        said = f"u{number}"
        for event in (
            i.SpeechStarted(now_us=9, at_ms=0, item_id=said),
            i.InputCommitted(now_us=9, item_id=said),
            i.UserWords(now_us=9, item_id=said, text="words", final=True),
        ):
            one.feed(event, event.now_us)

    assert one.snapshot_at > 200, "else whoever comes after folds all there ever was"


def test_inputs_of_another_version_are_folded_and_a_snapshot_is_asked_for() -> None:
    one = conversation()
    opened(one)
    given = stored([one.take_work()])
    other = msgspec.structs.replace(given, ledger={**given.ledger, "version": "0.0.1"})
    two = conversation("inc-2")

    assert not conversation("inc-3").recover(given)
    assert two.recover(other)
    two.tell_snapshot_required(9)

    (event,) = two.take_work().events
    assert (event.seq, event.kind) == (2, "session_resumed")
    data = msgspec.json.decode(event.header, type=EventHeader).data
    assert isinstance(data, dict)
    assert data["snapshot_required"]


def test_a_conversation_that_killed_the_process_twice_is_ended_without_being_folded() -> None:
    one = conversation()
    opened(one)
    given = stored([one.take_work()])
    two = conversation("inc-2")

    two.set_aside(given, 9)

    work = two.take_work()
    assert [event.kind for event in work.events] == ["error", "session_closed"]
    assert [event.seq for event in work.events] == [2, 3]
    assert work.commit.ended_us == 9
    assert isinstance(DOWN.decode(work.down[-1][1]), link.HangUp)


def test_numbers_begin_anew_at_another_transport_and_the_old_one_is_told_to_hang_up() -> None:
    one = conversation()
    opened(one)
    before = one.take_work()
    one.committed_down = before.down[-1][0]

    one.leave_transport()
    left = i.TransportLeft(now_us=9, transport=1, audio_in="ipc://in1", audio_out="ipc://out1")
    one.feed(left, 9)
    work = one.take_work()

    assert work.farewell is not None
    transport, header = work.farewell
    hang_up = DOWN.decode(header)
    assert transport == 0
    assert isinstance(hang_up, link.HangUp)
    assert (hang_up.n, hang_up.generation) == (one_more(before), 1)
    down = [DOWN.decode(raw) for _, raw, _ in work.down]
    assert [type(frame) for frame in down] == [link.GrantToken, link.Dial]
    assert [n for n, _, _ in work.down] == [1, 2]
    assert work.commit.forget_outbox
    assert before.line != work.line == one.line


# --- a predecessor that died with a journal it could not write ------------------------------------


def recovered() -> Conversation:
    """Whose journal knows of four frames down."""
    one = conversation()
    opened(one)
    two = conversation("inc-2")
    two.recover(stored([one.take_work()]))
    two.greeted()
    return two


def text(now_us: int) -> i.Commanded:
    return i.Commanded(now_us=now_us, command_id="text-1", command="send_text", data={"text": "hi"})


def test_frames_down_are_numbered_behind_those_that_no_journal_knows() -> None:
    one = recovered()

    assert one.welcomed(9) == 5
    one.acknowledged(9)
    one.go_on_behind(9, 5)
    one.feed(text(9), 9)
    one.take_snapshot()

    work = one.take_work()
    assert [n for n, _, _ in work.down] == [10, 11], "below, they count as repetitions"
    two = conversation("inc-3")
    two.recover(stored([work]))
    assert (two.delivered, sorted(two.outbox)) == (9, [10, 11])


def test_a_transport_that_has_done_what_the_journal_knows_has_done_nothing_else() -> None:
    one = recovered()

    assert one.welcomed(4) == 0
    one.committed_down = 6  # sent
    one.greeted()
    assert one.welcomed(6) == 0, "these are its own"
    assert one.welcomed(7) == 1
    assert one.welcomed(7) == 0, "that is known by now"


def test_what_was_taken_for_those_is_asked_for_on_the_next_connection() -> None:
    one = recovered()
    one.welcomed(9)
    one.feed(text(9), 9)
    one.take_work()
    one.go_on_behind(9, 5)

    for event in (
        i.TransportLost(now_us=10, orders_unknown=5),
        i.TimePassed(now_us=1_000_000),
        i.ProviderConnected(now_us=1_000_001, generation=7),
        i.ProviderSessionCreated(now_us=1_000_002),
        i.ProviderSessionUpdated(now_us=1_000_003, session={}),
    ):
        one.feed(event, event.now_us)

    down = one.take_work().down
    assert [n for n, _, _ in down] == list(range(10, 10 + len(down)))
    asked = [msgspec.json.decode(payload) for _, _, payload in down if payload is not None]
    kinds = [frame["type"] for frame in asked]
    assert kinds == ["session.update", "conversation.item.create", "response.create"]
    assert asked[1]["item"]["content"] == [{"type": "input_text", "text": "hi"}]


def test_who_has_ended_meanwhile_hangs_up_again_behind_them() -> None:
    one = conversation()
    opened(one)
    two = conversation("inc-2")
    two.set_aside(stored([one.take_work()]), 9)
    two.greeted()
    two.welcomed(9)
    two.acknowledged(9)
    assert two.outbox == {}, "the transport takes the first for something else"

    two.go_on_behind(9, 5)

    assert sorted(two.outbox) == [10]
    hang_up = DOWN.decode(two.outbox[10][0])
    assert isinstance(hang_up, link.HangUp)
    assert hang_up.generation == 6, "all five may have been to dial"


def test_frames_that_were_sent_and_stay_unacknowledged_are_to_be_sent_again() -> None:
    one = conversation()
    opened(one)
    assert not any(one.is_stuck(float(second), is_there=True) for second in range(9)), "not sent"

    one.committed_down = 4
    over = [second for second in range(10, 20) if one.is_stuck(float(second), is_there=True)]
    assert over == [12, 16]
    one.acknowledged(4)
    assert not any(one.is_stuck(float(second), is_there=True) for second in range(20, 30))


def one_more(work: Work) -> int:
    """The number after the last frame down of this work."""
    return work.down[-1][0] + 1


class Stubborn(OpenAI):
    """A translator with a bug: it cannot write what clients say."""

    def write(self, event_id: str, request: fx.Request) -> dict[str, Any]:
        if isinstance(request, fx.AddUserText):
            raise ValueError(f"a bug with {request}")
        return super().write(event_id, request)


def kinds(work: Work) -> list[str]:
    return [event.kind for event in work.events]


def test_a_frame_that_cannot_be_written_ends_this_conversation_and_answers_its_command() -> None:
    one = Conversation(SESSION, Stubborn(), "inc-1", ring=100, created_us=1)
    opened(one)
    calling(one)
    one.take_work()
    text = i.Commanded(now_us=9, command_id="text-1", command="send_text", data={"text": "hi"})

    immediate = one.feed(text, 9)

    work = one.take_work()
    assert kinds(work)[-2:] == ["error", "session_closed"]
    assert work.commit.ended_us == 9
    assert isinstance(DOWN.decode(work.down[-1][1]), link.HangUp)
    assert [broadcast.call_ids for broadcast in immediate.broadcasts] == [("c1",)]
    (answer,) = work.answers
    assert isinstance(answer, fx.Refuse)
    assert (answer.command_id, answer.error.code) == ("text-1", "internal")


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **what: Any) -> None:
        self.lines.append((event, what))


def test_the_log_tells_of_a_bug_and_not_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "log", log := Log())
    one = Conversation(SESSION, Stubborn(), "inc-1", ring=100, created_us=1)
    opened(one)
    said = {"text": "my pin is 4711"}

    one.feed(i.Commanded(now_us=9, command_id="text-1", command="send_text", data=said), 9)

    ((event, what),) = log.lines
    assert event == "core.failed"
    assert what["error"] == "ValueError"
    assert what["at"][-1].endswith(" write")
    assert "4711" not in str(what)


def test_what_waited_in_a_conversation_that_is_given_up_is_answered() -> None:
    one = conversation()
    opened(one)
    update = i.UpdateRequested(
        now_us=5, command_id="update-1", config=SessionConfig(), fields=["instructions"], tools=[]
    )
    one.feed(update, 5)
    one.take_work()

    one.feed(i.ProviderSessionUpdated(now_us=6, session={"no": object()}), 6)

    work = one.take_work()
    assert kinds(work) == ["error", "session_closed"]
    assert [answer.command_id for answer in work.answers] == ["update-1"]
    assert work.commit.inputs == [], "an input without a JSON of its own cannot be folded again"


def test_a_conversation_that_cannot_say_when_it_wants_to_be_woken_is_given_up() -> None:
    one = conversation()
    endless = SessionConfig(max_duration_s=1e305)
    one.feed(msgspec.structs.replace(requested(), config=endless), 1)
    one.take_work()

    assert one.deadline() == 0
    one.feed(i.TimePassed(now_us=2), 2)

    assert kinds(one.take_work()) == ["error", "session_closed"]
    assert one.deadline() is None
