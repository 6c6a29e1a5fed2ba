from voicebus.services.pace import Pace


def test_the_same_thing_is_not_due_again_too_soon() -> None:
    pace = Pace(0.1)

    assert pace.is_due("a", 0.0)
    assert not pace.is_due("a", 0.05)
    assert pace.is_due("b", 0.05)
    assert pace.is_due("a", 0.11)
    assert not pace.is_due("a", 0.2)
