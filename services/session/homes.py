"""The transports as one shard sees them: who is there, who takes the next conversation. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from voicebus.bus.messages.system import State

SILENT_S = 3.0
"""A transport that has said nothing for so long gets no new conversations."""
GONE_S = 15.0
"""After that those that it has are dialled elsewhere. Longer than the health listener's patience
with a frozen transport, which may still come back with everything it holds."""


@dataclass
class _Home:
    """One transport."""

    state: str | None = None
    """None until it has spoken."""
    inc: str = ""
    pid: int = 0
    heard_s: float = 0.0
    knows: set[str] = field(default_factory=set)
    """Sessions that this start of it has numbers for: they cannot begin anew there."""


class Homes:
    """All transports of the cell. Times are the caller's, in seconds, and never run backwards."""

    def __init__(self, count: int, shard: int, now_s: float) -> None:
        self._homes = {n: _Home(heard_s=now_s) for n in range(count)}
        self._shard = shard

    def spoke(self, state: State, now_s: float) -> None:
        """A sign of life of a transport's."""
        home = self._homes.get(state.instance)
        if home is None:
            return
        if home.inc != state.inc:
            home.knows.clear()
        home.state, home.inc, home.pid = state.state, state.inc, state.pid
        home.heard_s = now_s

    def welcomed(self, number: int, inc: str, sessions: Mapping[str, int], now_s: float) -> None:
        """It has answered on the link: it is there, and has numbers for these."""
        home = self._homes[number]
        if home.inc != inc:
            # Its state will follow; until then it is as good as any.
            home.state, home.inc, home.pid = None, inc, 0
        home.heard_s = now_s
        home.knows = set(sessions)

    def died(self, number: int, pid: int | None) -> bool:
        """The health listener says so. Whether it was the one that we know and not one before."""
        home = self._homes.get(number)
        if home is None or pid is None or home.pid != pid:
            return False
        home.state, home.pid = "stopped", 0
        return True

    def left(self, number: int, session_id: str) -> None:
        """A conversation has moved away from it."""
        if number in self._homes:
            self._homes[number].knows.add(session_id)

    def forget(self, session_id: str) -> None:
        """It has ended."""
        for home in self._homes.values():
            home.knows.discard(session_id)

    def is_leaving(self, number: int) -> bool:
        """Whether it takes nothing new: it is being stopped, or has been."""
        return self._homes[number].state in ("draining", "stopped")

    def is_heard(self, number: int, now_s: float) -> bool:
        """Whether it is one of ours and has given a sign of life lately."""
        home = self._homes.get(number)
        return home is not None and now_s - home.heard_s < SILENT_S

    def is_gone(self, number: int, now_s: float) -> bool:
        """Whether its conversations should not wait for it any longer."""
        return now_s - self._homes[number].heard_s >= GONE_S

    def choose(self, load: Mapping[int, int], now_s: float) -> int:
        """For a new conversation: the least loaded of those that are well, else of all."""
        well = [n for n in self._homes if self._is_well(n, now_s)]
        return self._least(well or list(self._homes), load)

    def elsewhere(
        self, number: int, session_id: str, load: Mapping[int, int], now_s: float
    ) -> int | None:
        """For a conversation that leaves this one: the least loaded of the others that are well."""
        others = [
            n
            for n, home in self._homes.items()
            if n != number and self._is_well(n, now_s) and session_id not in home.knows
        ]
        return self._least(others, load) if others else None

    def _is_well(self, number: int, now_s: float) -> bool:
        home = self._homes[number]
        return home.state in (None, "ready") and self.is_heard(number, now_s)

    def _least(self, numbers: list[int], load: Mapping[int, int]) -> int:
        # Where all are equal, each shard begins with another one.
        count = len(self._homes)
        return min(numbers, key=lambda n: (load.get(n, 0), (n - self._shard) % count))
