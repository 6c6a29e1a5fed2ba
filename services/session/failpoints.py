"""Named places of the write path where a test may kill the process: `committed:3`, the third time.

Set by `VOICEBUS_SESSION_FAILPOINT`; without it a place costs one comparison.
"""

import os
import signal

PLACES = ("decided", "committed", "published", "sent", "answered", "acknowledged")
"""In the order of the write path; each stands for "this is done, the next is not"."""


class BadFailpoint(ValueError):
    """A failpoint that does not exist."""


class Failpoints:
    """At most one is armed."""

    def __init__(self, setting: str | None) -> None:
        """Raises BadFailpoint for a place that does not exist."""
        self._place, self._left = "", 0
        if setting:
            place, _, times = setting.partition(":")
            if place not in PLACES or not (times or "1").isdigit():
                raise BadFailpoint(
                    f"failpoint={setting!r}: use PLACE:TIMES with one of {', '.join(PLACES)}"
                )
            self._place, self._left = place, int(times or "1")

    def reached(self, place: str) -> None:
        """Dies here, as by SIGKILL, when armed for this place."""
        if place != self._place:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
