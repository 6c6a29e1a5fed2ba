from voicebus.services.transport.caller import Caller, Sound
from voicebus.services.transport.outbox import (
    HangUpNow,
    Outbox,
    WaitUntil,
    Write,
    WriteSound,
)


def both() -> tuple[Outbox, Caller]:
    caller = Caller("s0-x", 2.0, 10_000)
    caller.grant("tok", may_talk=True)
    caller.is_released = True
    return Outbox(caller), caller


def test_the_sessions_frames_go_before_sound() -> None:
    outbox, caller = both()
    caller.take("tok", 1, b"\0\0")
    outbox.send(4, b"frame", 0.0)

    assert outbox.next(0.0) == Write(4, b"frame", True, False)
    assert outbox.next(0.0) == WriteSound(Sound("tok", 1, b"\0\0"))
    assert outbox.next(0.0) is None


def test_a_frame_waits_for_the_sound_it_names_and_then_goes_before_the_rest() -> None:
    outbox, caller = both()
    outbox.send(4, b"commit", 0.0, token="tok", after_n=2, tell=True)
    for n in (1, 2, 3):
        caller.take("tok", n, b"\0\0")

    done = []
    for _ in range(4):
        step = outbox.next(0.1)
        done.append(step)
        if isinstance(step, WriteSound):
            caller.wrote(step.sound)

    assert [type(step).__name__ for step in done] == [
        "WriteSound",
        "WriteSound",
        "Write",
        "WriteSound",
    ]
    assert done[2] == Write(4, b"commit", True, True)


def test_a_frame_without_sound_counts_and_is_not_sent() -> None:
    outbox, caller = both()
    outbox.send(4, b"commit", 0.0, token="tok", after_n=3, tell=True)
    caller.take("tok", 1, b"")
    caller.take("tok", 2, b"\0\0")
    caller.take("tok", 3, b"")

    first = outbox.next(0.1)
    assert first == WriteSound(Sound("tok", 2, b"\0\0"))
    caller.wrote(first.sound)

    assert outbox.next(0.1) == Write(4, b"commit", True, True)
    assert outbox.next(0.1) is None


def test_what_follows_a_waiting_frame_keeps_its_place() -> None:
    outbox, _ = both()
    outbox.send(4, b"commit", 0.0, token="tok", after_n=1)
    outbox.send(5, b"create", 0.1)

    assert outbox.next(0.1) == WaitUntil(0.5)
    assert outbox.next(0.5) == Write(4, b"commit", False, False)
    assert outbox.next(0.5) == Write(5, b"create", True, False)


def test_sound_that_was_said_after_a_command_waits_for_it() -> None:
    outbox, caller = both()
    caller.take("tok", 1, b"\0\0")
    caller.take("tok", 2, b"\1\0", now_s=0.1, follows=True)
    caller.take("tok", 3, b"\2\0", now_s=0.1)

    first = outbox.next(0.1)
    assert isinstance(first, WriteSound)
    caller.wrote(first.sound)
    assert outbox.next(0.1) == WaitUntil(2.1)
    outbox.send(4, b"clear", 0.9, token="tok", after_n=1)

    assert outbox.next(1.0) == Write(4, b"clear", True, False)
    written = [outbox.next(1.0) for _ in range(2)]
    assert [one.sound.n for one in written if isinstance(one, WriteSound)] == [2, 3]
    assert outbox.next(1.0) is None


def test_the_nearer_time_counts_when_a_command_and_sound_wait_for_one_another() -> None:
    outbox, caller = both()
    caller.take("tok", 5, b"\0\0", now_s=0.1, follows=True)
    outbox.send(1, b"commit", 0.3, token="tok", after_n=4)

    assert outbox.next(0.4) == WaitUntil(0.8)
    assert outbox.next(0.8) == Write(1, b"commit", False, False)
    assert isinstance(outbox.next(0.8), WriteSound)


def test_a_command_lets_through_what_it_waits_for_also_where_that_follows_a_refused_one() -> None:
    outbox, caller = both()
    caller.take("tok", 1, b"\0\0", follows=True)  # after a `clear` that the session has refused
    caller.take("tok", 2, b"\0\0")
    caller.take("tok", 3, b"\0\0", follows=True)
    outbox.send(1, b"commit", 0.0, token="tok", after_n=2)

    done = []
    for _ in range(4):
        step = outbox.next(0.1)
        done.append(step.sound.n if isinstance(step, WriteSound) else step)
        if isinstance(step, WriteSound):
            caller.wrote(step.sound)

    assert done == [1, 2, Write(1, b"commit", True, False), 3]


def test_the_command_of_another_talker_lets_nothing_through() -> None:
    outbox, caller = both()
    caller.grant("other", may_talk=True)
    caller.take("tok", 1, b"\0\0", follows=True)
    outbox.send(1, b"clear", 0.0, token="other", after_n=0)
    outbox.send(2, b"clear", 0.0, token=None, after_n=0)

    assert outbox.next(0.0) == Write(1, b"clear", True, False)
    assert caller.next(0.0) is None
    assert outbox.next(0.0) == Write(2, b"clear", True, False)
    assert isinstance(outbox.next(0.0), WriteSound)


def test_what_was_said_after_a_command_that_is_forgotten_does_not_wait_for_it() -> None:
    outbox, caller = both()
    caller.take("tok", 6, b"\0\0", follows=True)
    outbox.send(1, b"commit", 0.0, token="tok", after_n=5)
    outbox.send(2, b"create", 0.0)

    assert outbox.clear() == 2

    assert isinstance(outbox.next(0.0), WriteSound)


def test_a_hang_up_takes_its_turn_and_waits_for_sound_as_well() -> None:
    outbox, caller = both()
    outbox.send(4, b"last", 0.0)
    outbox.hang_up(5, 0.0, token="tok", after_n=1)

    assert outbox.next(0.0) == Write(4, b"last", True, False)
    assert outbox.next(0.0) == WaitUntil(0.5)
    caller.wrote(Sound("tok", 1, b""))
    assert outbox.next(0.0) == HangUpNow()


def test_a_cleared_outbox_sends_nothing_and_says_how_much_that_was() -> None:
    outbox, _ = both()
    outbox.send(1, b"one", 0.0)
    outbox.send(2, b"two", 0.0)

    assert outbox.clear() == 2
    assert outbox.next(9.0) is None
    assert outbox.bytes == 0
