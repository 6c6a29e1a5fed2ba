"""So much a second, and no more."""

from voicebus.services.limits import Bucket, Buckets


def test_a_second_s_worth_can_be_taken_at_once() -> None:
    bucket = Bucket(10)

    assert [bucket.take(1, now_s=0.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(1, now_s=0.0) == 0.1


def test_what_was_taken_flows_back() -> None:
    bucket = Bucket(10)
    for _ in range(10):
        bucket.take(1, now_s=0.0)

    assert bucket.take(1, now_s=0.05) > 0
    assert bucket.take(1, now_s=0.2) == 0


def test_a_refused_amount_costs_nothing() -> None:
    bucket = Bucket(10)
    bucket.take(9, now_s=0.0)

    assert bucket.take(5, now_s=0.0) > 0
    assert bucket.take(1, now_s=0.0) == 0


def test_more_than_it_can_hold_takes_all_of_it() -> None:
    bucket = Bucket(10)

    assert bucket.take(1000, now_s=0.0) == 0
    assert bucket.take(1000, now_s=0.5) == 0.5
    assert bucket.take(1000, now_s=1.0) == 0


def test_each_name_has_its_own() -> None:
    buckets = Buckets(1)

    assert buckets.take("a", 1, 0.0) == 0
    assert buckets.take("a", 1, 0.0) > 0
    assert buckets.take("b", 1, 0.0) == 0


def test_long_unused_names_are_forgotten() -> None:
    buckets = Buckets(1, kept=2)
    for name in "abc":
        buckets.take(name, 1, 0.0)

    assert buckets.take("a", 1, 0.0) == 0  # a new bucket: the old one was forgotten
    assert buckets.take("c", 1, 0.0) > 0
