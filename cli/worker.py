"""`voicebus worker check`: try whether a worker, in whatever language, keeps the protocol."""

import asyncio
import json
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from voicebus.bus import testing
from voicebus.bus.endpoints import Endpoints
from voicebus.cli.options import AsJson
from voicebus.cli.problems import Problem
from voicebus.services.tools.conformance import kit
from voicebus.services.tools.conformance.checks import CHECKS, Sample, Samples


class Deed(StrEnum):
    """What can be done with a worker."""

    CHECK = "check"


_MARKS = {"kept": "ok      ", "broken": "BROKEN  ", "not tried": "not tried"}


def worker(
    deed: Annotated[Deed, typer.Argument(metavar="check", help="The only deed there is.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="ENDPOINT_OR_COMMAND",
            help="ipc://… or tcp://…, where the worker will connect; or the command that starts "
            "it, in quotes, with {run} where the run folder goes.",
        ),
    ],
    quick: Annotated[
        str | None,
        typer.Option(metavar="TOOL=JSON", help="A call that ends 'ok' within two seconds."),
    ] = None,
    slow: Annotated[
        str | None,
        typer.Option(metavar="TOOL=JSON", help="A call that runs for ten seconds or more."),
    ] = None,
    large: Annotated[
        str | None,
        typer.Option(metavar="TOOL=JSON", help="A call that would return more than 1 MiB."),
    ] = None,
    crash: Annotated[
        str | None,
        typer.Option(metavar="TOOL=JSON", help="A call that goes wrong in the tool's own code."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Only this rule; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Be the dispatcher for one worker and try every rule of docs/workers.md."""
    samples = Samples(
        quick=_sample("quick", quick),
        slow=_sample("slow", slow),
        large=_sample("large", large),
        crash=_sample("crash", crash),
    )

    unknown = sorted({*(only or ())} - {one.__name__ for one in CHECKS})
    if unknown:
        rules = ", ".join(one.__name__ for one in CHECKS)
        raise Problem(f"there is no rule {', '.join(unknown)}; the rules are: {rules}")

    def tell(finding: kit.Finding) -> None:
        if not as_json:
            why = f"\n          {finding.why}" if finding.why else ""
            print(f"{_MARKS[finding.verdict]} {finding.rule}: {finding.says}{why}", flush=True)

    findings = _check(target, samples, tell, only or ())
    if as_json:
        print(msgspec.json.encode(findings).decode())
    broken = [one.rule for one in findings if one.verdict == "broken"]
    if broken:
        raise Problem(f"{len(broken)} of {len(findings)} rules are broken: {', '.join(broken)}")
    untried = sum(one.verdict == "not tried" for one in findings)
    if not as_json:
        left = f"; {untried} were not tried" if untried else ""
        print(f"{len(findings) - untried} rules are kept{left}")


def _check(
    target: str, samples: Samples, tell: Callable[[kit.Finding], None], only: Collection[str]
) -> list[kit.Finding]:
    if target.startswith(("ipc://", "tcp://")):
        return asyncio.run(kit.check(target, samples, tell=tell, only=only))
    with testing.run_folder() as folder:
        command = target.replace("{run}", str(folder))
        if command == target:
            command = f"{target} {folder}"
        try:
            return asyncio.run(
                kit.check(Endpoints(folder).workers, samples, command, tell=tell, only=only)
            )
        except FileNotFoundError as error:
            raise Problem(
                f"cannot start the worker: there is no program {error.filename}"
            ) from None


def _sample(option: str, text: str | None) -> Sample | None:
    if text is None:
        return None
    tool, equals, args = text.partition("=")
    try:
        found = json.loads(args) if equals else None
    except ValueError as error:
        raise Problem(f"--{option} {text!r}: what follows the = is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(f"--{option} {text!r}: expected TOOL={{…}}, a name and a JSON object")
    return Sample(tool, found)
