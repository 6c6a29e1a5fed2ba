"""A turn whose end the provider has not confirmed ends on the next connection."""

import pytest

from voicebus.bus.messages.commands import SessionConfig
from voicebus.services.session.core import commits
from voicebus.services.session.core import effects as fx
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core.recovery import is_silent
from voicebus.services.session.testing import Stage, of, refused, requests

MANUAL = SessionConfig(turn_detection="none")
CUT = i.ProviderDisconnected(generation=1, code=1006)
AGAIN = (
    i.ProviderConnected(generation=2),
    i.ProviderSessionCreated(),
    i.ProviderSessionUpdated(session={}),
)


def commit(stage: Stage, after_n: int | None = None, *, respond: bool = False) -> str:
    """Returns the id of the request."""
    asks = of(stage.command("commit_audio", after_n=after_n, respond=respond), fx.Ask)
    return next(one.event_id for one in asks if isinstance(one.request, fx.CommitInput))


def reconnect(stage: Stage) -> list[fx.Effect]:
    stage.play(CUT)
    stage.wait(0.2)
    return stage.play(*AGAIN)


def asked(effects: list[fx.Effect]) -> list[tuple[int | None, str | None]]:
    """Behind which sound, and whose, the provider is asked for commits."""
    asks = of(effects, fx.Ask)
    return [(one.after_n, one.token) for one in asks if isinstance(one.request, fx.CommitInput)]


def test_a_commit_that_a_lost_connection_did_not_confirm_is_asked_of_the_next() -> None:
    stage = Stage(MANUAL)
    commit(stage, 25)
    commit(stage)

    assert asked(reconnect(stage)) == [(25, "token-1"), (None, "token-1")]
    assert not is_silent(stage.state)


def test_it_is_asked_before_its_answer() -> None:
    stage = Stage(MANUAL)
    commit(stage, 25, respond=True)

    again = [type(one) for one in requests(reconnect(stage))]

    assert again == [fx.Configure, fx.CommitInput, fx.CreateResponse]


def test_what_is_confirmed_or_refused_is_not_asked_again() -> None:
    stage = Stage(MANUAL)
    commit(stage, 1)
    commit(stage, 2)
    third = commit(stage, 3)
    stage.play(i.InputCommitted(item_id="u1"), i.InputCommitted(item_id="u1"))
    stage.play(refused("input_audio_buffer_commit_empty", third, "benign"))

    assert asked(reconnect(stage)) == [(2, "token-1")]


def test_a_refusal_of_one_that_was_asked_again_reaches_its_command() -> None:
    stage = Stage(MANUAL)
    commit(stage, 1)
    reconnect(stage)
    event_id = stage.state.commits[0].event_id

    effects = stage.play(refused("input_audio_buffer_commit_empty", event_id, "benign"))

    assert [one.cause for one in of(effects, fx.Publish)] == ["commit_audio-1"]
    assert stage.state.commits == ()


def test_with_turn_detection_the_sound_is_gone_and_nothing_is_asked_again() -> None:
    stage = Stage()
    commit(stage, 25)

    assert asked(reconnect(stage)) == []
    assert stage.state.commits == ()


@pytest.mark.parametrize(("seconds", "waits"), [(9.9, True), (10.1, False)])
def test_a_commit_without_a_word_is_waited_for_ten_seconds(seconds: float, waits: bool) -> None:
    stage = Stage(MANUAL)
    commit(stage, 25)

    stage.wait(seconds)

    assert is_silent(stage.state) is not waits
    assert bool(asked(reconnect(stage))) is waits


def test_no_time_goes_by_for_it_while_there_is_no_connection() -> None:
    stage = Stage(MANUAL)
    commit(stage, 25)
    stage.play(CUT)
    stage.wait(15)

    assert asked(stage.play(*AGAIN)) == [(25, "token-1")]


def test_only_so_many_are_remembered() -> None:
    stage = Stage(MANUAL)
    for n in range(commits.LIMIT + 5):
        commit(stage, n)

    assert [one.after_n for one in stage.state.commits] == list(range(5, commits.LIMIT + 5))
