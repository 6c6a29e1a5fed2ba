import pytest

from voicebus.bus import ids


def test_ulids_are_26_lower_case_characters_and_sort_by_time() -> None:
    first, second = ids.ulid(), ids.ulid()

    assert len(first) == 26
    assert first == first.lower()
    assert first != second
    assert first[:9] <= second[:9]  # the last character of the time may be equal, chance follows


def test_a_session_id_carries_its_shard() -> None:
    assert ids.shard_of(ids.session_id(0)) == 0
    assert ids.shard_of(ids.session_id(12)) == 12


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s0",
        "0" * 26,
        "s-" + "0" * 26,
        "s0-" + "0" * 25,
        "s0-" + "0" * 27,
        "s0-" + "u" * 26,  # Crockford's alphabet has no i, l, o, u
        "S0-" + "0" * 26,
        "s0-" + "A" * 26,
        "s0-" + "0" * 26 + "\n",
        "s0-../../../../../etc/passwd",
        "s99999-" + "0" * 26,
    ],
)
def test_what_is_no_session_id_has_no_shard(text: str) -> None:
    assert ids.shard_of(text) is None


def test_tokens_and_incarnations_do_not_repeat() -> None:
    assert len({ids.token() for _ in range(100)}) == 100
    assert len({ids.incarnation() for _ in range(100)}) == 100
    assert len(ids.token()) >= 22  # 128 bits
