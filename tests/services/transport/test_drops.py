from voicebus.services.transport.drops import Drops


def test_the_first_is_told_at_once_and_the_next_after_a_second() -> None:
    drops = Drops()
    drops.add(20.0, "why")

    assert drops.due_ms(5.0) == 20
    drops.add(20.0, "why")
    drops.add(20.5, "why")
    assert drops.due_ms(5.9) == 0
    assert drops.due_ms(6.0) == 41
    assert drops.due_ms(9.0) == 0


def test_what_is_left_can_be_told_at_once() -> None:
    drops = Drops()
    drops.add(20.0, "a")
    drops.due_ms(5.0)
    drops.add(20.0, "b")

    assert drops.due_ms(5.1, at_once=True) == 20
    assert drops.why == "b"
