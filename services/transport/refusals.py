"""Refused sound frames: counted always, told on the system lane at most once a second each."""

from voicebus.bus.messages.sound import SoundRefused
from voicebus.services.pace import Pace
from voicebus.services.transport.moment import Moment

TELL_EVERY_S = 1.0


class Refusals:
    """What was refused since it was last told, by reason. Pure."""

    def __init__(self, instance: int, inc: str) -> None:
        self._instance = instance
        self._inc = inc
        self._count: dict[str, int] = {}
        self._pace = Pace(TELL_EVERY_S)

    def note(self, reason: str, text: str, now: Moment) -> SoundRefused | None:
        """One more. Returns the message to publish, or None when it is too early."""
        count = self._count[reason] = self._count.get(reason, 0) + 1
        if not self._pace.is_due(reason, now.s):
            return None
        self._count[reason] = 0
        return SoundRefused(
            instance=self._instance,
            inc=self._inc,
            at_us=now.us,
            reason=reason,
            text=text,
            count=count,
        )
