"""What holds for all tests."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).parent
THROUGH_PROCESSES = (
    "benchmarks", "cli", "end_to_end", "examples", "services/gateway", "services/health",
    "services/relay", "services/simulator", "services/tools", "services/transport",
)  # fmt: skip
"""Folders whose tests wait for processes, sockets and a scheduler that others use as well."""
TOGETHER = ("examples",)
"""Folders whose tests share what they have started or installed; else those of a file do."""
WHY_LIMIT = 300
LANGUAGE = "language of an example"
"""The property of a report that holds a language and what became of its example."""
NEW_CELL = "new cell"
"""The property of a report that says why a shared cell was made anew before its test."""

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile(
    "busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")

# A shell ignores it for what it starts in the background, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker whole files: what a test may share, or see of another, stays in its file.

    xdist's own `loadgroup` does nothing from pytest 9.2 on, and says nothing of it.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].removeprefix(f"{HERE.name}/")
        return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    """For `make test`, which runs several at a time."""
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test through real processes gets two more chances, and the report says why it took them.

    Machines are shared: a starved process is no fault of the code. What fails three times, fails.
    The pure tests have no such excuse and no such chance. They come last: small files at the end
    keep all workers busy until it is there.
    """
    items.sort(key=lambda item: not _is_through_processes(item))
    for item in filter(_is_through_processes, items):
        item.add_marker(pytest.mark.flaky(reruns=2))


def _is_through_processes(item: pytest.Item) -> bool:
    return item.path.relative_to(HERE).as_posix().startswith(THROUGH_PROCESSES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why tests took another chance; which examples in other languages ran or were skipped."""
    for report in terminalreporter.stats.get("rerun", ()):
        why = getattr(getattr(report.longrepr, "reprcrash", None), "message", report.longrepr)
        line = " ".join(str(why).split())[:WHY_LIMIT]
        terminalreporter.write_line(f"another chance: {report.nodeid}: {line}")
    for report in (one for reports in terminalreporter.stats.values() for one in reports):
        for name, why in getattr(report, "user_properties", ()):
            if name == NEW_CELL and report.when == "teardown":
                terminalreporter.write_line(f"another cell: {report.nodeid}: {why}")
    told = {
        what
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, what in getattr(report, "user_properties", ())
        if name == LANGUAGE
    }
    if told:
        each = "; ".join(f"{language}: {what}" for language, what in sorted(map(tuple, told)))
        terminalreporter.write_line(f"language examples: {each}")
