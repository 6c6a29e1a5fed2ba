"""`voicebus audit`: prove from the journal that nothing was lost, repeated or run twice."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from voicebus.cli import journals
from voicebus.cli.journals import DataDir
from voicebus.cli.options import AsJson, RunDir
from voicebus.client import audit as rules
from voicebus.services.session.archive import Archive, Kept
from voicebus.services.session.refold import refold


def audit(
    session: Annotated[
        str | None, typer.Argument(metavar="[SESSION]", help="Only this one. Default: all.")
    ] = None,
    run_dir: RunDir = None,
    data: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check each conversation of the journal: numbers without gaps, one outcome per call, one
    output or deleted item per call, nothing run twice. Works beside a running Voicebus, and on
    copies.

    Exit code 0 when all of it holds, 1 with each fault on a line.
    """
    if session is None:
        paths = journals.files(run_dir, data)
    else:
        paths = [journals.of_session(session, run_dir, data)]
    reports = [one for path in paths for one in _of(path, session)]
    if as_json:
        print(json.dumps(reports, indent=2))
    else:
        _show(reports)
    if any(one["faults"] for one in reports):
        raise typer.Exit(1)


def _of(path: Path, session: str | None) -> list[dict[str, Any]]:
    with journals.opened(path) as archive:
        return [examine(archive, kept) for kept in archive.sessions(session)]


def examine(archive: Archive, kept: Kept) -> dict[str, Any]:
    """What there is of a conversation, and what is wrong with it."""
    events = archive.events(kept.session_id)
    # A running session process may have written more since the list was read.
    events = [one for one in events if one["seq"] <= kept.seq]
    folded = refold(kept.session_id, archive.inputs(kept.session_id))
    faults = rules.conversation(events, is_over=kept.ended_us is not None)
    if len(events) != kept.seq:
        faults.append(f"its ledger counts {kept.seq} events, {len(events)} are there")
    if folded.is_whole and folded.failure is None:
        faults += rules.tools(folded.submitted, folded.outputs, folded.deleted, folded.dangling)
    return {
        "session_id": kept.session_id,
        "is_over": kept.ended_us is not None,
        "events": len(events),
        "inputs": folded.inputs,
        "calls": sum(one["kind"] in rules.ENDS for one in events),
        "lives": len({one["inc"] for one in events}),
        "faults": faults,
    }


def _show(reports: list[dict[str, Any]]) -> None:
    for one in reports:
        verdict = "OK" if not one["faults"] else f"{len(one['faults'])} FAULTS"
        print(
            f"{one['session_id']}  {'ended' if one['is_over'] else 'open ':<5}  "
            f"{one['events']:>6} events  {one['calls']:>4} calls  {verdict}"
        )
        for fault in one["faults"]:
            print(f"    {fault}")
    faults = sum(len(one["faults"]) for one in reports)
    print(
        f"{len(reports)} conversations, {sum(one['events'] for one in reports)} events, "
        f"{sum(one['calls'] for one in reports)} outcomes of calls: "
        + ("nothing lost, nothing repeated" if not faults else f"{faults} faults")
    )
