"""A lost connection is replaced, history told again, and what was unanswered answered once."""

from typing import Any

import pytest

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import (
    AssistantHeard,
    AssistantTurnCompleted,
    SessionClosed,
    SessionExpiring,
    SessionReconnecting,
    SessionResumed,
    ToolBatchSubmitted,
    ToolCallCompleted,
)
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.capabilities import Capabilities
from voicebus.services.session.core.recovery import (
    BACKOFF_US,
    UNTRANSCRIBED,
    may_leave_transport,
)
from voicebus.services.session.core.state import State
from voicebus.services.session.testing import (
    START_US,
    Stage,
    call,
    call_item,
    created,
    done,
    kinds,
    message,
    of,
    replies,
    requests,
    sound,
    speech_started,
    speech_stopped,
    spoken,
    tool,
    tool_ok,
)


def cut(generation: int = 1, code: int = 1006) -> i.AnyInput:
    return i.ProviderDisconnected(generation=generation, code=code)


def reconnect(stage: Stage, generation: int = 2) -> list[fx.Effect]:
    """Wait for the dial and let the new connection be confirmed."""
    stage.wait(0.2)
    return stage.play(
        i.ProviderConnected(generation=generation),
        i.ProviderSessionCreated(provider_session_id=f"sess_{generation}"),
        i.ProviderSessionUpdated(session={}),
    )


def said(item_id: str, role: str, text: str) -> list[i.AnyInput]:
    item = i.Item(item_id=item_id, type="message", role=role, text=text)
    return [i.ItemAdded(item=item, done=True)]


# --- whether and when -------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 1015])
def test_a_connection_that_broke_is_dialled_again(code: int) -> None:
    stage = Stage()

    told = stage.play(cut(code=code))
    dialled = stage.wait(0.2)

    assert [one.attempt for one in of(told, SessionReconnecting)] == [1]
    assert [one.generation for one in of(dialled, fx.Dial)] == [2]


def test_one_that_our_own_transport_could_keep_no_events_of_is_dialled_again() -> None:
    stage = Stage()

    told = stage.play(i.ProviderDisconnected(generation=1, code=1000, events_lost=True))
    dialled = stage.wait(0.2)

    assert of(told, SessionReconnecting)
    assert [one.generation for one in of(dialled, fx.Dial)] == [2]
    assert [one.events_lost for one in of(reconnect(stage), SessionResumed)] == [True]


@pytest.mark.parametrize("code", [1000, 1002, 1008, 1009, 4000])
def test_one_that_was_ended_on_purpose_is_not(code: int) -> None:
    stage = Stage()

    told = stage.play(cut(code=code))

    assert [one.code for one in of(told, SessionClosed)] == [str(code)]
    assert not of(told, SessionReconnecting)


@pytest.mark.parametrize(
    ("status", "again"), [(401, False), (404, False), (429, True), (503, True)]
)
def test_a_refused_handshake_is_repeated_where_that_can_help(status: int, again: bool) -> None:
    stage = Stage()
    stage.play(cut())
    stage.wait(0.2)

    told = stage.play(i.ProviderDisconnected(generation=2, http_status=status, reason="no"))

    assert bool(of(told, SessionReconnecting)) is again
    assert bool(of(told, SessionClosed)) is not again


def test_a_key_that_is_not_there_any_more_ends_the_session() -> None:
    stage = Stage()
    stage.play(cut())
    stage.wait(0.2)

    told = stage.play(i.ProviderDisconnected(generation=2, reason="none", error="no_key"))

    assert [one.code for one in of(told, SessionClosed)] == ["no_key"]
    assert of(told, SessionReconnecting) == []


def test_a_connection_that_our_own_transport_ended_is_dialled_again() -> None:
    stage = Stage()

    stage.play(i.ProviderDisconnected(generation=1, code=1000, by_us=True))

    assert len(of(stage.wait(0.2), fx.Dial)) == 1


