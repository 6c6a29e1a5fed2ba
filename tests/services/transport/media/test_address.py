import pytest

from voicebus.services.transport.media.address import BadAddress, address


def test_what_the_query_has_is_kept_and_what_is_added_is_quoted() -> None:
    found = address("wss://h/p?api-version=2025-04-01&x=a%20b", {"model": "a b&c=d"})

    assert found.url == "wss://h/p?api-version=2025-04-01&x=a%20b&model=a%20b%26c%3Dd"


def test_a_parameter_is_replaced_not_repeated() -> None:
    assert address("wss://h/p?model=old&y=1", {"model": "new"}).url == "wss://h/p?y=1&model=new"


def test_without_a_parameter_the_address_stays_as_it_is() -> None:
    assert address("wss://h/p?call_id=rtc_1", {}).url == "wss://h/p?call_id=rtc_1"


@pytest.mark.parametrize(
    ("url", "dialled", "place", "is_secure"),
    [
        ("https://h/v1", "wss://h/v1", "h:443", True),
        ("http://h:81/v1", "ws://h:81/v1", "h:81", False),
        ("ws://[::1]:9000", "ws://[::1]:9000/", "[::1]:9000", False),
    ],
)
def test_the_place_and_the_scheme_follow(
    url: str, dialled: str, place: str, is_secure: bool
) -> None:
    found = address(url, {})

    assert (found.url, found.place, found.is_secure) == (dialled, place, is_secure)


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("ws://localhost:1", True),
        ("ws://127.8.0.1:1", True),
        ("ws://[::1]:1", True),
        ("ws://10.0.0.1:1", False),
        ("ws://localhost.example:1", False),
        ("ws://127.0.0.1.example:1", False),
    ],
)
def test_loopback_is_known_by_the_host(url: str, is_loopback: bool) -> None:
    assert address(url, {}).is_loopback is is_loopback


@pytest.mark.parametrize("url", ["", "api.openai.com", "ftp://h/", "wss://", "ws://h:99999/"])
def test_what_cannot_be_dialled_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(BadAddress, match="provider_url"):
        address(url, {})
