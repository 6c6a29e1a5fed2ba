import pytest

from voicebus.services.gateway import doors
from voicebus.services.gateway.doors import Policy

LOCAL = Policy(bind="127.0.0.1")
LISTED = Policy(bind="127.0.0.1", origins=("https://voice.example.org/",))
KEYED = Policy(bind="0.0.0.0", key="a long random word")


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_this_machine_alone_needs_no_key(bind: str) -> None:
    assert doors.why_not_start(bind, None) is None


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.0.2.1", "voice.example.org"])
def test_beyond_this_machine_it_does_not_start_without_a_key(bind: str) -> None:
    assert "key_file" in (doors.why_not_start(bind, None) or "")
    assert doors.why_not_start(bind, "a long random word") is None


@pytest.mark.parametrize(
    ("policy", "host", "origin"),
    [
        (LOCAL, "127.0.0.1:8080", None),
        (LOCAL, "localhost:8080", "http://localhost:8080"),
        (LOCAL, "[::1]:8080", "http://[::1]:8080"),
        (LISTED, "voice.example.org", "https://voice.example.org"),
        (LISTED, "127.0.0.1:8080", "https://Voice.example.org"),
        (KEYED, "voice.lan:8080", "http://voice.lan:8080"),
        (KEYED, "192.0.2.1", None),
    ],
)
def test_who_may_come_in(policy: Policy, host: str, origin: str | None) -> None:
    assert doors.why_not(policy, host, origin) is None


@pytest.mark.parametrize(
    ("policy", "host", "origin"),
    [
        (LOCAL, "localhost:8080", "https://evil.example"),
        (LOCAL, "localhost:8080", "null"),
        (LOCAL, "localhost:8080", "http://localhost:9999"),
        (LOCAL, "rebound.example:8080", "http://rebound.example:8080"),
        (LOCAL, "rebound.example", None),
        (LOCAL, "[", None),
        (LOCAL, "localhost:8080", "http://["),
        (KEYED, "voice.lan", "http://a[b]"),
        (LOCAL, None, None),
        (LISTED, "127.0.0.1", "https://voice.example.org.evil.example"),
        (KEYED, "voice.lan", "https://evil.example"),
    ],
)
def test_who_may_not(policy: Policy, host: str | None, origin: str | None) -> None:
    assert "[gateway] origins" in (doors.why_not(policy, host, origin) or "")


def test_an_origin_is_no_address_of_a_page() -> None:
    assert doors.bad_origins(["https://a.example", "http://b.example:81/"]) is None
    for wrong in ("a.example", "https://a.example/page", "https://", "*", "http://["):
        assert repr(wrong) in (doors.bad_origins([wrong]) or "")


def test_the_key_is_that_word_and_no_other() -> None:
    assert doors.is_key(KEYED, "a long random word")
    for wrong in (None, "", "a long random wore", 5, ["a long random word"], "\udcff"):
        assert not doors.is_key(KEYED, wrong)
    assert doors.is_key(LOCAL, None)


def test_a_bearer_header_holds_a_key() -> None:
    assert doors.bearer("Bearer abc") == "abc"
    assert doors.bearer("bearer  abc ") == "abc"
    assert doors.bearer("Basic abc") is None
    assert doors.bearer(None) is None


def test_a_ticket_holds_for_its_session_and_its_secret() -> None:
    ticket = doors.ticket(b"secret", "s0-a")

    assert doors.is_ticket(b"secret", "s0-a", ticket)
    assert not doors.is_ticket(b"secret", "s0-b", ticket)
    assert not doors.is_ticket(b"other", "s0-a", ticket)
    assert not doors.is_ticket(b"secret", "s0-a", "ü")
    assert not doors.is_ticket(b"secret", "s0-a", "\udcff")
