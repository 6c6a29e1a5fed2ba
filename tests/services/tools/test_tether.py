"""A program on a tether is the program itself, as anybody would have started it."""

import signal
import subprocess

from voicebus.services.tools import tether


def test_it_becomes_the_program_with_its_arguments() -> None:
    done = subprocess.run(
        tether.command("sh", ["-c", 'echo "$0|$1|$2"', "a", "b c", ""]),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "a|b c|\n"


def test_the_program_ignores_no_signal_that_python_does() -> None:
    done = subprocess.run(tether.command("sh", ["-c", "kill -PIPE $$"]), check=False)

    assert done.returncode == -signal.SIGPIPE


def test_whose_parent_has_ended_meanwhile_begins_nothing() -> None:
    python, *options, parent, program, word = tether.command("echo", ["hello"])
    done = subprocess.run(
        [python, *options, str(int(parent) + 1), program, word],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == ""
