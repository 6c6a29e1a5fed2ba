import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOK = """
import os
from voicebus.cli import hiding
hiding.hide("SOME_KEY")
print(os.environ["SOME_KEY"])
print(open("/proc/self/environ").read())
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux only")
def test_what_is_hidden_is_still_known_and_no_longer_readable_from_outside() -> None:
    environment = {**os.environ, "SOME_KEY": "sk-123", "OTHER": "kept"}

    said = subprocess.run(
        [sys.executable, "-P", "-c", LOOK], env=environment, capture_output=True, text=True
    ).stdout
    known, _, seen = said.partition("\n")

    assert known == "sk-123"
    assert "sk-123" not in seen
    assert "OTHER=kept" in seen
