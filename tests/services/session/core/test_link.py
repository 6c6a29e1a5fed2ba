"""The provider's connection, from dialling to the end."""

from typing import Any

import pytest
from msgspec.structs import replace

from voicebus.bus.messages.commands import SessionConfig
from voicebus.bus.messages.events import (
    AssistantTurnCompleted,
    Error,
    SessionClosed,
    SessionOpened,
    SessionReconnecting,
    SessionUpdated,
    ToolCallFailed,
)
from voicebus.bus.messages.link import ALIVE_EVERY_S
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import link
from voicebus.services.session.core.draft import Draft
from voicebus.services.session.core.state import State
from voicebus.services.session.testing import (
    SESSION,
    Stage,
    call,
    created,
    done,
    events,
    of,
    refused,
    replies,
    requests,
    sound,
    tool,
)

CONFIRMED = i.ProviderSessionUpdated(session={"voice": "cedar"}, model="gpt-realtime-2")


def configuring() -> Stage:
    stage = Stage(ready=False)
    stage.play(i.ProviderConnected(generation=1), i.ProviderSessionCreated(expires_at=99))
    return stage


def update(*fields: str, command_id: str = "update-1", **values: object) -> i.AnyInput:
    return i.UpdateRequested(
        command_id=command_id,
        config=SessionConfig(**values),  # type: ignore[arg-type]
        fields=list(fields),
        tools=[tool("new")] if "tools" in fields else [],
    )


# --- opening ----------------------------------------------------------------------------------


def test_opening_grants_dials_and_answers_at_once() -> None:
    stage = Stage(ready=False)

    assert stage.effects[0] == fx.Grant("token-1", True)
    assert of(stage.effects, fx.Dial) == [fx.Dial(1, "openai", "gpt-realtime", True)]
    assert replies(stage.effects) == {"open-1": "ok"}


def test_a_session_is_open_when_its_configuration_is_confirmed() -> None:
    stage = configuring()
    assert [type(request) for request in requests(stage.effects)] == [fx.Configure]

    effects = stage.play(CONFIRMED)

    assert of(effects, fx.Release) == [fx.Release(True)]
    assert events(effects) == [
        SessionOpened(session_id=SESSION, provider="openai", model="gpt-realtime-2", expires_at=99)
    ]


def test_a_provider_that_does_not_introduce_itself_is_configured_all_the_same() -> None:
    stage = Stage(ready=False)
    stage.play(i.ProviderConnected(generation=1))
    assert requests(stage.wait(0.9)) == []

    assert len(of(stage.wait(0.2), fx.Configure)) == 1


def test_a_late_introduction_does_not_configure_twice() -> None:
    stage = Stage(ready=False)
    stage.play(i.ProviderConnected(generation=1))
    stage.wait(1.1)

    assert of(stage.play(i.ProviderSessionCreated()), fx.Configure) == []


def test_a_transcription_session_is_dialled_without_a_model() -> None:
    stage = Stage(SessionConfig(session_type="transcription"), ready=False)

    (dial,) = of(stage.effects, fx.Dial)

    assert (dial.vendor, dial.model) == ("openai-transcription", "")
    stage.play(i.ProviderConnected(generation=1), i.ProviderSessionCreated())
    (opened,) = of(stage.play(i.ProviderSessionUpdated(session={})), SessionOpened)
    assert opened.model is None


def test_the_transport_flushes_by_itself_only_if_the_provider_interrupts() -> None:
    stage = Stage(SessionConfig(turn_detection="none"), ready=False)

    assert not of(stage.effects, fx.Dial)[0].flush_on_speech


@pytest.mark.parametrize(("detection", "keeps"), [("none", True), ("server_vad", False)])
def test_the_transport_keeps_what_is_said_only_where_commands_end_turns(
    detection: str, keeps: bool
) -> None:
    stage = Stage(SessionConfig(turn_detection=detection), ready=False)  # type: ignore[arg-type]
    opened = (i.ProviderConnected(generation=1), i.ProviderSessionCreated(), CONFIRMED)

    assert of(stage.play(*opened), fx.Release) == [fx.Release(not keeps, keeps)]


def test_a_refused_configuration_ends_the_session_with_the_reason() -> None:
    stage = configuring()

    effects = stage.play(refused("string_above_max_length", stage.last_event_id))

    (error,) = of(effects, Error)
    assert (error.code, error.recoverable) == ("string_above_max_length", False)
    assert of(effects, SessionClosed)[0].reason == "error"


def test_an_error_that_names_nothing_before_the_opening_ends_it() -> None:
    assert len(of(configuring().play(refused("model_x", None)), SessionClosed)) == 1


