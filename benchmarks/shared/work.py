"""What tools do to whoever runs them: sleep, burn Python, burn C. Standard library only."""

import time


def sleeps(seconds: float) -> None:
    """Waits; the interpreter is free meanwhile."""
    time.sleep(seconds)


def spins(seconds: float) -> None:
    """A loop in Python: the interpreter is shared, five milliseconds at a time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def holds(seconds: float) -> None:
    """One call into C that never releases the interpreter's lock until the time is over.

    Like a large regular expression, a parser or a numeric routine that forgets to.
    """
    until = time.monotonic() + seconds
    any(map(until.__lt__, iter(time.monotonic, None)))


KINDS = {"sleeps": sleeps, "spins": spins, "holds": holds}