def test_a_session_that_never_opened_is_not_reconnected() -> None:
    stage = Stage(ready=False)

    told = stage.play(i.ProviderDisconnected(generation=1, reason="refused"))

    assert [one.reason for one in of(told, SessionClosed)] == ["error"]


def test_the_waits_grow_and_after_the_last_the_session_ends() -> None:
    stage = Stage()
    attempts = []
    for generation in range(1, len(BACKOFF_US) + 2):
        told = stage.play(cut(generation))
        attempts += [one.attempt for one in of(told, SessionReconnecting)]
        stage.play(i.TalkerSeen())
        stage.wait(9)

    assert attempts == list(range(1, len(BACKOFF_US) + 1))
    assert [one.reason for one in of(stage.effects, SessionClosed)] == ["server"]


def test_a_new_connection_that_does_not_get_going_is_lost_too() -> None:
    stage = Stage()
    stage.play(cut())

    stage.wait(25)

    assert [one.attempt for one in of(stage.effects, SessionReconnecting)] == [1, 2]
    assert not of(stage.effects, SessionClosed)


def test_the_old_connection_says_nothing_to_the_new_one() -> None:
    stage = Stage()
    stage.play(cut())
    stage.wait(0.2)

    assert stage.play(cut(1, 1011)) == []


# --- history ----------------------------------------------------------------------------------


def test_what_was_said_is_told_again_in_its_order() -> None:
    stage = Stage()
    stage.play(*said("u1", "user", "hello"), *said("a1", "assistant", "hi there"), cut())

    told = reconnect(stage)

    assert of(told, fx.AddMessage) == [
        fx.AddMessage("user", "hello", "u1"),
        fx.AddMessage("assistant", "hi there", "a1"),
    ]
    assert [one.history for one in of(told, SessionResumed)] == ["complete"]


def test_of_an_answer_cut_short_only_what_was_heard_is_told() -> None:
    stage = Stage()
    stage.play(
        created("r1"),
        *message("r1", "a1"),
        sound("r1", "a1", ms=4000),
        i.AssistantWords(
            response_id="r1",
            item_id="a1",
            content_index=0,
            text="one two three four",
            final=True,
            spoken=True,
        ),
        i.SoundDone(response_id="r1", item_id="a1", content_index=0),
        done("r1"),
    )
    stage.command("report_playback", item_id="a1", played_ms=2000, state="stopped")
    stage.command("interrupt")
    stage.play(cut())

    told = reconnect(stage)

    assert of(told, fx.AddMessage) == [fx.AddMessage("assistant", "one two", "a1")]


def test_a_caller_without_a_transcript_makes_the_history_partial() -> None:
    stage = Stage()
    stage.play(i.InputCommitted(item_id="u1"), created("r1"), done("r1"), cut())

    told = reconnect(stage)

    assert of(told, fx.AddMessage) == [fx.AddMessage("user", UNTRANSCRIBED, "u1")]
    assert [one.history for one in of(told, SessionResumed)] == ["partial"]


def test_calls_are_told_together_with_their_outputs() -> None:
    stage = Stage(tools=[tool("search")])
    stage.play(
        created("r1"),
        *call("r1", "c1", "search"),
        i.ItemAdded(
            item=i.Item(item_id="f-c1", type="function_call", call_id="c1", name="search"),
        ),
        done("r1"),
        tool_ok("c1", 21),
        created("r2", stage.last_tag if of(stage.effects, fx.CreateResponse) else None),
        done("r2"),
    )
    item_id = stage.state.calls["c1"].item_id
    stage.play(
        i.ItemAdded(
            item=i.Item(item_id=item_id, type="function_call", call_id="c1", name="search")
        ),
        cut(),
    )

    told = requests(reconnect(stage))

    at = next(n for n, one in enumerate(told) if isinstance(one, fx.AddCall))
    assert told[at + 1] == fx.AddOutput("c1", "21")


