"""One step in the making."""

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


def test_mappings_are_replaced_and_not_changed() -> None:
    old = {"a": 1}

    assert with_(old, "b", 2) == {"a": 1, "b": 2}
    assert without({"a": 1, "b": 2}, "a", "c") == {"b": 2}
    assert old == {"a": 1}
