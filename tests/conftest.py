"""What holds for all tests."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
THROUGH_PROCESSES = (
    "benchmarks", "cli", "end_to_end", "examples", "services/gateway", "services/health",
    "services/relay", "services/simulator", "services/tools", "services/transport",
)  # fmt: skip
"""Folders whose tests wait for processes, sockets and a scheduler that others use as well."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test through real processes gets one second chance, and the report says that it took it.

    Machines are shared: a starved process is no fault of the code. What fails twice, fails. The
    pure tests have no such excuse and no such chance.
    """
    for item in items:
        folder = item.path.relative_to(HERE).as_posix()
        if folder.startswith(THROUGH_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))
