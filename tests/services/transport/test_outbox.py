from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebus.bus.messages.link import EndsInput
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


def changed(*numbers: int) -> tuple[Outbox, Caller]:
    """After a change of the connection; the one before had these frames of an unended turn."""
    outbox, caller = both()
    caller.release(keep=True)
    for n in numbers:
        caller.take("tok", n, b"\0\0")
        step = outbox.next(0.0)
        assert isinstance(step, WriteSound)
        caller.wrote(step.sound)
    caller.configure("pcm16")
    return outbox, caller


def steps(outbox: Outbox, caller: Caller, now_s: float) -> list[object]:
    """Numbers of sound, and the session's frames, as they go out."""
    done: list[object] = []
    while (step := outbox.next(now_s)) is not None:
        assert isinstance(step, Write | WriteSound)
        done.append(step.sound.n if isinstance(step, WriteSound) else step.frame)
        if isinstance(step, WriteSound):
            caller.wrote(step.sound)
    return done


@pytest.mark.parametrize("after_n", [3, None])
def test_what_ends_a_turn_waits_for_what_the_connection_before_had_of_it(
    after_n: int | None,
) -> None:
    outbox, caller = changed(1, 2, 3)
    outbox.send(1, b"commit", 0.0, token="tok", after_n=after_n, ends_input="commit")
    outbox.send(2, b"create", 0.0)

    assert outbox.next(60.0) == WaitUntil(60.5), "however long the gate is shut"
    caller.release(keep=True)

    assert steps(outbox, caller, 70.0) == [1, 2, 3, b"commit", b"create"]


def test_its_time_begins_when_that_has_gone_out() -> None:
    outbox, caller = changed(1, 2)
    outbox.send(1, b"commit", 0.0, token="tok", after_n=3, ends_input="commit")
    caller.release(keep=True)
    for _ in range(2):
        step = outbox.next(60.0)
        assert isinstance(step, WriteSound)
        caller.wrote(step.sound)

    assert outbox.next(60.1) == WaitUntil(60.5)
    caller.take("tok", 3, b"\0\0")
    assert steps(outbox, caller, 60.2) == [3, b"commit"]


def test_turns_that_are_said_again_end_where_they_did() -> None:
    outbox, caller = changed(1, 2, 3, 4)
    outbox.send(1, b"commit", 0.0, token="tok", after_n=2, ends_input="commit")
    caller.release(keep=True)

    assert steps(outbox, caller, 0.1) == [1, 2, b"commit", 3, 4]
    caller.committed()
    caller.configure("pcm16")
    caller.release(keep=True)
    assert steps(outbox, caller, 0.2) == [3, 4]


def test_a_frame_that_ends_no_turn_does_not_wait_for_it() -> None:
    outbox, _ = changed(1, 2)
    outbox.send(1, b"configure", 0.0)

    assert outbox.next(0.0) == Write(1, b"configure", True, False)


def test_a_clear_that_goes_with_its_connection_takes_the_sound_along() -> None:
    outbox, caller = changed(1, 2, 3)
    outbox.send(1, b"clear", 0.0, token="tok", after_n=2, ends_input="clear")
    outbox.clear()
    caller.release(keep=True)

    assert steps(outbox, caller, 0.1) == [3]


def test_a_clear_takes_nothing_of_a_turn_whose_commit_went_with_the_same_connection() -> None:
    outbox, caller = changed(1, 2, 3, 4)
    outbox.send(1, b"commit", 0.0, token="tok", after_n=2, ends_input="commit")
    outbox.send(2, b"clear", 0.0, token="tok", after_n=3, ends_input="clear")
    outbox.clear()
    caller.release(keep=True)

    assert steps(outbox, caller, 0.1) == [1, 2, 4]


class Line:
    """A talker, a session that asks again for what is not confirmed, and a provider's buffer."""

    def __init__(self) -> None:
        self.outbox, self.caller = both()
        self.caller.release(keep=True)
        self.said = 0
        self.turn: list[int] = []
        """What the talker has said and not yet ended."""
        self.turns: list[list[int]] = []
        """What the talker has ended."""
        self.commits: list[int] = []
        """The sound before those that nobody has confirmed."""
        self.buffer: list[int] = []
        self.heard: list[list[int]] = []
        """The provider's turns of this connection that it has not confirmed."""
        self.confirmed: list[list[int]] = []

    def say(self) -> None:
        self.said += 1
        self.turn.append(self.said)
        self.caller.take("tok", self.said, b"\0\0")
        self.pump()

    def commit(self) -> None:
        if self.turn and not self.commits:
            self.turns.append(self.turn)
            self.turn = []
            self.commits.append(self.said)
            self.send(b"commit", self.said)

    def clear(self) -> None:
        if not self.commits:
            self.turn = []
            self.send(b"clear", self.said)

    def send(self, frame: bytes, after_n: int) -> None:
        how: EndsInput = "commit" if frame == b"commit" else "clear"
        self.outbox.send(1, frame, 0.0, token="tok", after_n=after_n, ends_input=how)
        self.pump()

    def confirm(self) -> None:
        if self.heard:
            self.confirmed.append(self.heard.pop(0))
            self.commits.pop(0)
            self.caller.committed()

    def change(self, *, short: bool = False, shut: bool = False) -> None:
        """Another connection; a `short` one gets little, into one that is `shut` somebody talks."""
        self.buffer, self.heard = [], []
        self.outbox.clear()
        self.caller.configure("pcm16")
        for after_n in self.commits:
            self.send(b"commit", after_n)
        if shut:
            self.say()
        self.caller.release(keep=True)
        self.pump(2 if short else None)

    def pump(self, limit: int | None = None) -> None:
        while limit is None or limit > 0:
            step = self.outbox.next(0.0)
            if isinstance(step, WriteSound):
                self.caller.wrote(step.sound)
                self.buffer.append(step.sound.n)
            elif isinstance(step, Write):
                if step.frame == b"commit":
                    self.heard.append(self.buffer)
                self.buffer = []
            else:
                return
            limit = None if limit is None else limit - 1


STEPS: dict[str, Callable[[Line], None]] = {
    "say": Line.say,
    "commit": Line.commit,
    "clear": Line.clear,
    "confirm": Line.confirm,
    "change": Line.change,
    "change in mid-repetition": partial(Line.change, short=True),
    "change while somebody talks": partial(Line.change, shut=True),
}


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=40))
def test_whenever_connections_change_each_turn_is_heard_whole_and_once(names: list[str]) -> None:
    line = Line()
    for name in names:
        STEPS[name](line)
    line.change()
    line.confirm()
    line.commit()
    line.confirm()

    assert line.confirmed == line.turns
