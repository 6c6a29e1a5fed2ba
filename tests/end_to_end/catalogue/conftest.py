"""One cell for the whole catalogue; its provider is whatever the test plays."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.catalogue.playing import PORT
from tests.end_to_end.cells import DEMO_TOOLS
from voicebus.cli.plan import Wish
from voicebus.cli.testing import Stack, running


@pytest.fixture(scope="package")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    key = tmp_path_factory.mktemp("provider") / "key"
    key.write_text("any-key-will-do")
    key.chmod(0o600)
    wish = Wish(
        provider_url=f"ws://127.0.0.1:{PORT}/v1/realtime",
        provider_key_file=key,
        tools=(str(DEMO_TOOLS),),
        settings={"VOICEBUS_SESSION_MAX_SESSIONS": "20"},
    )
    with running(wish) as one:
        yield one
