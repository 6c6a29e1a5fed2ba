"""Every line of the core is run by the test file of its own module, not by a neighbour's luck."""

import subprocess
import sys
from pathlib import Path

import pytest

OWN_LINES = Path(__file__).with_name("own_lines.py")


@pytest.mark.timeout(300)  # 8 s of work, on a machine that may have other work
def test_every_line_of_the_core_is_run_by_the_tests_of_its_own_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-P", str(OWN_LINES)], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_module_without_tests_of_its_own_is_named() -> None:
    ran = subprocess.run(
        [sys.executable, "-P", str(OWN_LINES), "dancing"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert ran.stdout == ("core/dancing.py has no test file of its own: write test_dancing.py\n")