def test_a_call_that_a_connection_made_before_it_was_configured_is_not_told_to_it_again() -> None:
    stage = Stage(tools=[tool("search")])
    stage.play(cut())
    stage.wait(0.2)
    stage.play(i.ProviderConnected(generation=2), i.ProviderSessionCreated())
    stage.play(created("r1"), *call("r1", "c1", "search"), done("r1"))
    item_id = stage.state.calls["c1"].item_id
    stage.play(i.ItemAdded(item=i.Item(item_id=item_id, type="function_call", call_id="c1")))

    told = requests(
        [*stage.play(tool_ok("c1", 21)), *stage.play(i.ProviderSessionUpdated(session={}))]
    )

    assert told.count(fx.AddOutput("c1", "21")) == 1
    assert not [one for one in told if isinstance(one, fx.AddCall)]


def test_outputs_that_are_told_to_a_new_connection_are_not_answered_again() -> None:
    def stands(item_id: str) -> i.AnyInput:
        item = i.Item(item_id=item_id, type="function_call_output", call_id="c1")
        return i.ItemAdded(item=item)

    config = SessionConfig(on_interrupt="submit")
    stage = Stage(config, tools=[tool("search", on_interrupt="finish")])
    stage.play(created("r1"), *call("r1", "c1", "search"), done("r1"))
    stage.play(speech_started(), tool_ok("c1", 21), stands("o1"), speech_stopped())
    stage.play(created("vad"), done("vad"))
    assert stage.state.responses["vad"].answers
    stage.play(cut())
    reconnect(stage)

    assert stage.play(stands("o2")) == []
    assert not stage.state.queue


def test_a_text_that_was_never_announced_is_told_again() -> None:
    stage = Stage()
    stage.command("send_text", text="hello")
    item_id = next(
        one.event_id for one in of(stage.effects, fx.Ask) if isinstance(one.request, fx.AddUserText)
    )
    stage.play(cut())

    told = reconnect(stage)

    assert of(told, fx.AddMessage) == [fx.AddMessage("user", "hello", item_id)]
    assert len(of(told, fx.CreateResponse)) == 1


def test_a_text_that_was_announced_under_another_name_is_told_once() -> None:
    stage = Stage()
    stage.command("send_text", text="hello")
    stage.play(*said("item_9", "user", "hello"), cut())

    assert of(reconnect(stage), fx.AddMessage) == [fx.AddMessage("user", "hello", "item_9")]


def test_a_text_that_was_refused_is_not_told_again() -> None:
    stage = Stage()
    stage.command("send_text", text="hello")
    item_id = next(
        one.event_id for one in of(stage.effects, fx.Ask) if isinstance(one.request, fx.AddUserText)
    )
    stage.play(i.ProviderRefused(code="invalid_value", message="no", event_id=item_id), cut())

    assert not of(reconnect(stage), fx.AddMessage)


def test_an_image_is_told_again_as_it_was_given() -> None:
    stage = Stage()
    image = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}],
    }
    stage.command("add_item", item=image)
    (given,) = of(stage.effects, fx.AddItem)
    item_id = given.item["id"]
    stage.play(
        i.ItemAdded(item=i.Item(item_id=item_id, type="message", role="user"), done=True), cut()
    )

    told = reconnect(stage)

    assert of(told, fx.AddItem) == [fx.AddItem({"id": item_id, **image})]
    assert [one.history for one in of(told, SessionResumed)] == ["complete"]


def test_where_nobody_answers_nothing_is_told_again() -> None:
    stage = Stage(SessionConfig(session_type="transcription"))
    stage.play(*said("u1", "user", "hello"), cut())

    again = reconnect(stage)

    assert of(again, fx.AddMessage) == []
    assert [one.history for one in of(again, SessionResumed)] == ["complete"]


