import pytest

from voicebus.services import descriptors


@pytest.mark.parametrize(
    ("used", "limit", "is_short"),
    [
        (100, 1024, False),
        (1003, 1024, False),
        (1005, 1024, True),
        (64_000, 65_536, False),
        (64_500, 65_536, True),
        (48, 64, False),
        (50, 64, True),
        (64, 64, True),
    ],
)
def test_a_fiftieth_of_the_limit_but_at_least_sixteen_should_be_free(
    used: int, limit: int, is_short: bool
) -> None:
    told = descriptors.told(used, limit)

    assert (told is not None) == is_short
    if told is not None:
        assert f"{used} of {limit}" in told
        assert "ulimit -n" in told


def test_a_process_with_enough_of_them_has_nothing_to_say() -> None:
    assert descriptors.shortage() is None
