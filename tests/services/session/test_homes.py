"""Which transport a shard gives a conversation to."""

import pytest

from voicebus.bus.messages.system import State
from voicebus.services.session.homes import GONE_S, SILENT_S, Homes


def beacon(number: int, state: str = "ready", *, inc: str = "a", pid: int = 7) -> State:
    """What a transport says of itself."""
    told = {"role": "transport", "instance": number, "inc": inc, "pid": pid, "state": state}
    return State(**told, since_us=1, at_us=1)  # type: ignore[arg-type]


def two(shard: int = 0) -> Homes:
    """Two transports, both well."""
    homes = Homes(2, shard, 0.0)
    for number in range(2):
        homes.spoke(beacon(number), 0.0)
    return homes


def test_the_least_loaded_transport_gets_the_next_conversation() -> None:
    assert two().choose({0: 3, 1: 2}, 0.0) == 1


@pytest.mark.parametrize("shard", [0, 1])
def test_where_all_are_equal_each_shard_begins_with_another_transport(shard: int) -> None:
    assert two(shard).choose({}, 0.0) == shard


@pytest.mark.parametrize("state", ["draining", "stopped", "starting", "failing"])
def test_who_is_not_ready_gets_none(state: str) -> None:
    homes = two()
    homes.spoke(beacon(0, state), 0.0)

    assert homes.choose({1: 50}, 0.0) == 1
    assert homes.is_leaving(0) == (state in ("draining", "stopped"))


def test_who_is_silent_gets_none_and_after_a_while_its_conversations_leave_it() -> None:
    homes = two()
    homes.spoke(beacon(1), SILENT_S)

    assert homes.choose({1: 50}, SILENT_S) == 1
    assert not homes.is_gone(0, SILENT_S)
    assert homes.is_gone(0, GONE_S)


def test_where_nobody_is_well_the_least_loaded_of_all_is_waited_for() -> None:
    assert two().choose({0: 1}, SILENT_S) == 1
    assert two().elsewhere(0, "s0-a", {}, SILENT_S) is None


def test_a_reported_death_counts_only_for_the_process_that_is_known() -> None:
    homes = two()

    assert not homes.died(1, 6)
    assert not homes.died(1, None)
    assert homes.died(1, 7)
    assert not homes.died(1, 7)
    assert homes.elsewhere(0, "s0-a", {}, 0.0) is None


def test_its_successor_takes_conversations_as_soon_as_it_answers() -> None:
    homes = two()
    homes.died(1, 7)

    homes.welcomed(1, "b", {}, 0.0)

    assert homes.elsewhere(0, "s0-a", {}, 0.0) == 1


def test_a_conversation_does_not_go_back_to_a_transport_that_still_has_its_numbers() -> None:
    homes = two()
    homes.left(1, "s0-a")

    assert homes.elsewhere(0, "s0-a", {}, 0.0) is None
    assert homes.elsewhere(0, "s0-b", {}, 0.0) == 1
    homes.spoke(beacon(1, inc="b"), 0.0)
    assert homes.elsewhere(0, "s0-a", {}, 0.0) == 1


def test_what_a_transport_remembers_of_earlier_counts_too() -> None:
    homes = two()
    homes.welcomed(1, "a", {"s0-a": 12}, 0.0)

    assert homes.elsewhere(0, "s0-a", {}, 0.0) is None
    homes.forget("s0-a")
    assert homes.elsewhere(0, "s0-a", {}, 0.0) == 1


def test_a_transport_is_heard_until_it_was_silent_for_long() -> None:
    homes = two()
    homes.spoke(beacon(0, "draining"), 10.0)

    assert homes.is_heard(0, 10.0 + SILENT_S / 2)
    assert not homes.is_heard(0, 10.0 + SILENT_S)
    assert not homes.is_heard(2, 10.0), "this cell has no such transport"