def test_where_nobody_answers_what_was_not_written_down_is_missed() -> None:
    stage = Stage(SessionConfig(session_type="transcription"))
    stage.play(i.InputCommitted(item_id="u1"), cut())

    assert [one.history for one in of(reconnect(stage), SessionResumed)] == ["partial"]


def test_events_that_the_transport_lost_make_the_history_partial() -> None:
    stage = Stage()
    stage.play(i.ProviderDisconnected(generation=1, code=1006, events_lost=True))

    (resumed,) = of(reconnect(stage), SessionResumed)

    assert (resumed.events_lost, resumed.history) == (True, "partial")


# --- going on ---------------------------------------------------------------------------------


def test_an_answer_that_was_cut_off_is_asked_for_once_more() -> None:
    stage = Stage()
    stage.command("send_text", text="hello")
    stage.play(created("r1", stage.last_tag))

    told = stage.play(cut())
    again = reconnect(stage)

    (ended,) = of(told, AssistantTurnCompleted)
    assert (ended.status, ended.reason) == ("incomplete", "provider_lost")
    assert len(of(again, fx.CreateResponse)) == 1


def test_a_spoken_turn_that_nobody_answered_gets_exactly_one_response() -> None:
    stage = Stage()
    stage.play(i.InputCommitted(item_id="u1"), cut())

    told = reconnect(stage)

    assert len(of(told, fx.CreateResponse)) == 1


def test_an_answered_turn_is_not_answered_again() -> None:
    stage = Stage()
    stage.play(i.InputCommitted(item_id="u1"), created("r1"), done("r1"), cut())

    assert not of(reconnect(stage), fx.CreateResponse)


@pytest.mark.parametrize("by_client", [True, False])
def test_an_answer_whose_end_was_lost_is_not_asked_for_again(by_client: bool) -> None:
    stage = Stage()
    if by_client:
        stage.command("send_text", text="hello")
    stage.play(created("lost", stage.last_tag if by_client else None))
    stage.play(i.InputCommitted(item_id="u1"), created("next"), done("next"), cut())

    assert not of(reconnect(stage), fx.CreateResponse)


def test_an_interrupted_answer_is_not_asked_for_again() -> None:
    stage = Stage()
    stage.command("send_text", text="hello")
    stage.play(created("r1", stage.last_tag), sound("r1", "a1", ms=500))
    stage.command("interrupt")
    stage.play(cut())

    assert not of(reconnect(stage), fx.CreateResponse)


def test_a_create_that_was_not_yet_announced_is_asked_for_again() -> None:
    stage = Stage()
    stage.command("send_text", text="hello")
    stage.play(cut())

    assert len(of(reconnect(stage), fx.CreateResponse)) == 1


def test_a_tool_runs_on_and_its_result_is_told_as_context() -> None:
    stage = Stage(tools=[tool("search")])
    stage.play(created("r1"), *call("r1", "c1", "search"), done("r1"), cut())
    reconnect(stage)

    told = stage.play(tool_ok("c1", 21))

    assert len(of(told, ToolCallCompleted)) == 1
    assert [one.call_ids for one in of(told, ToolBatchSubmitted)] == [["c1"]]
    assert not of(told, fx.AddOutput)
    (context,) = of(told, fx.AddContext)
    assert "search" in context.text
    assert "21" in context.text
    assert len(of(told, fx.CreateResponse)) == 1


def test_a_tool_that_ends_while_there_is_no_connection_is_told_on_the_next() -> None:
    stage = Stage(tools=[tool("search")])
    begun, written = call("r1", "c1", "search")
    stands = i.ItemAdded(item=call_item("c1", "search"), previous_item_id="root")
    stage.play(created("r1"), begun, stands, written, done("r1"), cut())
    early = stage.play(tool_ok("c1", 21))

    assert not requests(early), "there is nobody to ask"

    told = reconnect(stage)
    (context,) = of(told, fx.AddContext)
    assert "21" in context.text
    assert not of(told, fx.AddCall), "it is told once"
    assert not of(told, fx.AddOutput)
    assert len(of(told, fx.CreateResponse)) == 1


