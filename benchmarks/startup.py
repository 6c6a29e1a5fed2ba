"""Start: `voicebus up` until everything is ready; imports and memory of each process."""

import subprocess
import time

from voicebus.benchmarks.figures import Result, Table
from voicebus.benchmarks.harness import PYTHON, Provider, Scale, cell, pss_mb

MODULES = {
    "transport-0": "voicebus.services.transport.main",
    "session-0": "voicebus.services.session.main",
    "dispatcher-0": "voicebus.services.tools.dispatcher",
    "toolhost-0": "voicebus.services.tools.toolhost",
}


def import_ms(module: str) -> float:
    """A Python that imports this and ends; the fastest of three."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([*PYTHON, "-c", f"import {module}"], check=True)
        took.append((time.perf_counter() - began) * 1000)
    return min(took)


def run(scale: Scale) -> Result:
    """Once per repetition."""
    table = Table(
        "Start",
        ("what", "run", "to ready ms", "import ms", "PSS MB"),
        note="import: a Python process that imports the service's main and ends, the fastest of "
        "three; a Python that imports nothing stands in the last row.",
    )
    result = Result([table])
    imports = {name: import_ms(module) for name, module in MODULES.items()}
    for run_number in range(scale.repeats):
        with Provider() as provider:
            began = time.monotonic()
            with cell(provider) as stack:
                ready_ms = (time.monotonic() - began) * 1000
                result.note("start.ready_ms", ready_ms)
                table.add("voicebus up, all", run_number + 1, ready_ms, "", "")
                for name, pid in stack.pids().items():
                    memory = pss_mb(pid)
                    table.add(name, run_number + 1, "", imports.get(name, ""), memory)
                    result.note(f"start.{name}.mb", memory)
    table.add("python", "", "", import_ms("sys"), "")
    return result
