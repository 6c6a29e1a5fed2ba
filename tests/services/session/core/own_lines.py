"""Which lines of the core are not run by the test file of their own module.

`python -P tests/services/session/core/own_lines.py [MODULE ...]` runs the test files once, under
coverage, each in a context of its own; what only a neighbour's tests run counts as not run. Prints
a line per module that lacks something and exits with 1, or says that none does. About 8 s.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import coverage
import pytest

from voicebus.services.session import core

TESTS = Path(__file__).parent
CORE = Path(core.__file__).parent.resolve()
WITHOUT = frozenset({"__init__", "capabilities", "effects", "inputs", "state"})
"""Modules without tests of their own. They only declare: to import them runs all of their lines."""
IMPORTED = ""
"""The context of what runs while test files are collected, imports above all."""


def modules() -> list[str]:
    """The modules of the core."""
    return sorted(path.stem for path in CORE.glob("*.py"))


def test_file(module: str) -> Path:
    """Where the module's own tests are, or would be."""
    return TESTS / f"test_{module}.py"


class Contexts:
    """A pytest plugin that tells coverage whose tests are running."""

    def __init__(self, cov: coverage.Coverage) -> None:
        self._cov = cov

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """What runs from here on is run by this test's file."""
        self._cov.switch_context(item.path.stem)
        try:
            return (yield)
        finally:
            self._cov.switch_context(IMPORTED)


def missing(wanted: Sequence[str]) -> dict[str, list[int]]:
    """Per module the lines that its own test file does not run. Raises where a test fails."""
    # The one of Python 3.14 sees a line once, in whichever context comes first.
    os.environ["COVERAGE_CORE"] = "ctrace"
    cov = coverage.Coverage(data_file=None, config_file=False, include=[f"{CORE}/*"])
    files = [test_file(module) for module in wanted if module not in WITHOUT]
    cov.start()
    failed = pytest.main(
        ["-q", "-p", "no:cacheprovider", *map(str, files)], plugins=[Contexts(cov)]
    )
    cov.stop()
    if failed:
        raise RuntimeError("the tests of the core fail: see above")
    data = cov.get_data()
    found = {}
    for module in wanted:
        path = str(CORE / f"{module}.py")
        data.set_query_contexts([f"^test_{module}$", f"^{IMPORTED}$"])
        own = coverage.Coverage(data_file=None, config_file=False)
        own.get_data().add_lines({path: data.lines(path) or []})
        # A statement over several lines has run when one of them has; which one that is told as,
        # differs between versions of Python.
        found[module] = own.analysis2(path)[3]
    return found


def main(arguments: Sequence[str]) -> int:
    """Print what is missing; the exit code says whether anything is."""
    wanted = arguments or modules()
    wrong = [
        f"core/{module}.py has no test file of its own: write {test_file(module).name}"
        for module in wanted
        if module not in WITHOUT and not test_file(module).exists()
    ]
    if not wrong:
        wrong = [
            f"core/{module}.py: {test_file(module).name} does not run line(s) "
            + ", ".join(map(str, lines))
            for module, lines in missing(wanted).items()
            if lines
        ]
    sys.stdout.write("\n".join(wrong or ["every line is run by its own module's tests"]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
