import pytest

from voicebus.services.transport.caller import KEPT_S, QUEUE_FRAMES, Caller, Refused, Sound, Taken

MS_20 = b"\0\0" * 480


def caller(hold_s: float = 0.1) -> Caller:
    found = Caller("s0-x", hold_s, 10_000)
    found.grant("tok", may_talk=True)
    return found


def waiting(of: Caller) -> list[int]:
    of.is_released = True
    found = []
    while (sound := of.next(0.0)) is not None:
        found.append(sound.n)
    return found


def test_nothing_goes_out_before_the_release() -> None:
    held = caller()
    held.take("tok", 1, MS_20)

    assert held.next(0.0) is None
    held.is_released = True
    assert held.next(0.0) == Sound("tok", 1, MS_20)
    assert held.next(0.0) is None


def test_the_oldest_gives_way_when_more_than_hold_s_waits() -> None:
    held = caller(hold_s=0.1)
    taken = [held.take("tok", n, MS_20) for n in range(1, 8)]

    assert [one.dropped_ms for one in taken if isinstance(one, Taken)] == [0] * 5 + [20, 20]
    assert waiting(held) == [3, 4, 5, 6, 7]


def test_sound_waits_for_a_command_no_longer_than_sound_is_held_at_all() -> None:
    held = caller(hold_s=0.5)
    held.is_released = True
    held.take("tok", 1, MS_20, now_s=7.0, follows=True)

    assert held.next(7.4) is None
    assert held.waits_until(7.4) == 7.5
    sound = held.next(7.5)
    assert sound is not None
    assert sound.n == 1


def test_tiny_frames_are_bounded_too() -> None:
    held = caller(hold_s=10.0)
    for n in range(1, 10_000):
        held.take("tok", n, b"\0\0")

    assert len(waiting(held)) == 4096


def test_a_number_that_came_before_is_not_sent_again() -> None:
    held = caller()
    held.take("tok", 1, MS_20)

    assert held.take("tok", 1, MS_20) == Taken(False, 0, 0.0)
    assert waiting(held) == [1]


def test_missing_numbers_are_counted() -> None:
    assert caller().take("tok", 4, MS_20) == Taken(True, 3, 0.0)


@pytest.mark.parametrize(
    ("token", "samples", "reason", "says"),
    [
        ("forged", MS_20, "unknown_token", "attach again"),
        ("ear", MS_20, "no_right", "right to talk"),
        ("tok", b"\0" * 7, "odd_length", "7 bytes"),
        ("tok", b"\0" * 10_002, "too_large", "the limit is 10000"),
    ],
)
def test_what_may_not_be_sent_is_refused_in_clear_words(
    token: str, samples: bytes, reason: str, says: str
) -> None:
    held = caller()
    held.grant("ear", may_talk=False)
    refused = held.take(token, 1, samples)

    assert isinstance(refused, Refused)
    assert refused.reason == reason
    assert says in refused.text
    assert "s0-x" in refused.text
    assert token not in refused.text or token == "ear"
    assert waiting(held) == []


def test_a_refused_frame_does_not_use_up_its_number() -> None:
    held = caller()
    held.take("tok", 1, b"\0")

    assert held.take("tok", 1, MS_20) == Taken(True, 0, 0.0)


def test_g711_may_be_odd() -> None:
    held = caller()
    held.configure("g711_ulaw")

    assert held.take("tok", 1, b"\0" * 7) == Taken(True, 0, 0.0)


def test_sound_of_another_format_is_not_sent_to_a_new_connection() -> None:
    held = caller()
    held.take("tok", 1, MS_20)
    held.configure("pcm16")
    assert len(held._queue) == 1
    held.configure("g711_ulaw")

    assert waiting(held) == []


def test_a_new_connection_shuts_the_gate_and_keeps_what_waits() -> None:
    held = caller()
    held.is_released = True
    held.take("tok", 1, MS_20)
    held.configure("pcm16")

    assert held.next(0.0) is None
    assert waiting(held) == [1]


def test_what_has_gone_out_is_known_by_token() -> None:
    held = caller()
    held.grant("other", may_talk=True)
    held.wrote(Sound("tok", 5, b""))

    assert held.has_written("tok", 5)
    assert not held.has_written("tok", 6)
    assert not held.has_written("other", 1)
    assert not held.has_written("nobody", 1)
    assert held.has_written(None, 5)


def test_revoked_tokens_are_unknown_and_their_sound_is_dropped() -> None:
    held = caller()
    held.take("tok", 1, MS_20)
    held.forget()

    assert isinstance(held.take("tok", 2, MS_20), Refused)
    assert waiting(held) == []


def test_granted_again_the_numbers_go_on() -> None:
    held = caller()
    held.take("tok", 1, MS_20)
    held.grant("tok", may_talk=True)

    assert held.take("tok", 1, MS_20) == Taken(False, 0, 0.0)