def test_an_error_of_something_else_before_the_opening_does_not_end_it() -> None:
    stage = configuring()
    d = Draft(stage.state, stage.now_us)
    event_id = d.ask(fx.CommitInput(), "commit_later")
    stage.state = d.s

    assert of(stage.play(refused("invalid_value", event_id)), SessionClosed) == []


def test_a_restarted_transport_ends_a_session_that_was_never_open() -> None:
    (closed,) = of(configuring().play(i.TransportLost()), SessionClosed)

    assert closed.reason == "transport_lost"


def test_a_restarted_transport_is_replaced_in_an_open_session() -> None:
    effects = Stage().play(i.TransportLost())

    assert of(effects, SessionClosed) == []
    assert len(of(effects, SessionReconnecting)) == 1


def test_a_connection_of_which_nobody_knows_what_was_ordered_is_replaced() -> None:
    stage = Stage()
    stage.play(created("r1"))

    told = stage.play(i.TransportLost(orders_unknown=5))
    dialled = stage.wait(0.2)

    (lost,) = of(told, SessionReconnecting)
    assert "journal" in lost.reason
    assert of(dialled, fx.Grant), "nobody knows which tokens the transport was told"
    # A transport dials no generation twice, and all five may have been to dial.
    assert [one.generation for one in of(dialled, fx.Dial)] == [7]


def test_one_that_was_never_open_is_hung_up_since_its_transport_is_there() -> None:
    effects = configuring().play(i.TransportLost(orders_unknown=5))

    assert [one.reason for one in of(effects, SessionClosed)] == ["transport_lost"]
    assert len(of(effects, fx.HangUp)) == 1


@pytest.mark.parametrize("why", [i.TransportLost, i.TransportLeft])
def test_the_next_connection_is_dialled_where_the_shard_says(why: Any) -> None:
    stage = Stage()

    stage.play(why(transport=1, audio_in="ipc://in1", audio_out="ipc://out1"))

    assert stage.state.transport == 1
    assert stage.state.sound == ("ipc://in1", "ipc://out1")
    assert stage.state.new_transport == (why is i.TransportLost)  # else dialled already


def test_a_session_that_nothing_served_for_long_is_abandoned_with_its_transport() -> None:
    effects = Stage().play(i.TransportLost(unattended_s=link.FORGOTTEN_S + 1))

    assert [closed.reason for closed in of(effects, SessionClosed)] == ["abandoned"]
    assert of(effects, fx.HangUp) == []


def test_closing_what_is_closed_does_nothing() -> None:
    stage = Stage()
    stage.command("close")
    d = Draft(stage.state, stage.now_us)

    link.close(d, "client")
    link.transport_lost(d, i.TransportLost())
    moved = i.TransportLeft(transport=1, audio_in="ipc://in", audio_out="ipc://out")
    link.transport_left(d, moved)

    assert d.effects == []


@pytest.mark.parametrize(("phase", "seconds"), [("connecting", 20), ("configuring", 10)])
def test_a_provider_that_takes_too_long_is_given_up(phase: str, seconds: float) -> None:
    stage = Stage(ready=False) if phase == "connecting" else configuring()
    assert stage.state.phase == phase
    assert of(stage.wait(seconds - 0.1), SessionClosed) == []

    (closed,) = of(stage.wait(0.2), SessionClosed)

    assert (closed.reason, closed.code) == ("error", "timeout")


@pytest.mark.parametrize("http_status", [401, 403, 404])
def test_a_refused_handshake_ends_the_session_with_its_status(http_status: int) -> None:
    stage = Stage(ready=False)

    effects = stage.play(
        i.ProviderDisconnected(generation=1, http_status=http_status, reason="no such key")
    )

    (closed,) = of(effects, SessionClosed)
    assert (closed.reason, closed.code, closed.message) == (
        "error",
        str(http_status),
        "no such key",
    )
    assert of(effects, fx.HangUp) == [fx.HangUp()], "else the transport keeps it for ever"


def test_a_missing_key_is_named() -> None:
    effects = Stage(ready=False).play(
        i.ProviderDisconnected(generation=1, reason="no provider key: set it", error="no_key")
    )

    (closed,) = of(effects, SessionClosed)
    assert (closed.reason, closed.code, closed.message) == (
        "error",
        "no_key",
        "no provider key: set it",
    )


def test_a_provider_that_cannot_be_reached_says_so() -> None:
    effects = Stage(ready=False).play(i.ProviderDisconnected(generation=1, reason="refused"))

    assert of(effects, SessionClosed)[0].code == "unreachable"


