import pytest

from voicebus.services.session.clock import Clock, timer_s

START_US = 1_800_000_000_000_000


class Clocks:
    """A wall clock and a monotonic one, wound by the test."""

    def __init__(self) -> None:
        self.wall_ns = START_US * 1000
        self.monotonic_ns = 5_000_000_000

    def pass_by(self, seconds: float) -> None:
        self.wall_ns += round(seconds * 1e9)
        self.monotonic_ns += round(seconds * 1e9)

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_ns, lambda: self.monotonic_ns)


def test_it_begins_at_the_wall_clocks_time_and_passes_with_it() -> None:
    clocks = Clocks()
    clock = clocks.clock()

    assert clock.now_us() == START_US
    clocks.pass_by(2.5)
    assert clock.now_us() == START_US + 2_500_000


def test_no_two_moments_are_the_same() -> None:
    clock = Clocks().clock()

    assert [clock.now_us() - START_US for _ in range(3)] == [0, 1, 2]


def test_a_wall_clock_that_is_set_changes_nothing_and_is_told_once() -> None:
    for hours in (1, -1):
        clocks = Clocks()
        clock = clocks.clock()

        clocks.wall_ns += hours * 3600 * 1_000_000_000
        clocks.pass_by(1)

        assert clock.now_us() == START_US + 1_000_000
        assert clock.follow() == hours * 3600
        assert clock.follow() == 0
        assert clock.now_us() == START_US + 1_000_001


def test_small_corrections_are_followed_also_after_a_jump() -> None:
    clocks = Clocks()
    clock = clocks.clock()

    clocks.wall_ns += 3600 * 1_000_000_000
    clock.follow()
    clocks.wall_ns += 300_000_000

    assert clock.follow() == 0
    assert clock.now_us() == START_US + 300_000


def test_a_small_correction_backwards_makes_nothing_earlier() -> None:
    clocks = Clocks()
    clock = clocks.clock()
    clocks.pass_by(1)
    before = clock.now_us()

    clocks.wall_ns -= 500_000_000
    clock.follow()

    assert clock.now_us() == before + 1
    clocks.pass_by(1)
    assert clock.now_us() == START_US + 1_500_000


def test_what_the_journal_holds_is_past_also_where_the_clock_was_set_back_meanwhile() -> None:
    clocks = Clocks()
    clock = clocks.clock()

    clock.not_before(START_US + 60_000_000)
    clocks.pass_by(1)

    assert clock.now_us() == START_US + 61_000_000
    clock.not_before(START_US)
    assert clock.now_us() == START_US + 61_000_001


@pytest.mark.parametrize(
    ("due_us", "seconds"), [(1_000_001, 0.001), (1_001_000, 0.001), (1_001_001, 0.002), (5, 0.0)]
)
def test_a_timer_does_not_ring_before_its_time_also_where_it_counts_milliseconds(
    due_us: int, seconds: float
) -> None:
    assert timer_s(due_us, 1_000_000) == seconds
