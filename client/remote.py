"""A Voicebus elsewhere: its relay's three ports, and the keys that open them."""

import tomllib
from pathlib import Path

from voicebus.bus.endpoints import Endpoints
from voicebus.bus.sockets import Keys
from voicebus.client.errors import ClientError


class Elsewhere(Endpoints):
    """The addresses of a relay: the same for every shard."""

    def __init__(self, host: str, port: int = 5570) -> None:
        self.run_dir = Path()
        self._at = f"tcp://{host}"
        self._port = port

    def shards(self) -> tuple[int, ...]:
        """The relay finds the one for a new session."""
        return (0,)

    def commands(self, shard: int) -> str:
        """The relay passes commands on to the session's process."""
        return f"{self._at}:{self._port + 1}"

    def events(self, shard: int) -> str:
        """All that is published comes here."""
        return f"{self._at}:{self._port}"


def read_keys(path: str | Path) -> Keys:
    """The file that `voicebus keys add` made for this program. Raises ClientError."""
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
        return Keys(str(table["server"]), str(table["public"]), str(table["secret"]))
    except FileNotFoundError:
        raise ClientError(
            f"there is no key file {path}: `voicebus keys add NAME` makes one, as issued/NAME.toml"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError) as error:
        raise ClientError(f"{path} is no key file of `voicebus keys add`: {error}") from None
