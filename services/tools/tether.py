"""Becomes another program, which ends when its parent does, in whatever way that ends (Linux).

python -P -m voicebus.services.tools.tether PARENT PROGRAM ARGUMENT…
"""

import os
import signal
import sys
from collections.abc import Sequence

from voicebus.services.tools import confine


def command(program: str, arguments: Sequence[str]) -> list[str]:
    """What to start instead of that program; for a child of this process."""
    module = "voicebus.services.tools.tether"
    return [sys.executable, "-P", "-m", module, str(os.getpid()), program, *arguments]


def main() -> None:
    """Returns only when the parent has ended meanwhile."""
    parent, program, *arguments = sys.argv[1:]
    confine.die_with_parent()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what it becomes would, too
    if os.getppid() == int(parent):
        os.execvp(program, [program, *arguments])


if __name__ == "__main__":
    main()
