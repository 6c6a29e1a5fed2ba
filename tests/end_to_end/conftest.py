"""Cells for end-to-end tests: every process, under supervisord, with the simulator's script.

`start_stack(...)` starts one with what the test needs; `stack` is a fresh one with the defaults;
`shared_stack` is one for all tests of a module that leave it as they found it, as is what
`start_shared_stack(...)` starts. `cell` is the cell of a module, with the tools that write `acts`
down unless the module has its own. No test gets one that another has broken: it is made anew.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NEW_CELL
from tests.end_to_end.cells import SCENARIO, Acts
from tests.end_to_end.published import watching
from voicebus.cli import stack as stacks
from voicebus.cli.plan import Wish
from voicebus.cli.testing import LeftBehind, Stack, running

StartStack = Callable[..., Stack]
"""`start_stack(scenario=…, tools=[…], settings={"VOICEBUS_…": "…"}, environment={…}, …)`."""

COMES_BACK_S = 15.0
"""How long a role may take to be ready again that the test before has killed or restarted."""


@dataclass(eq=False)
class Shared:
    """A cell that the tests of a module share."""

    cell: Stack
    what: dict[str, Any]
    closing: contextlib.ExitStack

    def fault(self) -> str | None:
        """Why it is not whole: what is not ready, and does not become so."""
        until = time.monotonic() + COMES_BACK_S
        while True:
            found = {one.name: one.state for one in stacks.status(self.cell.run_dir).processes}
            states = {name: found.get(name, "missing") for name in self.cell.names}
            amiss = [f"{name} is {state}" for name, state in states.items() if state != "ready"]
            if not amiss:
                return None
            if time.monotonic() > until or not {"stopped", "missing"}.isdisjoint(states.values()):
                return ", ".join(amiss)
            time.sleep(0.1)

    def renew(self) -> str:
        """Another cell in its place, also for those who hold it already. What the old one left."""
        left = ""
        try:
            self.closing.close()
        except LeftBehind as error:
            left = f"; {error}"
        # In place: fixtures of the module have it by reference.
        self.cell.__dict__.update(vars(self.closing.enter_context(_stack(**self.what))))
        return left


_open: list[Stack] = []
_shared: list[Shared] = []


def shared_one(cell: Stack) -> Shared:
    """How that cell is shared."""
    return next(one for one in _shared if one.cell is cell)


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


@pytest.fixture(autouse=True)
def _as_published(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that the SDK sends and gets in a test follows the committed schemas."""
    with watching(monkeypatch):
        yield


@pytest.fixture
def start_stack() -> Iterator[StartStack]:
    with contextlib.ExitStack() as cells:

        def start(**what: Any) -> Stack:
            return cells.enter_context(_stack(**what))

        yield start


@pytest.fixture(scope="module")
def start_shared_stack() -> Iterator[StartStack]:
    """As start_stack, for cells that all tests of a module share."""
    with contextlib.ExitStack() as cells:

        def start(**what: Any) -> Stack:
            closing = cells.enter_context(contextlib.ExitStack())
            one = Shared(closing.enter_context(_stack(**what)), what, closing)
            _shared.append(one)
            cells.callback(_shared.remove, one)
            return one.cell

        yield start


@pytest.fixture(autouse=True)
async def _as_started(request: pytest.FixtureRequest) -> None:
    """What an earlier test has broken, this one does not get."""
    for one in _shared:
        why = await asyncio.to_thread(one.fault)  # it runs a loop of its own
        if why is not None:
            left = await asyncio.to_thread(one.renew)
            request.node.user_properties.append((NEW_CELL, why + left))


@pytest.fixture
def stack(start_stack: StartStack) -> Stack:
    return start_stack()


@pytest.fixture(scope="module")
def shared_stack(start_shared_stack: StartStack) -> Stack:
    return start_shared_stack()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for one in _open:
            for name, lines in one.logs().items():
                report.sections.append((f"{name}.log of {one.run_dir}", "\n".join(lines)))
    return report


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> Acts:
    """What the tools of this module's cell did."""
    return Acts(tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="module")
def cell(start_shared_stack: StartStack, acts: Acts) -> Stack:
    """The cell of this module, unless it has one of its own."""
    return start_shared_stack(scenario=SCENARIO, tools=acts.specs)