def told_as_context() -> tuple[Stage, fx.AddContext]:
    """A call of the first connection whose result the second one was told."""
    stage = Stage(tools=[tool("search")])
    begun, written = call("r1", "c1", "search")
    stands = i.ItemAdded(item=call_item("c1", "search"), previous_item_id="root")
    stage.play(created("r1"), begun, stands, written, done("r1"), cut())
    reconnect(stage)
    (context,) = of(stage.play(tool_ok("c1", "it rains")), fx.AddContext)
    return stage, context


def test_a_result_that_was_told_as_context_is_told_once_to_the_connection_after_that() -> None:
    stage, context = told_as_context()
    stage.play(*said("s1", "system", context.text), cut(generation=2))

    third = requests(reconnect(stage, 3))

    assert [one for one in third if "it rains" in repr(one)] == [
        fx.AddMessage("system", context.text, "s1")
    ]
    assert not [one for one in third if isinstance(one, fx.AddCall)]


def test_a_result_of_which_the_connection_never_said_that_it_has_it_is_told_again() -> None:
    stage, _ = told_as_context()
    stage.play(cut(generation=2))

    third = requests(reconnect(stage, 3))

    assert [one for one in third if "it rains" in repr(one)] == [fx.AddOutput("c1", "it rains")]


def test_commands_that_come_meanwhile_are_done_afterwards() -> None:
    stage = Stage()
    stage.play(cut())

    early = stage.command("send_text", text="are you there")
    told = reconnect(stage)

    assert replies(early) == {}
    assert list(replies(told).values()) == ["ok"]
    assert of(told, fx.AddUserText) == [fx.AddUserText("are you there")]
    assert len(of(told, fx.CreateResponse)) == 1


def test_sound_of_the_old_connection_is_not_truncated_on_the_new() -> None:
    stage = Stage()
    stage.play(created("r1"), *message("r1", "a1"), sound("r1", "a1", ms=5000), done("r1"), cut())
    reconnect(stage)

    told = stage.play(i.SpeechStarted(at_ms=0))
    told += stage.wait(1)

    assert not of(told, fx.TruncateItem)
    assert not of(told, fx.DeleteItem)


def test_an_update_under_way_is_asked_for_again() -> None:
    stage = Stage()
    stage.play(
        i.UpdateRequested(
            command_id="update-1",
            config=stage.state.config,
            fields=["instructions"],
            tools=[],
        ),
        cut(),
    )

    told = reconnect(stage)
    told += stage.play(i.ProviderSessionUpdated(session={}))

    assert replies(told) == {"update-1": "ok"}


def test_a_session_may_be_closed_while_it_has_no_connection() -> None:
    stage = Stage()
    stage.play(cut())

    told = stage.command("close")
    told += stage.wait(30)

    assert [one.reason for one in of(told, SessionClosed)] == ["client"]
    assert not of(told, fx.Dial)
    assert list(replies(told).values()) == ["ok"]


def test_closed_twice_the_second_is_told_that_it_is_gone() -> None:
    stage = Stage()
    stage.command("close")

    assert list(replies(stage.command("close")).values()) == ["gone"]


def test_an_interrupt_without_a_connection_asks_nobody() -> None:
    stage = Stage()
    stage.play(created("r1"), *message("r1", "a1"), sound("r1", "a1", ms=5000), cut())

    told = stage.command("interrupt")
    told += stage.wait(0.05)

    assert [one.why for one in of(told, fx.Flush)] == ["manual"]
    assert not of(told, fx.CancelResponse)
    assert not of(told, fx.TruncateItem)


def test_an_interrupt_without_a_connection_is_not_meant_for_an_answer_on_the_next() -> None:
    stage = Stage()
    stage.play(created("r1"), cut())
    assert kinds(stage.command("interrupt")) == ["interrupted"]
    assert not of(reconnect(stage), fx.CreateResponse), "nobody wants the answer any more"

    told = stage.play(created("r2"))

    assert not of(told, fx.CancelResponse)


