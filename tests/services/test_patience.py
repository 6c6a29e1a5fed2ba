import itertools

from voicebus.services.patience import AGAIN_AT_MOST_S, Patience


def seconds(patience: Patience, *oldest: int, is_there: bool = True) -> list[int]:
    """When it is over, looked at once a second."""
    return [
        second
        for second, number in enumerate(oldest)
        if patience.is_over(number, float(second), is_there=is_there)
    ]


def test_the_waits_double_up_to_a_minute() -> None:
    over = seconds(Patience(), *[7] * 300)

    assert over[:5] == [2, 6, 14, 30, 62]
    assert {later - one for one, later in itertools.pairwise(over[5:])} == {int(AGAIN_AT_MOST_S)}


def test_progress_begins_anew() -> None:
    assert seconds(Patience(), 1, 1, 1, 1, 2, 2, 2, 3, 0, 0, 0, 0) == [2, 6]


def test_nothing_is_waited_for_by_who_has_sent_nothing() -> None:
    assert seconds(Patience(), *[0] * 100) == []


def test_who_is_not_there_is_sent_it_once_it_is_back() -> None:
    patience = Patience()

    assert seconds(patience, *[7] * 100, is_there=False) == []
    assert patience.is_over(7, 100.0)
