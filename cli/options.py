"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        metavar="DIR",
        help="The run folder: sockets, locks, logs. Default: VOICEBUS_RUN, else var/run.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON on standard output.")]