# --- a restarted transport --------------------------------------------------------------------


def test_a_restarted_transport_is_told_the_tokens_again_before_the_dial() -> None:
    stage = Stage()
    stage.play(i.TransportLost())

    effects = stage.wait(0.2)

    kinds = [type(one) for one in effects if isinstance(one, fx.Grant | fx.Dial)]
    assert kinds == [fx.Grant, fx.Dial]
    (resumed,) = of(reconnect(stage), SessionResumed)
    assert resumed.events_lost


def test_the_turn_that_a_killed_transport_cut_says_so() -> None:
    stage = Stage()
    stage.play(created("r1"))

    told = stage.play(i.TransportLost())

    (ended,) = of(told, AssistantTurnCompleted)
    assert (ended.status, ended.reason) == ("incomplete", "transport_lost")


def test_a_conversation_that_nothing_served_long_after_its_lease_ends_without_a_dial() -> None:
    stage = Stage()
    stage.play(created("r1"))

    told = stage.play(i.TransportLost(unattended_s=3600.0))

    (closed,) = of(told, SessionClosed)
    assert closed.reason == "abandoned"
    assert "3600 s" in (closed.message or "")
    assert not of(told, SessionReconnecting)
    assert not of([*told, *stage.wait(60)], fx.Dial)


def test_a_lease_that_ended_while_everything_came_back_is_forgiven() -> None:
    stage = Stage()

    told = stage.play(i.TransportLost(unattended_s=30.0))

    assert of(told, SessionReconnecting)
    assert not of(told, SessionClosed)


ELSEWHERE: dict[str, Any] = {"transport": 1, "audio_in": "ipc://in1", "audio_out": "ipc://out1"}


def test_another_transport_can_take_over_from_one_that_is_gone() -> None:
    stage = Stage()
    stage.play(i.TransportLost(**ELSEWHERE))

    effects = stage.wait(0.2)

    kinds = [type(one) for one in effects if isinstance(one, fx.Grant | fx.Dial)]
    assert kinds == [fx.Grant, fx.Dial]
    (resumed,) = of(reconnect(stage), SessionResumed)
    assert (resumed.transport, resumed.audio_in, resumed.audio_out) == (
        "transport-1",
        "ipc://in1",
        "ipc://out1",
    )
    assert resumed.events_lost


def test_another_transport_learns_which_commands_no_sound_need_wait_for() -> None:
    stage = Stage()
    stage.command("clear_audio", after_n=4)
    stage.command("commit_audio", after_n=9)
    stage.command("commit_audio", after_n=12, token="forged")
    stage.command("commit_audio")
    stage.play(i.TransportLost(**ELSEWHERE))

    assert of(stage.wait(0.2), fx.Grant) == [fx.Grant("token-1", True, 9)]


def test_a_transport_that_is_being_stopped_is_left_at_once_and_nothing_is_lost() -> None:
    stage = Stage()
    stage.play(*said("u1", "user", "hello"))

    told = stage.play(i.TransportLeft(**ELSEWHERE))

    assert [one.reason for one in of(told, SessionReconnecting)] == ["transport"]
    assert [type(one) for one in told if isinstance(one, fx.Grant | fx.Dial)] == [fx.Grant, fx.Dial]
    (resumed,) = of(reconnect(stage), SessionResumed)
    assert (resumed.transport, resumed.history) == ("transport-1", "complete")
    assert not resumed.events_lost


def test_a_conversation_that_waits_to_dial_again_dials_at_the_other_transport() -> None:
    stage = Stage()
    stage.play(i.ProviderDisconnected(generation=1, by_us=True))

    told = stage.play(i.TransportLeft(**ELSEWHERE))

    assert not of(told, SessionReconnecting)
    assert not of(told, fx.Dial)
    effects = stage.wait(0.2)
    assert [type(one) for one in effects if isinstance(one, fx.Grant | fx.Dial)] == [
        fx.Grant,
        fx.Dial,
    ]
    assert stage.state.transport == 1


