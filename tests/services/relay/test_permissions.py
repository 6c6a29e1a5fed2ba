"""What a client may do, by its file and the sessions it opened."""

import pytest

from voicebus.config.clients import Client
from voicebus.services.relay import permissions

MINE = "s0-01k9yq3v5m8x2c4e6g7h9j0n1p"
OTHER = "s0-01k9zzzzzz8x2c4e6g7h9j0n1q"
TALKER = Client(name="kiosk", public="k")
BOARD = Client(name="board", public="k", lanes=("event", "system"), sessions=("*",))
TENANT = Client(name="tenant", public="k", sessions=("s0-01k9yq",), commands=("list", "replay"))


@pytest.mark.parametrize(
    ("client", "topic", "allowed"),
    [
        (TALKER, f"event/{MINE}/", True),
        (TALKER, f"event/{MINE}/user_transcript", True),
        (TALKER, f"audio/{MINE}/out", True),
        (TALKER, f"event/{OTHER}/", False),
        (TALKER, f"raw/{MINE}/", False),
        (TALKER, "system/transport/0/state", False),
        (TALKER, f"event/{MINE}", False),  # also covers whatever begins so
        (TALKER, "event/", False),
        (TALKER, "", False),
        (TALKER, "e", False),
        (BOARD, "event/", True),
        (BOARD, "event", False),
        (BOARD, "", False),
        (BOARD, f"audio/{MINE}/out", False),
        (BOARD, "system/", True),
        (TENANT, "event/s0-01k9yq", True),
        (TENANT, f"event/{MINE}/", True),
        (TENANT, "event/s0-01k9y", False),
        (TENANT, f"event/{OTHER}/", False),
    ],
)
def test_a_subscription_is_allowed_only_if_all_it_covers_is(
    client: Client, topic: str, allowed: bool
) -> None:
    assert permissions.may_subscribe(client, topic.encode(), {MINE}) is allowed


def test_a_topic_that_is_no_text_is_refused() -> None:
    assert not permissions.may_subscribe(BOARD, b"event/\xff", {MINE})


def test_a_session_whose_id_is_the_word_own_belongs_to_nobody() -> None:
    assert not permissions.may_see(TALKER, "own", set())


@pytest.mark.parametrize(
    ("client", "command", "session_id", "why"),
    [
        (TALKER, "open", None, None),
        (TALKER, "send_text", MINE, None),
        (TALKER, "send_text", OTHER, f"session {OTHER} is not one of client 'kiosk''s"),
        (TALKER, "send_text", None, "send_text needs a session_id"),
        (TALKER, "ping", OTHER, f"session {OTHER} is not one of client 'kiosk''s"),
        (TALKER, "ping", "own", "'own' is no session id (s<shard>-<26 characters>)"),
        (TENANT, "replay", MINE, None),
        (TENANT, "open", None, "client 'tenant' may not open (it may: list, replay)"),
        (TENANT, "close", MINE, "client 'tenant' may not close (it may: list, replay)"),
    ],
)
def test_a_refused_command_says_why(
    client: Client, command: str, session_id: str | None, why: str | None
) -> None:
    assert permissions.why_not(client, command, session_id, {MINE}) == why
