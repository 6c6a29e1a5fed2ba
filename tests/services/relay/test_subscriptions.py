"""Subscriptions are counted although their end does not say whose they were."""

from voicebus.services.relay.subscriptions import Subscriptions


def test_the_last_who_leaves_ends_it_inside() -> None:
    subscriptions = Subscriptions(10)
    assert subscriptions.admit("a", "1", b"event/")
    assert subscriptions.admit("b", "2", b"event/")

    assert subscriptions.ended(b"event/")
    assert subscriptions.left("2", b"event/") or subscriptions.left("1", b"event/")
    assert not subscriptions.ended(b"event/")


def test_a_refused_one_who_leaves_takes_nothing_from_the_others() -> None:
    subscriptions = Subscriptions(10)
    subscriptions.refuse("mallory", "1", b"event/")
    subscriptions.admit("alice", "2", b"event/")

    assert not subscriptions.ended(b"event/")
    assert subscriptions.ended(b"event/")


def test_nobody_takes_back_what_another_asked_for() -> None:
    subscriptions = Subscriptions(10)
    subscriptions.admit("alice", "1", b"event/")
    subscriptions.admit("bob", "2", b"cancel/")

    assert not subscriptions.left("3", b"event/")
    assert not subscriptions.left("2", b"event/")
    assert not subscriptions.left("3", b"cancel/")  # nor by another connection of the same client
    assert subscriptions.left("1", b"event/")


def test_what_a_connection_asks_for_twice_counts_once() -> None:
    subscriptions = Subscriptions(2)
    assert subscriptions.admit("bob", "1", b"event/")
    assert not subscriptions.admit("bob", "1", b"event/")

    assert subscriptions.has_room("bob")
    assert subscriptions.ended(b"event/")
    assert not subscriptions.ended(b"event/")


def test_a_client_has_room_until_its_limit_refusals_included() -> None:
    subscriptions = Subscriptions(2)
    subscriptions.admit("a", "1", b"1")
    subscriptions.refuse("a", "1", b"2")
    assert not subscriptions.has_room("a")
    assert subscriptions.has_room("b")
    assert subscriptions.was_refused("1", b"2")
    assert not subscriptions.was_refused("2", b"2")

    subscriptions.ended(b"1")

    assert subscriptions.has_room("a")
