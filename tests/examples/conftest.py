"""One cell for all examples; what each language needs is installed, or the test says why not."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import LANGUAGE
from voicebus.cli.plan import Wish
from voicebus.cli.testing import Stack, running

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
CACHE = HERE.parents[1] / "var" / "examples"
INSTALL_S = 300.0

Need = Callable[[str], dict[str, str]]


@pytest.fixture(scope="session")
def cell() -> Iterator[Stack]:
    settings = {
        "VOICEBUS_SIMULATOR_SPEECH": "off",
        "VOICEBUS_SIMULATOR_SCENARIO": str(HERE / "weather.toml"),
    }
    with running(Wish(settings=settings)) as stack:
        yield stack


@pytest.fixture
def need(record_property: Callable[[str, object], None]) -> Need:
    """`need(language)` installs it (kept in var/) and returns the environment to run in.

    The report's last lines tell of each language whether it ran.
    """

    def install(language: str) -> dict[str, str]:
        try:
            done = subprocess.run(
                [str(EXAMPLES / "install"), language],
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
            why = done.stderr.strip().splitlines()[-1:] if done.returncode else []
            why = why or ([f"exit code {done.returncode}"] if done.returncode else [])
        except subprocess.TimeoutExpired:
            why = [f"installing took longer than {INSTALL_S:g} s"]
        if why:
            record_property(LANGUAGE, (language, f"SKIPPED, {why[0]}"))
            pytest.skip(f"{language} could not be installed: {why[0]}")
        record_property(LANGUAGE, (language, "ran"))
        return {**os.environ, "NODE_PATH": str(CACHE / "node" / "node_modules")}

    return install