# --- turns that only commands end ---------------------------------------------------------------


def speaking(*numbers: int) -> Caller:
    """A caller whose connection has these frames of an unended turn."""
    found = caller(hold_s=2.0)
    found.release(keep=True)
    say(found, *numbers)
    return found


def say(of: Caller, *numbers: int, samples: bytes = MS_20) -> None:
    for n in numbers:
        of.take("tok", n, samples)
        written(of)


def written(of: Caller, limit: int | None = None) -> list[int]:
    """The frames that go out now."""
    found: list[int] = []
    while len(found) != limit and (sound := of.next(0.0)) is not None:
        of.wrote(sound)
        found.append(sound.n)
    return found


def again(of: Caller) -> list[int]:
    """The frames that the next connection is given."""
    of.configure("pcm16")
    of.release(keep=True)
    return written(of)


def test_what_a_connection_had_of_an_unended_turn_goes_out_again_before_newer_sound() -> None:
    held = speaking(1, 2, 3)
    assert held.configure("pcm16") == 0.0
    held.take("tok", 4, MS_20)

    assert held.next(0.0) is None
    assert held.has_again
    held.release(keep=True)
    assert written(held) == [1, 2, 3, 4]
    assert again(held) == [1, 2, 3, 4]


def test_a_connection_that_breaks_before_it_has_all_of_it_leaves_all_to_the_next() -> None:
    held = speaking(1, 2, 3, 4)
    held.configure("pcm16")
    held.release(keep=True)
    assert written(held, limit=2) == [1, 2]

    assert again(held) == [1, 2, 3, 4]


def test_what_goes_out_again_has_not_gone_out_before() -> None:
    held = speaking(1, 2)
    held.ends("commit")
    held.committed()
    say(held, 3, 4)
    held.configure("pcm16")

    assert held.has_written("tok", 2)
    assert not held.has_written("tok", 3)
    held.release(keep=True)
    written(held)
    assert held.has_written("tok", 4)


def test_a_turn_whose_end_is_confirmed_is_not_said_again() -> None:
    held = speaking(1, 2)
    held.ends("commit")
    say(held, 3)
    assert again(held) == [1, 2, 3], "nobody has confirmed it"

    held.ends("commit")
    say(held, 4)
    held.committed()

    assert again(held) == [4]


def test_what_was_cleared_is_not_said_again() -> None:
    held = speaking(1, 2)
    held.ends("clear")
    say(held, 3)

    assert again(held) == [3]


def test_a_clear_takes_back_nothing_of_a_turn_that_was_committed_before() -> None:
    held = speaking(1, 2)
    held.ends("commit")
    say(held, 3)
    held.ends("clear")
    say(held, 4)
    held.cleared("tok", 4)

    assert again(held) == [1, 2]


@pytest.mark.parametrize(
    ("token", "n", "left"),
    [
        ("tok", 3, [4, 5]),
        ("tok", 4, [5]),
        (None, 4, [5]),
        ("tok", None, [4, 5]),
        ("other", 9, [1, 2, 3, 4, 5]),
    ],
)
def test_what_was_to_be_cleared_with_a_lost_connection_is_not_said_again(
    token: str | None, n: int | None, left: list[int]
) -> None:
    held = speaking(1, 2, 3)
    held.is_released = False
    held.take("tok", 4, MS_20)
    held.take("tok", 5, MS_20)

    held.cleared(token, n)

    assert again(held) == left


def test_under_turn_detection_nothing_is_kept() -> None:
    held = speaking(1, 2)
    held.release(keep=False)
    say(held, 3)

    assert again(held) == []


def test_what_is_kept_is_bounded_and_what_gave_way_is_told_once() -> None:
    frames = int(KEPT_S * 50)
    held = speaking(*range(1, frames + 3))

    assert held.configure("pcm16") == 40.0
    held.release(keep=True)
    assert written(held) == list(range(3, frames + 3))
    assert held.configure("pcm16") == 0.0


def test_tiny_frames_that_are_kept_are_bounded_too() -> None:
    held = speaking()
    say(held, *range(1, QUEUE_FRAMES + 10), samples=b"\0\0")
    say(held, QUEUE_FRAMES + 10, samples=b"")

    assert again(held) == list(range(10, QUEUE_FRAMES + 10))


def test_nothing_of_a_session_that_ended_is_kept() -> None:
    held = speaking(1, 2)
    held.forget()

    assert again(held) == []


def test_what_is_kept_in_another_format_is_dropped() -> None:
    held = speaking(1, 2)
    held.configure("g711_ulaw")
    held.release(keep=True)

    assert written(held) == []


def test_what_gave_way_of_a_turn_that_was_cleared_is_not_missed() -> None:
    held = speaking(*range(1, int(KEPT_S * 50) + 3))
    held.ends("clear")

    assert held.configure("pcm16") == 0.0
