"""Whether this process may soon open no more files and sockets."""

import errno
import os
import resource

SPARE = 16
SPARE_SHARE = 50
"""So many, or a fiftieth of the limit, should be free: a new call takes several at once."""
NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})


def shortage() -> str | None:
    """What there is to say about it; None while there are enough."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError as error:
        if error.errno not in NONE_LEFT:
            return None
        used = limit
    return told(used, limit)


def told(used: int, limit: int) -> str | None:
    """Pure."""
    if limit - used >= max(SPARE, limit // SPARE_SHARE):
        return None
    return (
        f"{used} of {limit} file descriptors are in use: soon nothing new can be taken; raise the "
        "limit (ulimit -n, or LimitNOFILE of systemd) or let fewer in"
    )