def test_what_another_connection_did_is_not_ours() -> None:
    stage = Stage()

    assert stage.play(i.ProviderDisconnected(generation=7, code=1000)) == []
    assert stage.play(i.ProviderConnected(generation=7)) == []


def test_a_fatal_error_ends_the_session_at_once() -> None:
    effects = Stage().play(refused("insufficient_quota", None, "fatal"))

    (closed,) = of(effects, SessionClosed)
    assert (closed.reason, closed.code) == ("error", "insufficient_quota")
    assert of(effects, fx.HangUp) == [fx.HangUp()]


def test_a_close_that_no_new_connection_helps_against_ends_the_session() -> None:
    effects = Stage().play(
        i.ProviderDisconnected(generation=1, code=4000, reason="beta_api_shape_disabled")
    )

    (closed,) = of(effects, SessionClosed)
    assert (closed.reason, closed.code) == ("server", "4000")
    assert closed.message == "beta_api_shape_disabled"
    assert of(effects, fx.HangUp) == [fx.HangUp()], "else the transport keeps it for ever"


def test_a_connection_that_broke_is_replaced_and_its_sound_let_through_again() -> None:
    stage = Stage()
    stage.play(i.ProviderDisconnected(generation=1, code=1006))

    dialled = stage.wait(0.2)
    effects = stage.play(i.ProviderConnected(generation=2), i.ProviderSessionCreated(), CONFIRMED)

    assert of(dialled, fx.Dial) == [fx.Dial(2, "openai", "gpt-realtime", True)]
    assert len(of(effects, fx.Configure)) == 1
    assert of(effects, fx.Release) == [fx.Release(True)]
    assert of(effects, SessionOpened) == []
    assert stage.state.phase == "ready"


def test_a_connection_is_lost_once() -> None:
    stage = Stage()
    stage.play(i.TransportLost())

    again = stage.play(i.ProviderDisconnected(generation=stage.state.generation, code=1006))

    assert again == []
    assert stage.state.attempt == 1


def test_a_conversation_that_has_not_begun_wants_no_waking() -> None:
    assert link.deadlines(Draft(State(), 1)) == []


# --- updates ----------------------------------------------------------------------------------


def test_an_update_is_committed_and_answered_when_the_provider_confirms() -> None:
    stage = Stage()
    effects = stage.play(update("instructions", instructions="Be brief."))
    before = stage.state.config.instructions
    assert replies(effects) == {}

    effects = stage.play(CONFIRMED)

    assert (before, stage.state.config.instructions) == (None, "Be brief.")
    assert replies(effects) == {"update-1": "ok"}
    (told,) = [effect for effect in effects if isinstance(effect, fx.Publish)]
    confirmed = SessionUpdated(instructions="Be brief.", config={"voice": "cedar"}, lease_s=60.0)
    assert told.data == confirmed
    assert told.cause == "update-1"


def test_updates_go_one_at_a_time_and_only_their_fields() -> None:
    stage = Stage()
    stage.play(update("instructions", instructions="a"))
    assert requests(stage.play(update("voice", command_id="update-2", voice="ash"))) == []

    (second,) = requests(stage.play(CONFIRMED))

    assert isinstance(second, fx.Configure)
    assert second.only == ("voice",)


def test_a_later_update_of_our_own_fields_is_not_undone_by_an_earlier_one_that_waited() -> None:
    stage = Stage()
    stage.play(update("voice", "lease_s", voice="ash", lease_s=30.0))

    assert replies(stage.play(update("filler", command_id="update-2"))) == {"update-2": "ok"}
    stage.play(update("lease_s", command_id="update-3", lease_s=50.0))
    stage.play(CONFIRMED)

    assert replies(stage.play(CONFIRMED)) == {"update-3": "ok"}
    assert (stage.state.config.voice, stage.state.config.lease_s) == ("ash", 50.0)


def test_a_change_of_the_lease_is_told_to_those_who_keep_it() -> None:
    effects = Stage().play(update("lease_s", lease_s=30.0))

    assert [one.lease_s for one in of(effects, SessionUpdated)] == [30.0]


def test_a_confirmation_that_is_told_twice_does_not_confirm_the_next_update() -> None:
    stage = Stage()
    stage.play(update("voice", voice="cedar"), update("voice", voice="sage", command_id="update-2"))
    first = replace(CONFIRMED, event_id="event-1")

    assert replies(stage.play(first)) == {"update-1": "ok"}
    assert stage.play(first) == []
    assert replies(stage.play(replace(CONFIRMED, event_id="event-2"))) == {"update-2": "ok"}


