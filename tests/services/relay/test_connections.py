"""So many connections, so many from one address, so many new ones a second."""

from voicebus.services.relay.connections import Connections


def connections(**limits: int) -> Connections:
    return Connections(**{"in_all": 1000, "from_one": 1000, "per_s": 1000, **limits})


def test_beyond_the_limit_of_one_address_it_is_named_and_others_come_in() -> None:
    some = connections(from_one=2)

    assert [some.came((1, n), "10.0.0.1", 0.0) for n in range(3)] == [
        None,
        None,
        "connections_per_address=2",
    ]
    assert some.came((1, 9), "10.0.0.2", 0.0) is None


def test_beyond_the_limit_of_all_nobody_comes_in() -> None:
    some = connections(in_all=2)
    for n in range(2):
        some.came((1, n), f"10.0.0.{n}", 0.0)

    assert some.came((1, 9), "10.0.0.9", 0.0) == "connections=2"


def test_new_ones_come_in_at_a_limited_rate() -> None:
    some = connections(per_s=2)

    told = [some.came((1, n), "10.0.0.1", 0.0) for n in range(3)]

    assert told == [None, None, "handshakes_per_s=2 from one address"]
    assert some.came((1, 9), "10.0.0.1", 1.0) is None


def test_who_leaves_makes_room() -> None:
    some = connections(from_one=1, in_all=1)
    some.came((1, 7), "10.0.0.1", 0.0)
    some.left((1, 7))

    assert len(some) == 0
    assert some.came((2, 7), "10.0.0.1", 0.0) is None


def test_the_end_of_one_that_was_not_let_in_changes_nothing() -> None:
    some = connections(from_one=1)
    some.came((1, 7), "10.0.0.1", 0.0)
    some.came((1, 8), "10.0.0.1", 0.0)

    some.left((1, 8))

    assert len(some) == 1
    assert some.came((1, 9), "10.0.0.1", 0.0) is not None


def test_a_descriptor_that_comes_again_is_another_connection() -> None:
    some = connections(from_one=1)
    some.came((1, 7), "10.0.0.1", 0.0)

    assert some.came((1, 7), "10.0.0.2", 0.0) is None
    assert some.came((1, 8), "10.0.0.1", 0.0) is None
    assert len(some) == 2
