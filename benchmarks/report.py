"""What people read: tables as text, all of it as JSON, and a picture."""

import importlib.util
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voicebus.benchmarks.figures import Result, Table


def text(table: Table) -> str:
    """A table as Markdown, aligned, so that it can stand in a page as it is."""
    rows = [tuple(table.columns), *(tuple(map(_cell, row)) for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    lines = [_line(rows[0], widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    lines += [_line(row, widths) for row in rows[1:]]
    parts = [f"### {table.title}", "", *lines]
    return "\n".join([*parts, "", table.note, ""] if table.note else [*parts, ""])


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    return (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
    )


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "none"
    digits = 4 if abs(value) < 0.1 else 2 if abs(value) < 100 else 0
    return f"{value:.{digits}f}" if value else "0"


def noise(figures: Mapping[str, list[float]]) -> Table:
    """How far the same measurement was from itself when it was repeated."""
    table = Table(
        "Noise: the same measurement twice",
        ("figure", "runs", "larger / smaller"),
        note="The widest ratio between repetitions, for the medians that goals rest on.",
    )
    for name, values in figures.items():
        if len(values) > 1 and name.endswith(".p50") and min(values) > 0:
            table.add(name, ", ".join(map(_cell, values)), max(values) / min(values))
    return table


def save(
    folder: Path, machine: Mapping[str, Any], results: Mapping[str, Result], goals: Table | None
) -> Path:
    """`<folder>/run.json`, `run.md` and, where matplotlib is installed, `run.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {name: value for one in results.values() for name, value in one.figures.items()}
    tables = [table for one in results.values() for table in one.tables]
    body = {
        "machine": dict(machine),
        "figures": figures,
        "tables": [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in tables],
        "goals": None
        if goals is None
        else [dict(zip(goals.columns, row, strict=True)) for row in goals.rows],
    }
    path = folder / "run.json"
    path.write_text(json.dumps(body, indent=1, default=str) + "\n")
    head = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    pages = [text(table) for table in ([*tables, noise(figures)] + ([goals] if goals else []))]
    (folder / "run.md").write_text("\n".join([head, "", *pages]))
    if importlib.util.find_spec("matplotlib") is not None:
        draw(folder / "run.png", figures)
    return path


def main(picture: str, *runs: str) -> None:
    """One picture of several runs; a figure that two have is the later one's."""
    figures: dict[str, list[float]] = {}
    for run in runs:
        figures |= json.loads(Path(run).read_text("utf-8"))["figures"]
    draw(Path(picture), figures)


def draw(path: Path, figures: Mapping[str, list[float]]) -> None:
    """Two pictures side by side: stalls by client and tool, ages and CPU by sessions."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra; everything else works without

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    stalls: dict[str, dict[str, float]] = {}
    for name, values in figures.items():
        parts = name.split(".")
        if parts[0] == "stall" and parts[-1] == "p99":
            stalls.setdefault(parts[1], {})[parts[2]] = max(values)
    clients, cases = (
        list(stalls),
        list(dict.fromkeys(case for one in stalls.values() for case in one)),
    )
    heard = [age for one in stalls.values() for age in one.values() if not math.isnan(age)]
    for number, client in enumerate(clients):
        width = 0.8 / len(clients)
        for index, case in enumerate(cases):
            age = stalls[client].get(case, 0.0)
            silent = math.isnan(age)
            left.bar(
                index + number * width - 0.4 + width / 2,
                max(heard, default=1.0) if silent else age,
                width,
                label=client if index == 0 else None,
                color=f"C{number}",
                alpha=0.4 if silent else 1.0,
                hatch="xx" if silent else None,
            )
    left.set_yscale("log")
    left.set_xticks(range(len(cases)), cases, rotation=15)
    left.set_ylabel("age of sound, p99, ms")
    left.set_title("While a tool runs (hatched: nothing was heard at all)")
    if clients:
        left.axhline(20, linewidth=0.8, linestyle=":", color="gray")
        left.legend(fontsize=8)
    sizes = sorted(
        int(name.split(".")[1])
        for name in figures
        if name.startswith("capacity.") and name.endswith(".core")
    )
    if sizes:
        right.plot(
            sizes,
            [max(figures[f"capacity.{n}.p99"]) for n in sizes],
            "o-",
            label="sound out, p99 ms",
        )
        right.plot(
            sizes,
            [max(figures[f"capacity.{n}.in.p99"]) for n in sizes],
            "s-",
            label="sound in, p99 ms",
        )
        right.set_xlabel("full-duplex sessions")
        right.set_ylabel("age, ms")
        right.set_ylim(bottom=0)
        cpu = right.twinx()
        cpu.plot(
            sizes,
            [max(figures[f"capacity.{n}.core"]) * n for n in sizes],
            "^--",
            color="gray",
            label="cores",
        )
        cpu.set_ylabel("cores, transport and session")
        cpu.set_ylim(bottom=0)
        right.legend(loc="upper left", fontsize=8)
    right.set_title("Capacity")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