def test_a_provider_that_counts_anew_on_each_connection_is_believed() -> None:
    stage = configuring()
    stage.play(replace(CONFIRMED, event_id="event-2"))
    stage.play(i.ProviderDisconnected(generation=1, code=1006))
    stage.wait(5)
    generation = stage.state.generation
    stage.play(i.ProviderConnected(generation=generation), i.ProviderSessionCreated())

    stage.play(replace(CONFIRMED, event_id="event-2"))

    assert (generation, stage.state.phase) == (2, "ready")


def test_a_refused_update_reaches_its_command_and_changes_nothing() -> None:
    stage = Stage()
    stage.play(update("voice", voice="ash"))
    event_id = stage.last_event_id
    stage.play(update("instructions", command_id="update-2", instructions="b"))

    effects = stage.play(refused("cannot_update_voice", event_id))

    (refusal,) = of(effects, fx.Refuse)
    assert (refusal.command_id, refusal.error.code, refusal.error.who) == (
        "update-1",
        "provider_error",
        "provider",
    )
    assert "cannot_update_voice" in refusal.error.message
    assert stage.state.config.voice is None
    assert of(effects, fx.Configure)[0].only == ("instructions",)


def test_a_refusal_without_a_name_reaches_the_update_it_is_about() -> None:
    stage = Stage()
    stage.play(update("voice", voice="ash"))

    effects = stage.play(refused("cannot_update_voice", None, about="configuration"))

    assert replies(effects) == {"update-1": "provider_error"}


def test_a_refusal_of_something_else_leaves_the_update_waiting() -> None:
    stage = Stage()
    stage.play(update("voice", voice="ash"))

    effects = stage.play(refused("server_error", None))

    assert replies(effects) == {}
    assert stage.state.update is not None


def test_an_error_while_nothing_is_being_configured_is_only_told() -> None:
    effects = Stage().play(refused("invalid_value", None, about="configuration"))

    assert [type(event) for event in events(effects)] == [Error]
    assert replies(effects) == {}


def test_an_update_nobody_answers_times_out() -> None:
    stage = Stage()
    stage.play(update("voice", voice="ash"), update("speed", command_id="update-2", speed=1.2))

    effects = stage.wait(10.1)

    assert replies(effects) == {"update-1": "timeout"}
    assert of(effects, fx.Configure)[0].only == ("speed",)


def test_an_update_of_local_fields_needs_no_provider() -> None:
    stage = Stage()

    effects = stage.play(update("on_interrupt", on_interrupt="submit"))

    assert requests(effects) == []
    assert replies(effects) == {"update-1": "ok"}
    assert stage.state.config.on_interrupt == "submit"


def test_new_tools_hold_when_they_are_confirmed() -> None:
    stage = Stage(tools=[tool("old")])
    stage.play(update("tools"))
    assert list(stage.state.tools) == ["old"]

    stage.play(CONFIRMED)

    assert list(stage.state.tools) == ["new"]


def test_an_update_before_the_opening_is_asked_after_it() -> None:
    stage = configuring()
    assert of(stage.play(update("voice", voice="ash")), fx.Configure) == []

    assert of(stage.play(CONFIRMED), fx.Configure)[0].only == ("voice",)


def test_a_confirmation_nobody_asked_for_is_told() -> None:
    effects = Stage().play(CONFIRMED)

    assert [type(event) for event in events(effects)] == [SessionUpdated]
    assert replies(effects) == {}


# --- lease and limits -------------------------------------------------------------------------


def test_a_session_whose_client_is_gone_is_abandoned() -> None:
    stage = Stage(SessionConfig(lease_s=60))
    stage.wait(50)
    stage.play(i.TalkerSeen())
    assert of(stage.wait(59), SessionClosed) == []

    (closed,) = of(stage.wait(2), SessionClosed)

    assert closed.reason == "abandoned"


def test_who_speaks_keeps_a_lease_that_ends_before_sound_is_told_again() -> None:
    stage = Stage(SessionConfig(lease_s=1))
    stage.play(i.TalkerSeen(speaks=True))
    stage.wait(0.5)
    stage.play(i.TalkerSeen())
    assert of(stage.wait(ALIVE_EVERY_S), SessionClosed) == []

    (closed,) = of(stage.wait(1), SessionClosed)

    assert closed.reason == "abandoned"


def test_a_clock_that_was_set_back_lengthens_no_lease() -> None:
    stage = Stage(SessionConfig(lease_s=1))
    stage.play(i.TalkerSeen(speaks=True))
    stage.now_us -= 500_000_000
    stage.play(i.TalkerSeen())

    (closed,) = of(stage.wait(ALIVE_EVERY_S + 2), SessionClosed)

    assert closed.reason == "abandoned"


