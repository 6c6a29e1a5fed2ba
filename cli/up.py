"""`voicebus up`: start all processes and return when each is ready."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from voicebus.cli import stack
from voicebus.cli.options import RunDir
from voicebus.cli.plan import Wish


def up(
    run_dir: RunDir = None,
    provider_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where to dial the provider: wss://… (the model is added)."
        ),
    ] = None,
    provider_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The provider's key. Default: OPENAI_API_KEY."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="For sessions that name none. Default: gpt-realtime."),
    ] = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE_OR_FILE[:NAME]",
            help="Your tools; may be repeated. Default: those of examples/tools/demo.py.",
        ),
    ] = None,
    simulator: Annotated[
        bool | None,
        typer.Option(
            "--simulator/--no-simulator",
            help="Start the offline provider. Default: only if there is neither URL nor key.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for all to be ready.")
    ] = stack.READY_S,
) -> None:
    """Start all processes; return when each of them is ready. They stay until `voicebus down`."""
    wish = Wish(
        run_dir=run_dir,
        provider_url=provider_url,
        provider_key_file=provider_key_file,
        model=model,
        tools=tuple(tools or ()),
        simulator=simulator,
    )
    started = stack.start(wish, _tell, within_s=timeout)
    names = ", ".join(one.name for one in started.processes)
    where = "" if run_dir is None else f" --run-dir {run_dir}"
    print(f"Voicebus is ready: {names}")
    print(f"  run folder  {started.run_dir}")
    print(f"  provider    {started.provider}")
    if started.page is not None:
        print(f"  page        {started.page}")
    print(f'  next        voicebus talk{where} --text "What time is it?"')
    print(f"  stop        voicebus down{where}")


def _tell(text: str) -> None:
    # Whoever does not listen to the progress any more does not want it to stop.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
