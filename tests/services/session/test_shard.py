"""The shard's end: what comes after it is left to the next process."""

from tests.end_to_end.support import Line
from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Sockets
from voicebus.config.settings import CellSettings, SessionSettings
from voicebus.services.runtime import Runtime
from voicebus.services.session.core import inputs
from voicebus.services.session.shard import Shard


async def test_what_comes_after_the_last_snapshot_is_not_decided() -> None:
    with testing.run_folder() as run, Sockets() as sockets:
        (run / "data").mkdir()
        cell = CellSettings(run=str(run), data=str(run / "data"))
        runtime = Runtime("session", 0, cell, SessionSettings(), Endpoints(run))
        with runtime.sockets:
            shard = Shard(runtime)
            shard.begin()
            await Line(runtime.endpoints, sockets).ask("open", {"config": {}})
            (conversation,) = shard.conversations.values()
            await shard.stop()
            before = conversation.state

            shard.feed(conversation, inputs.TimePassed(now_us=shard.now_us() + 3_600_000_000))

            assert conversation.state == before
