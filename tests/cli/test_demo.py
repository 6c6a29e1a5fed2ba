"""What the demo prints at its end."""

import pytest

from voicebus.cli import demo


@pytest.mark.parametrize(
    ("from_report_ms", "row"),
    [
        (2.0, ("report of speech to silence", 2.0)),
        (-3.0, ("silence ahead of the report of speech", 3.0)),
        (None, ("report of speech to silence", None)),
    ],
)
def test_silence_may_come_before_the_event_that_tells_why(
    from_report_ms: float | None, row: tuple[str, float | None]
) -> None:
    assert demo.silence(from_report_ms) == row
