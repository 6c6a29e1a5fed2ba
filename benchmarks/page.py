"""`python -P -m voicebus.benchmarks.page OLD NEW`: docs/benchmarks.md with another run's tables.

OLD and NEW are folders with a `run.md`: the run that the page shows, and the one it is to show. A
table that is new stands after the one it follows in the run. The text around the tables stays: it
names figures, which are to be read again.
"""

import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def sections(run: str) -> dict[str, str]:
    """The tables of a run by title, each with its note; what the machine is under ""."""
    machine, *tables = run.split("\n### ")
    found = {"": machine.strip()}
    for table in tables:
        title, _, _ = table.partition("\n")
        found[title] = f"### {table.strip()}"
    return found


def shown(page: str, old: str, new: str) -> str:
    """The page with the new run's tables. Raises ValueError for one that it does not show."""
    before = sections(old)
    last = ""
    for title, table in sections(new).items():
        former = before.get(title)
        if former is None:
            page = page.replace(last, f"{last}\n\n{table}", 1)
        elif former in page:
            page = page.replace(former, table, 1)
        else:
            raise ValueError(f"the page does not show {title or 'the machine'!r} of the old run")
        last = table
    return page


def main(old: str, new: str) -> None:
    """Write the page."""
    runs = [(Path(folder) / "run.md").read_text("utf-8") for folder in (old, new)]
    PAGE.write_text(shown(PAGE.read_text("utf-8"), *runs), "utf-8")
    print(f"{PAGE}: read the figures in its text again, and draw the picture anew (see the page)")


if __name__ == "__main__":
    main(*sys.argv[1:])
