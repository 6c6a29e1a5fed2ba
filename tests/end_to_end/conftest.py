"""Cells for end-to-end tests: every process, under supervisord, with the simulator's script.

`start_stack(...)` starts one with what the test needs; `stack` is a fresh one with the defaults;
`shared_stack` is one for all tests of a module that leave it as they found it, as is what
`start_module_stack(...)` starts.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.published import watching
from voicebus.cli.plan import Wish
from voicebus.cli.testing import Stack, running

StartStack = Callable[..., Stack]
"""`start_stack(scenario=…, tools=[…], settings={"VOICEBUS_…": "…"}, environment={…}, …)`."""

_open: list[Stack] = []


@contextlib.contextmanager
def _stack(
    *,
    scenario: str | Path | None = None,
    speech: bool = False,
    tools: tuple[str, ...] | list[str] = (),
    settings: dict[str, str] | None = None,
    **wish: Any,
) -> Iterator[Stack]:
    all_settings = {"VOICEBUS_SIMULATOR_SPEECH": "on" if speech else "off", **(settings or {})}
    if scenario is not None:
        all_settings["VOICEBUS_SIMULATOR_SCENARIO"] = str(scenario)
    with running(Wish(tools=tuple(tools), settings=all_settings, **wish)) as one:
        _open.append(one)
        try:
            yield one
        finally:
            _open.remove(one)


@contextlib.contextmanager
def _starter() -> Iterator[StartStack]:
    with contextlib.ExitStack() as open_ones:

        def start(**what: Any) -> Stack:
            return open_ones.enter_context(_stack(**what))

        yield start


@pytest.fixture(autouse=True)
def _as_published(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that the SDK sends and gets in a test follows the committed schemas."""
    with watching(monkeypatch):
        yield


@pytest.fixture
def start_stack() -> Iterator[StartStack]:
    with _starter() as start:
        yield start


@pytest.fixture(scope="module")
def start_module_stack() -> Iterator[StartStack]:
    with _starter() as start:
        yield start


@pytest.fixture
def stack(start_stack: StartStack) -> Stack:
    return start_stack()


@pytest.fixture(scope="module")
def shared_stack() -> Iterator[Stack]:
    with _stack() as one:
        yield one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for one in _open:
            for name, lines in one.logs().items():
                report.sections.append((f"{name}.log of {one.run_dir}", "\n".join(lines)))
    return report


@pytest.fixture(scope="module")
def start_shared_stack() -> Iterator[StartStack]:
    """As start_stack, for cells that all tests of a module share."""
    with contextlib.ExitStack() as cells:

        def start(**what: Any) -> Stack:
            return cells.enter_context(_stack(**what))

        yield start
