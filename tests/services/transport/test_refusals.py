from voicebus.services.transport.moment import Moment
from voicebus.services.transport.refusals import Refusals


def test_each_reason_is_told_once_a_second_with_how_many_there_were() -> None:
    refusals = Refusals(0, "inc")

    first = refusals.note("odd_length", "one", Moment(0.0, 1))
    assert first is not None
    assert (first.reason, first.text, first.count, first.at_us) == ("odd_length", "one", 1, 1)
    assert refusals.note("odd_length", "two", Moment(0.5, 2)) is None
    assert refusals.note("too_large", "other", Moment(0.5, 2)) is not None
    third = refusals.note("odd_length", "three", Moment(1.0, 3))
    assert third is not None
    assert (third.text, third.count) == ("three", 2)