def test_a_lease_that_is_made_longer_holds_at_once() -> None:
    stage = Stage(SessionConfig(lease_s=60))
    stage.play(update("lease_s", lease_s=3600.0))

    assert of(stage.wait(3599), SessionClosed) == []
    assert of(stage.wait(2), SessionClosed)


def test_a_lease_that_waits_with_other_fields_holds_when_they_are_confirmed() -> None:
    stage = Stage(SessionConfig(lease_s=60))
    stage.play(update("voice", "lease_s", voice="ash", lease_s=3600.0))
    stage.wait(5)
    stage.play(CONFIRMED)

    assert of(stage.wait(3599), SessionClosed) == []


def test_a_lease_that_is_made_shorter_holds_at_once_too() -> None:
    stage = Stage(SessionConfig(lease_s=3600))
    stage.play(update("lease_s", lease_s=60.0))

    assert of(stage.wait(61), SessionClosed)


def test_a_session_has_a_longest_duration() -> None:
    stage = Stage(SessionConfig(max_duration_s=30))

    (closed,) = of(stage.wait(31), SessionClosed)

    assert (closed.reason, closed.code) == ("limit", "max_duration_s")


def test_a_session_has_a_budget_of_tokens() -> None:
    stage = Stage(SessionConfig(max_tokens_total=100))
    stage.play(created("r1"))
    assert of(stage.play(done("r1", tokens=99)), SessionClosed) == []
    stage.play(created("r2"))

    (closed,) = of(stage.play(done("r2", tokens=1)), SessionClosed)

    assert (closed.reason, closed.code) == ("limit", "max_tokens_total")


# --- the end ----------------------------------------------------------------------------------


def test_closing_with_everything_open_leaves_nothing_open() -> None:
    stage = Stage(tools=[tool("a")])
    stage.play(created("r1"), *call("r1", "c1", "a"), done("r1"))
    stage.play(update("voice", voice="ash"), update("speed", command_id="update-2"))
    stage.play(created("r2"), sound("r2", "m2", 5000))
    stage.command("send_text", text="never answered")
    stage.wait(1)

    effects = stage.command("close")

    assert of(effects, fx.Flush) == [fx.Flush(("r2",), "client")]
    assert [failed.call_id for failed in of(effects, ToolCallFailed)] == ["c1"]
    (over,) = of(effects, AssistantTurnCompleted)
    assert (over.turn_id, over.status, over.reason) == ("r2", "cancelled", "session_closed")
    assert replies(effects) == {"update-1": "gone", "update-2": "gone", "close-2": "ok"}
    assert type(events(effects)[-1]) is SessionClosed
    assert of(effects, fx.End) == [fx.End()]
    assert stage.wait(1000) == []


def test_commands_that_waited_are_refused_at_the_end() -> None:
    stage = Stage(ready=False)
    stage.command("send_text", text="x")

    effects = stage.play(i.ProviderDisconnected(generation=1, http_status=401, reason="no"))

    assert replies(effects) == {"send_text-1": "gone"}


def test_nothing_follows_the_end() -> None:
    stage = Stage()
    stage.command("close")

    late = stage.play(created(), sound(), done(), CONFIRMED, refused("x", None, "fatal"))

    assert late == []


def test_only_so_many_updates_wait_for_their_turn() -> None:
    stage = Stage()
    for number in range(link.UPDATE_LIMIT + 2):
        stage.play(
            i.UpdateRequested(
                command_id=f"u{number}",
                config=SessionConfig(instructions="x"),
                fields=["instructions"],
                tools=[],
            )
        )

    assert replies(stage.effects) == {f"u{link.UPDATE_LIMIT + 1}": "busy"}


@pytest.mark.parametrize(("about", "ends"), [(None, False), ("configuration", True)])
def test_a_providers_trouble_on_a_later_connection_is_waited_out(
    about: str | None, ends: bool
) -> None:
    stage = Stage()
    stage.play(i.ProviderDisconnected(generation=1, code=1006))
    stage.wait(0.2)
    stage.play(i.ProviderConnected(generation=2), i.ProviderSessionCreated())

    effects = stage.play(refused("server_error", None, about=about))

    (error,) = of(effects, Error)
    assert error.recoverable is not ends
    assert bool(of(effects, SessionClosed)) is ends
    if not ends:
        assert of(stage.wait(11), fx.Dial)[0].generation == 3
