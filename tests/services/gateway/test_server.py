import socket

import pytest

from voicebus.config.settings import GatewaySettings
from voicebus.services.gateway.server import listen
from voicebus.services.runtime import CannotStart


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(CannotStart, match=f"port={port}: .*choose another port"):
            listen(GatewaySettings(bind="127.0.0.1", port=port))


def test_an_address_that_is_not_this_machines_is_named() -> None:
    with pytest.raises(CannotStart, match=r"bind='192\.0\.2\.1'"):
        listen(GatewaySettings(bind="192.0.2.1"))


def test_version_six_is_spoken_in_brackets_or_without() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
            port = other.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listen(GatewaySettings(bind="[::1]", port=port)) as listening:
        assert listening.getsockname()[:2] == ("::1", port)
