"""A follower that does not keep up until it is told to: the example's own code, held back.

slow_listener.py MODE RUN_FOLDER SESSION_ID     MODE: `still` reads nothing, `tenth` 500 a second

A line on standard input lets it go at full speed.
"""

import importlib.util
import sys
import threading
import time
from pathlib import Path

path = Path(__file__).parents[3] / "examples" / "python" / "follow.py"
spec = importlib.util.spec_from_file_location("follow", path)
assert spec is not None
assert spec.loader is not None
follow = importlib.util.module_from_spec(spec)
spec.loader.exec_module(follow)

mode, run, session = sys.argv[1:4]
released = threading.Event()


def _wait_for_a_line() -> None:
    sys.stdin.readline()
    released.set()


threading.Thread(target=_wait_for_a_line, daemon=True).start()


class Slow(follow.Follower):  # type: ignore[misc,name-defined]
    """Holds itself back."""

    def came(self, event: dict[str, object], *, live: bool) -> None:
        super().came(event, live=live)
        if event["kind"] == "welcome" and mode == "still":
            released.wait()
        elif not released.is_set():
            time.sleep(0.002)


Slow(run, session, 0).run()
