"""`voicebus bench`: what this machine can do. The benchmarks run as a program of their own."""

import os
import sys
from typing import Annotated

import typer


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]…",
            help="capacity (the default), all, or: floor stall latency interrupt tools recovery "
            "startup growth listeners chaos transports peers.",
        ),
    ] = None,
    sessions: Annotated[
        int | None,
        typer.Option(metavar="N", help="The most sessions to try. Default: until p99 > 20 ms."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A second of each: to see whether they work.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where JSON, tables and picture go."),
    ] = None,
) -> None:
    """Measure this machine against a loopback provider: sessions, ages of sound, CPU, memory."""
    chosen = [] if names == ["all"] else (names or ["capacity"])
    command = [sys.executable, "-P", "-m", "voicebus.benchmarks", *chosen]
    command += ["--sessions", str(sessions)] if sessions is not None else []
    command += ["--quick"] if quick else []
    command += ["--out", out] if out is not None else []
    sys.stdout.flush()
    os.execv(sys.executable, command)
