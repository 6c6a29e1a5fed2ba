import logging

import pytest

from voicebus.client.logs import log


def test_what_the_client_logs_goes_to_pythons_logging_and_never_to_standard_output(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="voicebus.client"):
        log.warning("ping.failed", session_id="s0-x")

    assert caplog.messages == ["event='ping.failed' session_id='s0-x'"]
    assert capsys.readouterr().out == ""
