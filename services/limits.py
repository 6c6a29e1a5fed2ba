"""So much a second, with some to spare: a token bucket, with time handed in. Pure."""


class Bucket:
    """Holds at most a second's worth; what is taken flows back evenly."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = per_s
        self._at_s: float | None = None

    def take(self, amount: float, now_s: float) -> float:
        """0 when it was taken, else the seconds after which it can be. More than it can hold takes
        all of it."""
        amount = min(amount, self._per_s)
        if self._at_s is not None:
            self._left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if amount > self._left:
            return (amount - self._left) / self._per_s
        self._left -= amount
        return 0.0


class Buckets:
    """One bucket for each name; those long unused are forgotten."""

    def __init__(self, per_s: float, *, kept: int = 10_000) -> None:
        self._per_s = per_s
        self._kept = kept
        self._buckets: dict[str, Bucket] = {}

    def take(self, name: str, amount: float, now_s: float) -> float:
        """As Bucket.take, of that name's own."""
        bucket = self._buckets.pop(name, None) or Bucket(self._per_s)
        self._buckets[name] = bucket  # the newest last
        if len(self._buckets) > self._kept:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(amount, now_s)
