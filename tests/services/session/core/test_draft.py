"""One step in the making."""

from voicebus.bus.messages.events import SessionExpiring
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core.draft import ASKED_LIMIT, Draft, with_, without
from voicebus.services.session.core.state import State


def test_requests_are_numbered_and_found_again() -> None:
    d = Draft(State(), 1)

    event_id = d.ask(fx.CommitInput(), "commit_audio", cause="c1", ref="x")

    asked = d.s.asked[event_id]
    assert (asked.what, asked.cause, asked.ref) == ("commit_audio", "c1", "x")
    assert d.ask(fx.ClearInput(), "clear_audio") != event_id


def test_only_the_last_requests_are_remembered() -> None:
    d = Draft(State(), 1)

    ids = [d.ask(fx.CommitInput(), "commit_audio") for _ in range(ASKED_LIMIT + 5)]

    assert list(d.s.asked) == ids[5:]


def test_a_command_without_an_id_needs_no_answer() -> None:
    d = Draft(State(), 1)

    d.answer(None, {"x": 1})

    assert d.effects == []


def test_what_is_done_published_answered_and_refused_keeps_its_order() -> None:
    d = Draft(State(), 1)

    d.do(fx.End())
    d.publish(SessionExpiring(at=5), "c1")
    d.answer("c1", {"x": 1}, proven=True)
    d.refuse("c2", "busy", "full", after_ms=500)

    end, published, answer, refusal = d.effects
    assert end == fx.End()
    assert published == fx.Publish(SessionExpiring(at=5), "c1")
    assert answer == fx.Answer("c1", {"x": 1}, True)
    assert isinstance(refusal, fx.Refuse)
    assert (refusal.command_id, refusal.error.code, refusal.error.message) == ("c2", "busy", "full")
    assert (refusal.error.after_ms, refusal.error.who) == (500, "session")


def test_a_refusal_says_whether_trying_again_helps() -> None:
    d = Draft(State(), 1)

    d.refuse("c1", "busy", "full")
    d.refuse("c2", "bad_request", "no such field")

    retries = [effect.error.retry for effect in d.effects if isinstance(effect, fx.Refuse)]
    assert retries == [True, False]


def test_the_model_is_told_at_once_where_there_is_a_connection() -> None:
    d = Draft(State(phase="ready"), 1)

    d.tell("the tool has ended", ref="c1")

    (ask,) = d.effects
    assert isinstance(ask, fx.Ask)
    assert ask.request == fx.AddContext("the tool has ended")
    assert d.s.asked[ask.event_id].ref == "c1"
    assert d.s.untold == ()


def test_what_the_model_is_to_know_is_kept_until_there_is_a_connection() -> None:
    d = Draft(State(phase="lost"), 1)

    d.tell("one", ref="c1")
    d.tell("two", ref="c2")

    assert d.effects == []
    assert d.s.untold == (("one", "c1"), ("two", "c2"))


def test_the_state_it_was_made_of_stays_as_it_was() -> None:
    state = State(phase="ready")

    Draft(state, 1).ask(fx.CommitInput(), "commit_audio")

    assert state == State(phase="ready")


def test_mappings_are_replaced_and_not_changed() -> None:
    old = {"a": 1}

    assert with_(old, "b", 2) == {"a": 1, "b": 2}
    assert without({"a": 1, "b": 2}, "a", "c") == {"b": 2}
    assert old == {"a": 1}
