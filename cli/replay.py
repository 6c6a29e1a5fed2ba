"""`voicebus replay`: decide a recorded conversation again, and show what would be different."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from voicebus.cli import journals
from voicebus.cli.journals import DataDir
from voicebus.cli.options import RunDir
from voicebus.cli.problems import Problem
from voicebus.services.session.archive import Archive, Kept
from voicebus.services.session.refold import Refolded, is_decided, refold

COMPARED = ("kind", "epoch", "cause", "at_us", "data")
AROUND = 3
"""Events shown before and after a difference."""


def replay(
    what: Annotated[
        str, typer.Argument(metavar="FILE|SESSION", help="A journal file, or a session's id.")
    ],
    session: Annotated[
        str | None, typer.Argument(metavar="[SESSION]", help="Which one of the FILE. Default: all.")
    ] = None,
    run_dir: RunDir = None,
    data: DataDir = None,
    events: Annotated[
        bool, typer.Option("--events", help="Print the events decided today.")
    ] = False,
) -> None:
    """Feed the recorded inputs of a conversation to the code of today, with their recorded times,
    and compare the events that it decides with those that were published.

    Exit code 0 when they are the same, 1 with the difference as a diff otherwise. Nothing is
    dialled, sent or written; a FILE may come from another machine (copy session-0.db together with
    session-0.db-wal, or stop Voicebus before).
    """
    path = Path(what)
    if path.exists():
        chosen = session
    elif "/" in what or what.endswith(".db"):
        raise Problem(f"there is no file {what}")
    else:
        path, chosen = journals.of_session(what, run_dir, data), what
    with journals.opened(path) as archive:
        found = archive.sessions(chosen)
        if not found:
            raise Problem(f"{path} holds no conversation" + (f" {chosen}" if chosen else ""))
        same = [_one(archive, kept, with_events=events) for kept in found]
    if not all(same):
        raise typer.Exit(1)


def _one(archive: Archive, kept: Kept, *, with_events: bool) -> bool:
    published = [one for one in archive.events(kept.session_id) if one["seq"] <= kept.seq]
    recorded = [one for one in published if is_decided(one)]
    folded = refold(kept.session_id, archive.inputs(kept.session_id))
    if with_events:
        for event in folded.events:
            print(json.dumps(event, ensure_ascii=False))
    if not folded.is_whole:
        print(f"{kept.session_id}: not all of its inputs are kept; it cannot be replayed")
        return False
    difference = list(differences(recorded, folded))
    verdict = "the same" if not difference else "DIFFERENT"
    print(
        f"{kept.session_id}: {folded.inputs} inputs, {len(recorded)} events were decided, "
        f"{len(folded.events)} are decided today: {verdict}"
    )
    for line in difference:
        print(f"  {line}")
    return not difference


def differences(recorded: list[dict[str, Any]], folded: Refolded) -> Iterator[str]:
    """Lines of a diff: `-` was published, `+` is decided today, each with the input behind it."""
    before = [_line(one) for one in recorded]
    after = [_line(one) for one in folded.events]
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for group in matcher.get_grouped_opcodes(AROUND):
        first = group[0][1]
        yield f"@@ from event {first + 1} @@"
        for tag, a, b, c, d in group:
            if tag == "equal":
                yield from (f"  {line}" for line in before[a:b])
                continue
            yield from (f"- {line}" for line in before[a:b])
            for n in range(c, d):
                yield f"+ {after[n]}"
                yield f"    ({folded.by_input[n]})"
    if folded.failure is not None:
        yield f"! {folded.failure}"


def _line(event: dict[str, Any]) -> str:
    body = {name: event.get(name) for name in COMPARED if name != "kind"}
    return f"{event['kind']} {json.dumps(body, sort_keys=True, ensure_ascii=False)}"
