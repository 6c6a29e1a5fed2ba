"""Named places of the write path where a test may kill the process: `committed:3`, the third time.

`sent/response.create:1`: right after the first frame of that type has gone to the transport, before
anything is acknowledged. Set by `VOICEBUS_SESSION_FAILPOINT`; without it a place costs one
comparison.
"""

import os
import signal
import time

PLACES = ("decided", "told", "committed", "published", "sent", "answered", "acknowledged")
"""In the order of the write path; each stands for "this is done, the next is not". `told` counts
only where there was a flush or a cancel to tell."""
ON_ITS_WAY_S = 0.1
"""What was sent has left this process by then: ZeroMQ sends on a thread of its own."""


class BadFailpoint(ValueError):
    """A failpoint that does not exist."""


class Failpoints:
    """At most one is armed."""

    def __init__(self, setting: str | None) -> None:
        """Raises BadFailpoint for a place that does not exist."""
        self._place, self._frame, self._left = "", b"", 0
        if setting:
            where, _, times = setting.partition(":")
            place, _, frame = where.partition("/")
            is_known = place in PLACES and (not frame or place == "sent")
            if not is_known or not (times or "1").isdigit():
                raise BadFailpoint(
                    f"failpoint={setting!r}: use PLACE:TIMES with one of {', '.join(PLACES)}, "
                    "or sent/FRAME_TYPE:TIMES"
                )
            self._place, self._left = where, int(times or "1")
            self._frame = f'"type":"{frame}"'.encode() if frame else b""

    def reached(self, place: str) -> None:
        """Dies here, as by SIGKILL, when armed for this place."""
        if place != self._place:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def told(self) -> None:
        """As `reached`, of a flush or a cancel that has just been sent."""
        if self._place == "told":
            time.sleep(ON_ITS_WAY_S)
            self.reached("told")

    def sent(self, frame: bytes | None) -> None:
        """As `reached`, of a frame that has just been sent."""
        if self._frame and frame is not None and self._frame in frame:
            time.sleep(ON_ITS_WAY_S)
            self.reached(self._place)
