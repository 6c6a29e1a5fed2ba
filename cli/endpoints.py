"""`voicebus endpoints`: the address of each socket."""

import json

from voicebus.cli import folders
from voicebus.cli.options import AsJson, RunDir
from voicebus.config import loader
from voicebus.config.settings import CellSettings, RelaySettings


def endpoints(run_dir: RunDir = None, as_json: AsJson = False) -> None:
    """Print the name and the address of each socket, whether or not anybody listens there."""
    where = folders.endpoints(run_dir)
    cell, _ = loader.load(CellSettings, loader.current_environment(), {})
    shards = max(cell.shards, len(where.shards()))
    transports = max(cell.transports, len(where.transports()))
    addresses = where.every(shards, transports) | _elsewhere()
    if as_json:
        print(json.dumps(addresses, indent=2))
        return
    width = max(map(len, addresses))
    for name, address in addresses.items():
        print(f"{name:<{width}}  {address}")


def _elsewhere() -> dict[str, str]:
    """The relay's doors, if the settings open them."""
    _, relay = loader.load(RelaySettings, loader.current_environment(), {})
    if not relay.bind:
        return {}
    host = relay.public_host or relay.bind
    doors = ("relay.events", "relay.commands", "relay.audio-in")
    return {name: f"tcp://{host}:{relay.port + at}" for at, name in enumerate(doors)}
