"""`voicebus endpoints`: the address of each socket."""

import json

from voicebus.cli import folders
from voicebus.cli.options import AsJson, RunDir


def endpoints(run_dir: RunDir = None, as_json: AsJson = False) -> None:
    """Print the name and the address of each socket, whether or not anybody listens there."""
    addresses = folders.endpoints(run_dir).every()
    if as_json:
        print(json.dumps(addresses, indent=2))
        return
    width = max(map(len, addresses))
    for name, address in addresses.items():
        print(f"{name:<{width}}  {address}")
