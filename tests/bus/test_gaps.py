import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebus.bus.gaps import (
    HELD_LIMIT,
    Followed,
    Missing,
    give_up,
    hear,
    missing,
    on_topic,
    take,
)


def after(*arrived: int, head: int = 0) -> tuple[list[int], Missing | None]:
    """What was handed on, and what is missing."""
    at: Followed[int] = hear(Followed(), head)
    handed_on: list[int] = []
    for seq in arrived:
        at, ready = take(at, seq, seq)
        handed_on += ready
    return handed_on, missing(at)


@pytest.mark.parametrize(
    ("arrived", "head", "handed_on", "lacking"),
    [
        ((), 0, [], None),
        ((1, 2, 3), 0, [1, 2, 3], None),
        ((), 4, [], Missing(1, 4)),
        ((1, 2), 2, [1, 2], None),
        ((1, 2), 4, [1, 2], Missing(3, 4)),
        ((1, 4, 5), 0, [1], Missing(2, 3)),
        ((1, 4, 2, 3), 0, [1, 2, 3, 4], None),
        ((1, 4, 2), 6, [1, 2], Missing(3, 3)),
        ((1, 1, 2, 1), 0, [1, 2], None),
        ((3, 3, 1, 2), 0, [1, 2, 3], None),
        ((2, 4), 9, [], Missing(1, 1)),
    ],
)
def test_messages_are_handed_on_in_order_and_holes_are_named(
    arrived: tuple[int, ...], head: int, handed_on: list[int], lacking: Missing | None
) -> None:
    assert after(*arrived, head=head) == (handed_on, lacking)


def test_an_older_head_changes_nothing() -> None:
    at: Followed[str] = Followed(last=5, newest=7)

    assert hear(at, 6) == at


def test_what_is_gone_for_good_is_passed_over_and_what_was_held_follows() -> None:
    at, _ = take(take(Followed[str](), 4, "d").now, 2, "b")

    now, ready = give_up(at, 3)

    assert (ready, now.last, missing(now)) == (["d"], 4, None)


def test_passing_over_what_was_handed_on_changes_nothing() -> None:
    at: Followed[str] = Followed(last=5, newest=7)

    assert give_up(at, 5) == (at, [])


def test_what_is_held_is_bounded_and_what_was_not_kept_is_still_missing() -> None:
    at: Followed[int] = Followed()
    for seq in range(2, HELD_LIMIT + 5):
        at, _ = take(at, seq, seq)
    assert len(at.held) == HELD_LIMIT

    at, ready = take(at, 1, 1)

    assert ready == list(range(1, HELD_LIMIT + 2))
    assert missing(at) == Missing(HELD_LIMIT + 2, HELD_LIMIT + 4)


@given(
    total=st.integers(1, 60),
    data=st.data(),
    page=st.integers(1, 7),
)
def test_after_any_loss_repeat_and_restart_each_message_is_handed_on_once_in_order(
    total: int, data: st.DataObject, page: int
) -> None:
    # A publisher that loses any, repeats any earlier one, and tells its head now and then; a
    # restart is a stretch of losses with repeats after it.
    at: Followed[int] = Followed()
    handed_on: list[int] = []
    for seq in range(1, total + 1):
        fate = data.draw(st.sampled_from(["live", "lost", "twice", "again", "head"]))
        arrived = {
            "live": [seq],
            "lost": [],
            "twice": [seq, seq],
            "again": [seq, data.draw(st.integers(1, seq))],
            "head": [],
        }[fate]
        for one in arrived:
            at, ready = take(at, one, one)
            handed_on += ready
        if fate == "head":
            at = hear(at, seq)
        if data.draw(st.booleans()) and (stretch := missing(at)) is not None:
            for one in range(stretch.first, min(stretch.last, stretch.first + page - 1) + 1):
                at, ready = take(at, one, one)
                handed_on += ready
    at = hear(at, total)
    while (stretch := missing(at)) is not None:
        for one in range(stretch.first, min(stretch.last, stretch.first + page - 1) + 1):
            at, ready = take(at, one, one)
            handed_on += ready

    assert handed_on == list(range(1, total + 1))
    assert not at.held


@pytest.mark.parametrize(
    ("last", "seq", "prev", "verdict"),
    [
        (0, 5, 0, "next"),
        (5, 9, 5, "next"),
        (5, 5, 0, "repeated"),
        (5, 3, 2, "repeated"),
        (5, 9, 7, "gap"),
        (0, 9, 5, "gap"),
    ],
)
def test_a_subscriber_of_one_kind_sees_holes_by_what_came_before_on_its_topic(
    last: int, seq: int, prev: int, verdict: str
) -> None:
    assert on_topic(last, seq, prev) == verdict
