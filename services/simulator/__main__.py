"""`python -P -m voicebus.services.simulator`: the simulator as a process."""

from typing import NoReturn

from voicebus.config.settings import SimulatorSettings
from voicebus.services.runtime import CannotStart, Runtime, run
from voicebus.services.simulator import packages
from voicebus.services.simulator.packages import SpeechMissing
from voicebus.services.simulator.scenario import BadScenario, Scenario
from voicebus.services.simulator.server import Options, load_scenario, running


async def serve(runtime: Runtime[SimulatorSettings]) -> None:
    """Listen until told to stop."""
    settings = runtime.settings
    try:
        scenario = load_scenario(settings.scenario) if settings.scenario else None
        options = Options(
            host=settings.host,
            port=settings.port,
            key=settings.key,
            speaks=_speaks(runtime, scenario),
        )
        if scenario is not None:
            options = options.with_scenario(scenario)
        async with running(options) as server:
            runtime.log.info("simulator.listening", url=server.url, speaks=options.speaks)
            runtime.ready()
            await runtime.stopping.wait()
    except (BadScenario, SpeechMissing) as error:
        raise CannotStart(str(error)) from None
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "end what listens there or choose another --port"
        ) from None


def _speaks(runtime: Runtime[SimulatorSettings], scenario: Scenario | None) -> bool:
    match runtime.settings.speech:
        case "on":
            return True
        case "off":
            return False
        case "auto":
            if scenario is not None and scenario.server.speech == "off":
                return False
            missing = packages.missing()
            if missing is not None:
                runtime.log.warning("speech.missing", why=missing)
            return missing is None
        case other:
            raise CannotStart(f"speech={other!r}: use auto, on or off")


def main() -> NoReturn:
    """Run the simulator until it is told to stop."""
    run(serve, SimulatorSettings, role="simulator")


if __name__ == "__main__":
    main()
