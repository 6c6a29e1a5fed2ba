"""Subscriptions are counted although their end does not say whose they were."""

from voicebus.services.relay.subscriptions import Subscriptions


def test_the_last_who_leaves_ends_it_inside() -> None:
    subscriptions = Subscriptions(10)
    subscriptions.admit("a", b"event/")
    subscriptions.admit("b", b"event/")

    assert subscriptions.left(b"event/")
    assert subscriptions.left(b"event/")
    assert not subscriptions.left(b"event/")


def test_a_refused_one_who_leaves_takes_nothing_from_the_others() -> None:
    subscriptions = Subscriptions(10)
    subscriptions.refuse("mallory", b"event/")
    subscriptions.admit("alice", b"event/")

    assert not subscriptions.left(b"event/")
    assert subscriptions.left(b"event/")


def test_a_client_has_room_until_its_limit_refusals_included() -> None:
    subscriptions = Subscriptions(2)
    subscriptions.admit("a", b"1")
    subscriptions.refuse("a", b"2")
    assert not subscriptions.has_room("a")
    assert subscriptions.has_room("b")

    subscriptions.left(b"1")

    assert subscriptions.has_room("a")
