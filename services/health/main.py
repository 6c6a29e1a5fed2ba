"""The health listener's main: standard output belongs to supervisord's protocol."""

import os
from typing import NoReturn

from voicebus.config.settings import HealthSettings
from voicebus.services.health.listener import Listener
from voicebus.services.runtime import CannotStart, Runtime, run


async def serve(runtime: Runtime[HealthSettings], protocol: int) -> None:
    """Watch until told to stop."""
    if "SUPERVISOR_ENABLED" not in os.environ:
        raise CannotStart(
            "this is an event listener of supervisord and is started by it alone "
            "([eventlistener:health-0] of supervisord.conf)"
        )
    listener = Listener(runtime, protocol)
    await listener.run()


def main() -> NoReturn:
    """Never returns."""
    # Whatever anybody prints goes to the log: one stray line would end the protocol.
    protocol = os.dup(1)
    os.set_inheritable(protocol, False)
    os.dup2(2, 1)

    async def serving(runtime: Runtime[HealthSettings]) -> None:
        await serve(runtime, protocol)

    run(serving, HealthSettings, role="health")
