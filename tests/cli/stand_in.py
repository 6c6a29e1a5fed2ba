"""Stands in for Python in supervisord.conf: plays a role's part in supervision and nothing else.

Takes `-P -m voicebus.services.<role> --instance N`, as the real interpreter does. What a role does
is said by the environment: STAND_IN_<ROLE> = ready (the default), waiting, failing, refusing,
crashing, deaf (ends only by SIGKILL), parent (starts a child of its own).
"""

import asyncio
import os
import signal
import subprocess
import sys

from voicebus.config import settings
from voicebus.services.runtime import CannotStart, Runtime, run

CHILD = "import time; time.sleep(600)  # voicebus stand-in"


async def serve(runtime: Runtime[settings.Settings]) -> None:
    match os.environ.get(f"STAND_IN_{runtime.role.upper()}", "ready"):
        case "waiting":
            runtime.waiting("it waits for the moon")
        case "failing":
            runtime.failing("the moon is not there")
        case "refusing":
            raise CannotStart("there is no moon; wait for the night")
        case "refusing later":  # when supervisord already takes it for running
            await asyncio.sleep(1.5)
            raise CannotStart("there is no moon; wait for the night")
        case "crashing":
            os.kill(os.getpid(), signal.SIGKILL)
        case "deaf":
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            runtime.ready()
            await asyncio.Event().wait()
        case "parent":
            with subprocess.Popen([sys.executable, "-c", CHILD]) as child:  # noqa: ASYNC220
                runtime.ready()
                await runtime.stopping.wait()
                child.terminate()
            return
        case _:
            runtime.ready()
    await runtime.stopping.wait()


def main() -> None:
    role = sys.argv[sys.argv.index("-m") + 1].rsplit(".", 1)[-1]
    sys.argv = [role, *sys.argv[sys.argv.index("-m") + 2 :]]
    run(serve, settings.SECTIONS[role], role=role)


if __name__ == "__main__":
    main()
