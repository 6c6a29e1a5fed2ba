"""What goes to the provider next: frames of the session before sound, unless they wait for it."""

from collections import deque
from typing import NamedTuple

from voicebus.bus.messages.link import EndsInput
from voicebus.services.transport.caller import Caller, Sound

WAIT_FOR_SOUND_S = 0.5
"""How long a frame waits for the sound frame it names."""


class Write(NamedTuple):
    """Write a frame of the session."""

    n: int
    frame: bytes
    reached: bool
    tell: bool


class WriteSound(NamedTuple):
    """Wrap and write a frame of the caller's."""

    sound: Sound


class HangUpNow(NamedTuple):
    """Close the socket: everything before it has gone out."""


class WaitUntil(NamedTuple):
    """Nothing to do before that time, unless something comes."""

    s: float


class _Waiting(NamedTuple):
    n: int
    frame: bytes | None
    """None: hang up."""
    token: str | None
    after_n: int | None
    until_s: float
    tell: bool
    ends_input: EndsInput | None = None


Next = Write | WriteSound | HangUpNow | WaitUntil | None


class Outbox:
    """One connection's frames to send. Pure.

    The session's frames keep their order among themselves: what follows a frame that waits for
    sound waits as well, for at most 500 ms. Sound that was said after such a frame waits for it.
    What ends a turn waits for what this connection lacks of it, however long that takes.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._waiting: deque[_Waiting] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def send(
        self,
        n: int,
        frame: bytes,
        now_s: float,
        *,
        token: str | None = None,
        after_n: int | None = None,
        tell: bool = False,
        ends_input: EndsInput | None = None,
    ) -> None:
        """A frame of the session's, once it is its turn."""
        until_s = now_s + WAIT_FOR_SOUND_S
        self._waiting.append(_Waiting(n, frame, token, after_n, until_s, tell, ends_input))
        self.bytes += len(frame)

    def hang_up(self, n: int, now_s: float, *, token: str | None, after_n: int | None) -> None:
        """Close the socket, once it is its turn."""
        self._waiting.append(_Waiting(n, None, token, after_n, now_s + WAIT_FOR_SOUND_S, False))

    def clear(self) -> int:
        """Forget what was not sent; returns how many frames that were."""
        count = len(self._waiting)
        for one in self._waiting:
            self.refused(one.token, one.after_n, one.ends_input)
        self._waiting.clear()
        self.bytes = 0
        return count

    def refused(
        self, token: str | None, after_n: int | None, ends_input: EndsInput | None = None
    ) -> None:
        """A frame will not be sent: what was said after it waits for nothing."""
        if after_n is not None:
            self._caller.performed(token, after_n)
        if ends_input == "clear":
            self._caller.cleared(token, after_n)
        elif ends_input == "commit":
            self._caller.owes(token, after_n)

    def next(self, now_s: float) -> Next:
        """Takes out what is to be done now; None: nothing until something comes."""
        if not self._waiting:
            return self._sound(now_s)
        first = self._waiting[0]
        if first.ends_input is not None and self._caller.has_again:
            # That is here, unlike what the others wait for: their time begins when it has gone out.
            first = self._waiting[0] = first._replace(until_s=now_s + WAIT_FOR_SOUND_S)
        reached = self._has_reached(first)
        if not reached and now_s < first.until_s:
            # What was given before this one is done, or was refused: the sound that this one waits
            # for waits for nothing any more.
            if first.after_n is not None:
                self._caller.performed(first.token, first.after_n - 1)
            todo = self._sound(now_s, first.until_s)
            # Frames without a sample are passed over: perhaps that was what it waited for.
            reached = self._has_reached(first)
            if isinstance(todo, WriteSound) or not reached:
                return todo
        self._waiting.popleft()
        if first.after_n is not None:
            self._caller.performed(first.token, first.after_n)
        if first.ends_input is not None:
            self._caller.ends(first.ends_input)
        if first.frame is None:
            return HangUpNow()
        self.bytes -= len(first.frame)
        return Write(first.n, first.frame, reached, first.tell)

    def _has_reached(self, one: _Waiting) -> bool:
        """Whether the sound before it has gone out."""
        if one.after_n is not None:
            return self._caller.has_written(one.token, one.after_n)
        return one.ends_input is None or not self._caller.has_again

    def _sound(self, now_s: float, until_s: float | None = None) -> Next:
        sound = self._caller.next(now_s)
        if sound is not None:
            return WriteSound(sound)
        times = [one for one in (until_s, self._caller.waits_until(now_s)) if one is not None]
        return WaitUntil(min(times)) if times else None
