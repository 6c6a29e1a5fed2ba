"""Start: `voicebus up` until everything is ready; imports and memory of each process."""

import subprocess
import tempfile
import time
from contextlib import ExitStack

from voicebus.benchmarks.figures import Result, Table
from voicebus.benchmarks.harness import PYTHON, Provider, Scale, cell, pss_mb
from voicebus.cli.chaos_stack import free_ports
from voicebus.cli.testing import Stack

MODULES = {
    "transport-0": "voicebus.services.transport.main",
    "session-0": "voicebus.services.session.main",
    "dispatcher-0": "voicebus.services.tools.dispatcher",
    "toolhost-0": "voicebus.services.tools.toolhost",
    "health-0": "voicebus.services.health.main",
    "gateway-0": "voicebus.services.gateway.main",
    "relay-0": "voicebus.services.relay.main",
    "recorder-0": "voicebus.services.recorder.main",
}


def import_ms(module: str) -> float:
    """Until a Python has imported this, in milliseconds: the fastest of three.

    Its end costs a tenth more, and no service pays it.
    """
    took = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([*PYTHON, "-c", f"import os, {module}; os._exit(0)"], check=True)
        took.append((time.perf_counter() - began) * 1000)
    return min(took)


def _started(provider: Provider, running: ExitStack, **settings: str) -> tuple[Stack, float]:
    """A cell, and how long it took to be ready, in milliseconds."""
    began = time.monotonic()
    stack = running.enter_context(cell(provider, None, **settings))
    return stack, (time.monotonic() - began) * 1000


def run(scale: Scale) -> Result:
    """Once per repetition: what a cell has without being asked, and with all doors."""
    table = Table(
        "Start",
        ("what", "run", "to ready ms", "import ms", "PSS MB"),
        note="import: a Python process until it has imported the service's main, the fastest of "
        "three; a Python that imports nothing stands in the last row. Gateway, relay and recorder "
        "run only where the settings ask for them.",
    )
    result = Result([table])
    imports = {name: import_ms(module) for name, module in MODULES.items()}
    for name, took_ms in imports.items():
        result.note(f"start.{name}.import_ms", took_ms)
    for run_number in range(scale.repeats):
        shown: set[str] = set()
        for what, key, asked in (
            ("voicebus up", "start.ready_ms", {}),
            ("voicebus up, with gateway, relay, recorder", "start.all.ready_ms", _doors()),
        ):
            with ExitStack() as running:
                if asked:
                    folder = tempfile.TemporaryDirectory(prefix="vb")
                    asked["recorder_folder"] = running.enter_context(folder)
                provider = running.enter_context(Provider())
                stack, ready_ms = _started(provider, running, **asked)
                result.note(key, ready_ms)
                table.add(what, run_number + 1, ready_ms, "", "")
                for name, pid in stack.pids().items():
                    if name in shown:
                        continue
                    shown.add(name)
                    memory = pss_mb(pid)
                    table.add(name, run_number + 1, "", imports.get(name, ""), memory)
                    result.note(f"start.{name}.mb", memory)
    table.add("python", "", "", import_ms("sys"), "")
    return result


def _doors() -> dict[str, str]:
    """Settings that have every process run."""
    gateway, relay = free_ports(2)
    return {
        "gateway_bind": "127.0.0.1",
        "gateway_port": str(gateway),
        "relay_bind": "127.0.0.1",
        "relay_port": str(relay),
        "relay_curve": "false",
        "recorder_keep_free_mb": "0",
    }