# --- rotation ---------------------------------------------------------------------------------


def expiring_in(stage: Stage, seconds: int, generation: int = 1) -> Stage:
    """A stage whose connection ends in so many seconds, the first or that one."""
    stage.play(
        i.ProviderConnected(generation=generation),
        i.ProviderSessionCreated(expires_at=stage.now_us // 1_000_000 + seconds),
        i.ProviderSessionUpdated(session={}),
    )
    return stage


def test_a_connection_is_changed_in_a_silence_before_it_ends() -> None:
    stage = expiring_in(Stage(ready=False), 1000)
    stage.play(*said("u1", "user", "hello"))
    for _ in range(19):
        stage.wait(45)
        stage.play(i.TalkerSeen())

    assert not of(stage.effects, SessionExpiring)
    told = stage.wait(50)
    assert [one.at for one in of(told, SessionExpiring)] == [stage.state.expires_us // 1_000_000]
    assert [one.reason for one in of(told, SessionReconnecting)] == ["rotation"]
    assert [one.generation for one in of(told, fx.Dial)] == [2]


def test_while_somebody_speaks_it_waits() -> None:
    stage = expiring_in(Stage(ready=False), 100)
    stage.play(i.TalkerSeen())
    stage.wait(50)
    stage.play(i.TalkerSeen(), i.SpeechStarted(at_ms=0))

    busy = stage.wait(42)
    stage.play(i.SpeechStopped(at_ms=1))
    silent = stage.wait(4)

    assert of(busy, SessionExpiring)
    assert not of(busy, fx.Dial)
    assert of(silent, fx.Dial)


def test_while_the_end_of_a_turn_is_not_confirmed_it_waits() -> None:
    manual = SessionConfig(turn_detection="none")
    stage = expiring_in(Stage(manual, ready=False), 100)
    stage.wait(50)
    stage.play(i.TalkerSeen())
    stage.wait(39.9)
    stage.command("commit_audio", respond=False)

    busy = stage.wait(5)
    stage.play(i.InputCommitted(item_id="u1"))
    silent = stage.wait(1)

    assert of(busy, SessionExpiring)
    assert not of(busy, fx.Dial)
    assert of(silent, fx.Dial)


def test_a_date_in_the_past_is_a_wrong_clock_and_no_reason_to_rotate() -> None:
    stage = expiring_in(Stage(ready=False), -100)

    assert not of(stage.wait(30), fx.Dial)
    assert stage.state.rotate_us == 0


def test_connections_that_all_say_that_they_end_at_once_are_changed_once() -> None:
    stage = expiring_in(Stage(ready=False), 10)
    assert [one.generation for one in of(stage.wait(9.5), fx.Dial)] == [2]

    expiring_in(stage, 10, generation=2)
    assert not of(stage.wait(30), fx.Dial)

    stage.play(i.TalkerSeen(), cut(2))
    stage.wait(0.2)
    expiring_in(stage, 10, generation=3)
    assert not of(stage.wait(30), fx.Dial)
    assert len(of(stage.effects, SessionExpiring)) == 1


def test_after_a_connection_that_lives_for_long_a_short_life_is_believed_again() -> None:
    stage = expiring_in(Stage(ready=False), 10)
    stage.wait(9.5)
    expiring_in(stage, 3600, generation=2)
    assert not of(stage.wait(30), fx.Dial)

    stage.play(cut(2))
    stage.wait(0.2)
    expiring_in(stage, 10, generation=3)
    assert [one.generation for one in of(stage.wait(9.5), fx.Dial)] == [4]


def test_the_longest_life_that_is_known_beforehand_ends_a_connection_too() -> None:
    opening = i.SessionRequested(
        command_id="open-1",
        session_id="s",
        config=SessionConfig(lease_s=10_000),
        tools=[],
        transport=0,
        token="token-1",
        vendor="v",
        model="m",
        opened={},
        capabilities=Capabilities(longest_session_s=600),
    )
    stage = Stage(ready=False)
    stage.state = State()
    stage.play(opening)
    stage.play(
        i.ProviderConnected(generation=1),
        i.ProviderSessionCreated(),
        i.ProviderSessionUpdated(session={}),
    )

    assert of(stage.wait(539), fx.Dial) == []

    told = stage.wait(2)
    assert [one.at for one in of(told, SessionExpiring)] == [START_US // 1_000_000 + 600]
    assert [one.generation for one in of(told, fx.Dial)] == [2]


# --- an answer that was cut off ----------------------------------------------------------------


def answering(*words: i.AnyInput) -> Stage:
    """An answer of which a second has come, and no whole text."""
    stage = Stage()
    stage.command("send_text", text="Tell me a story.")
    stage.play(created("r1", stage.last_tag), *message(), *words, sound(ms=1000))
    return stage


def told(stage: Stage) -> list[tuple[str, str]]:
    return [(one.role, one.text) for one in of(reconnect(stage), fx.AddMessage)]


def test_an_answer_that_is_still_played_at_the_cut_is_told_as_far_as_it_came() -> None:
    stage = answering(spoken("Once upon "), spoken("a time "))
    stage.play(cut())

    assert told(stage) == [("user", "Tell me a story."), ("assistant", "Once upon a time")]


def test_an_answer_that_was_stopped_before_the_cut_is_told_as_far_as_it_was_heard() -> None:
    stage = answering(spoken("Once upon a time there was "))
    stage.command("interrupt")
    stage.command("report_playback", item_id="m1", played_ms=500, state="stopped")
    stage.play(cut())

    assert told(stage) == [("user", "Tell me a story."), ("assistant", "Once upon a")]


def test_an_answer_without_words_makes_the_history_partial() -> None:
    stage = answering()
    stage.play(cut())

    (resumed,) = of(reconnect(stage), SessionResumed)

    assert resumed.history == "partial"


def test_an_answer_without_words_that_nobody_heard_is_not_missed() -> None:
    stage = answering()
    stage.play(i.ItemAdded(item=i.Item(item_id="m2", type="message", role="assistant")))
    stage.command("interrupt")
    stage.command("report_playback", item_id="m1", played_ms=0, state="stopped")
    stage.play(cut())

    (resumed,) = of(reconnect(stage), SessionResumed)

    assert resumed.history == "complete"


def test_a_new_connection_is_told_the_words_that_clients_were_told_were_heard() -> None:
    stage = Stage()
    words = "Unquestionably, it is so hot in here"
    stage.play(created(), *message(), spoken(words, final=True), sound(ms=2000))
    stage.wait(1)
    stage.play(speech_started(), done("r1", "cancelled", "turn_detected"))
    (heard,) = of(stage.wait(0.3), AssistantHeard)

    stage.play(cut())

    assert heard.text == "Unquestionably, it"
    assert told(stage) == [("assistant", heard.text)]


def test_who_speaks_into_a_turn_that_only_a_command_ends_is_not_moved_meanwhile() -> None:
    stage = Stage(SessionConfig(turn_detection="none"))

    assert may_leave_transport(stage.state, stage.now_us)
    stage.play(i.TalkerSeen(speaks=True))

    assert not may_leave_transport(stage.state, stage.now_us)
    stage.wait(6)
    assert may_leave_transport(stage.state, stage.now_us)


def test_where_the_provider_ends_turns_open_sound_is_no_speech() -> None:
    stage = Stage()
    stage.play(i.TalkerSeen(speaks=True))

    assert may_leave_transport(stage.state, stage.now_us)
