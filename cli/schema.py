"""`voicebus schema`: the protocol as JSON Schema and AsyncAPI, as a session process serves it."""

import asyncio
import json
from typing import Annotated, Any

import typer

from voicebus.bus.endpoints import Endpoints
from voicebus.cli import folders
from voicebus.cli.conversation import client_of
from voicebus.cli.options import RunDir


def schema(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Such as events.json; without it, what there is."),
    ] = None,
    run_dir: RunDir = None,
) -> None:
    """Print one schema, or the names of all of them."""
    found = asyncio.run(_ask(folders.endpoints(run_dir), name))
    if name is None:
        print("\n".join(found["names"]))
    else:
        print(json.dumps(found["schema"], indent=2, ensure_ascii=False))


async def _ask(endpoints: Endpoints, name: str | None) -> dict[str, Any]:
    async with client_of(endpoints) as client:
        return await client.schema(name)
