from voicebus.services.transport.ring import Budget, Ring


def ring(limit_bytes: int = 10_000, budget: Budget | None = None, last_n: int = 0) -> Ring:
    return Ring(limit_bytes, budget or Budget(1_000_000), last_n)


def send_all(ring: Ring) -> list[bytes]:
    sent = []
    for frames in ring.unsent():
        sent.append(frames[0])
        ring.sent()
    return sent


def test_events_are_sent_once_and_kept_until_acknowledged() -> None:
    events = ring()
    for header in (b"1", b"2", b"3"):
        events.append([header])

    assert send_all(events) == [b"1", b"2", b"3"]
    assert send_all(events) == []
    assert len(events) == 3
    events.acknowledge(2)
    events.go_back()
    assert send_all(events) == [b"3"]


def test_an_acknowledgement_of_more_than_there_is_forgets_what_there_is() -> None:
    events = ring()
    events.append([b"1"])
    events.acknowledge(99)

    assert (len(events), events.acknowledged_n, events.bytes) == (0, 1, 0)


def test_an_older_acknowledgement_changes_nothing() -> None:
    events = ring()
    for header in (b"1", b"2"):
        events.append([header])
    events.acknowledge(2)
    events.acknowledge(1)

    assert events.acknowledged_n == 2


def test_what_is_acknowledged_unsent_is_not_sent() -> None:
    events = ring()
    for header in (b"1", b"2"):
        events.append([header])
    events.acknowledge(1)

    assert send_all(events) == [b"2"]


def test_numbers_continue_where_an_earlier_ring_ended() -> None:
    events = ring(last_n=7)
    events.append([b"8"])

    assert (events.last_n, send_all(events)) == (8, [b"8"])


def test_one_event_may_overshoot_and_then_it_is_full_until_acknowledged() -> None:
    events = ring(limit_bytes=100)
    assert not events.is_full()
    events.append([b"h", b"x" * 1000])

    assert events.is_full()
    events.acknowledge(1)
    assert not events.is_full()


def test_all_rings_share_one_budget_and_an_empty_one_is_never_full() -> None:
    budget = Budget(1000)
    greedy, modest = ring(budget=budget), ring(budget=budget)
    greedy.append([b"x" * 1000])

    assert greedy.is_full()
    assert not modest.is_full()
    modest.append([b"y"])
    assert modest.is_full()
    greedy.clear()
    assert not modest.is_full()
    assert budget.used_bytes == modest.bytes
