"""Ports for servers that come later: nobody else is given them meanwhile."""

import contextlib
import socket
import sys
from collections.abc import Iterator

_held: list[socket.socket] = []
"""Bound and not listening, to the end of this process: who wants to listen there still can, who
connects is refused, and the system gives the port to nobody, nor to a connection of ours."""


def free_port() -> int:
    """One that is the caller's from here on."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many in a row."""
    for _ in range(100):
        with contextlib.suppress(OSError), contextlib.ExitStack() as bound:
            first, *_ = ports = list(_bound(count, bound))
            # Elsewhere than on Linux a port that is bound cannot be bound again in order to listen.
            if sys.platform == "linux":
                _held.extend(ports)
                bound.pop_all()
            return int(first.getsockname()[1])
    raise RuntimeError(f"no {count} free ports in a row")


def _bound(count: int, bound: contextlib.ExitStack) -> Iterator[socket.socket]:
    port = 0
    for _ in range(count):
        one = bound.enter_context(socket.socket())
        one.bind(("127.0.0.1", port))
        # Only now: before, one that another holds in this way would be given, too.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = one.getsockname()[1] + 1
        yield one
