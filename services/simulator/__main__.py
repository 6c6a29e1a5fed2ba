"""`python -P -m voicebus.services.simulator`: the simulator as a process."""

from typing import NoReturn

from voicebus.config.settings import SimulatorSettings
from voicebus.services.runtime import CannotStart, Runtime, run
from voicebus.services.simulator.server import Options, running


async def serve(runtime: Runtime[SimulatorSettings]) -> None:
    """Listen until told to stop."""
    settings = runtime.settings
    options = Options(host=settings.host, port=settings.port, key=settings.key)
    try:
        async with running(options) as server:
            runtime.log.info("simulator.listening", url=server.url)
            runtime.ready()
            await runtime.stopping.wait()
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "end what listens there or choose another --port"
        ) from None


def main() -> NoReturn:
    """Run the simulator until it is told to stop."""
    run(serve, SimulatorSettings, role="simulator")


if __name__ == "__main__":
    main()
