"""A token allows what its rights say, and gives no more than it has."""

import pytest

from voicebus.bus.messages.commands import COMMANDS, READ_ONLY, SPEAKING, Attach
from voicebus.services.session.core import inputs as i
from voicebus.services.session.core import rights
from voicebus.services.session.testing import Stage

OWNER = "token-1"


def joined(stage: Stage, *given: str) -> str:
    """Somebody else attaches with these rights. The token."""
    token = "-".join(given)
    stage.play(
        i.Attached(
            command_id=f"attach-{token}",
            token=token,
            talk="talk" in given,
            command="command" in given,
            opened={},
        )
    )
    return token


def allowed(stage: Stage, token: str | None) -> set[str]:
    return {name for name in COMMANDS if rights.why_not(stage.state, token, name) is None}


def test_who_opened_the_session_may_do_everything() -> None:
    assert allowed(Stage(), OWNER) == set(COMMANDS)


def test_who_shows_no_token_may_do_everything() -> None:
    assert allowed(Stage(), None) == set(COMMANDS)


def test_a_listener_may_look_and_change_nothing() -> None:
    stage = Stage()

    assert allowed(stage, joined(stage, "listen")) == READ_ONLY


def test_who_may_talk_may_do_what_belongs_to_sound() -> None:
    stage = Stage()

    assert allowed(stage, joined(stage, "listen", "talk")) == READ_ONLY | SPEAKING


def test_who_may_command_may_do_everything_but_make_sound() -> None:
    stage = Stage()

    assert allowed(stage, joined(stage, "listen", "command")) == set(COMMANDS)
    assert stage.state.tokens_granted["listen-command"] is False


def test_a_token_that_nobody_gave_allows_nothing() -> None:
    why = rights.why_not(Stage().state, "forged", "snapshot")

    assert why is not None
    assert "unknown or was revoked" in why


def test_a_refusal_names_the_right_that_is_missing() -> None:
    stage = Stage()
    listener = joined(stage, "listen")

    assert "right to command" in str(rights.why_not(stage.state, listener, "interrupt"))
    assert "right to talk or command" in str(
        rights.why_not(stage.state, listener, "report_playback")
    )


@pytest.mark.parametrize(
    ("has", "renews"),
    [(("listen",), False), (("listen", "talk"), True), (("listen", "command"), True)],
)
def test_only_who_may_talk_or_command_keeps_a_session_alive(
    has: tuple[str, ...], renews: bool
) -> None:
    stage = Stage()
    before = stage.state.lease_until_us
    stage.now_us += 1_000_000
    token = joined(stage, *has)

    assert rights.is_talker(stage.state, token) is renews
    assert (stage.state.lease_until_us > before) is renews


def test_a_token_gives_no_more_than_it_has() -> None:
    stage = Stage()
    listener = joined(stage, "listen")

    assert rights.too_many(stage.state, listener, Attach(rights=("listen",))) is None
    assert "cannot give command, talk" in str(rights.too_many(stage.state, listener, Attach()))
    assert rights.too_many(stage.state, OWNER, Attach()) is None
    assert rights.too_many(stage.state, None, Attach()) is None


def test_an_attachment_of_an_older_journal_may_command() -> None:
    stage = Stage()
    stage.play(i.Attached(command_id="attach-1", token="old", talk=False, opened={}))

    assert rights.may_command(stage.state, "old")
