"""Who is connected to the doors, and who must wait outside. Pure: time is handed in.

libzmq takes every connection, keeps it for the time of a handshake, and ends the process when
it runs out of descriptors. So connections are counted before anybody has said who he is.
"""

from collections import Counter

from voicebus.services.limits import Buckets

Key = tuple[int, int]
"""Door and descriptor."""


class Connections:
    """Counts them: in all, from one address, and how fast new ones come from it."""

    def __init__(self, *, in_all: int, from_one: int, per_s: int) -> None:
        self._in_all = in_all
        self._from_one = from_one
        self._per_s = per_s
        self._rate = Buckets(per_s)
        self._address: dict[Key, str] = {}
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._address)

    def came(self, key: Key, address: str, now_s: float) -> str | None:
        """A new one: None when it may stay, else the limit that it is beyond, for people."""
        self.left(key)  # its descriptor was another's, whose end was not told
        if self._rate.take(address, 1, now_s):
            return f"handshakes_per_s={self._per_s} from one address"
        if self._of[address] >= self._from_one:
            return f"connections_per_address={self._from_one}"
        if len(self._address) >= self._in_all:
            return f"connections={self._in_all}"
        self._address[key] = address
        self._of[address] += 1
        return None

    def left(self, key: Key) -> None:
        """It is gone; also told of those that were not let in."""
        address = self._address.pop(key, None)
        if address is None:
            return
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]
